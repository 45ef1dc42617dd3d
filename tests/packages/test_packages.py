"""What a release has: its files, built twice, installed and used."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from installations import copy_needed
from needed import needs, needs_root, require

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "tools" / "packaging" / "build.sh"
MOST = 1_500_000
"""Bytes of a wheel at most."""
DEBIAN = ("dpkg-dev", "debhelper", "dh-python", "pybuild-plugin-pyproject", "python3-all", "python3-hatchling")


def build(folder: Path) -> Path:
    done = subprocess.run([BUILD, folder], env=_environment(folder), capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def _environment(folder: Path) -> dict[str, str]:
    path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    return {"PATH": path, "HOME": str(folder), "LC_ALL": "C.UTF-8", "PYTHON": sys.executable}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    require(*DEBIAN)
    return build(tmp_path_factory.mktemp("built"))


def one(folder: Path, pattern: str) -> Path:
    (path,) = folder.glob(pattern)
    return path


def test_two_builds_are_equal(built: Path, tmp_path: Path) -> None:
    again = build(tmp_path / "again")
    for pattern in ("*.whl", "*.tar.gz", "*.pyz", "*.deb", "sbom.json"):
        assert one(built, pattern).read_bytes() == one(again, pattern).read_bytes(), pattern


def test_the_wheel_has_one_name_and_what_belongs_beside_it(built: Path) -> None:
    wheel = one(built, "*.whl")
    assert wheel.stat().st_size < MOST
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {name.split("/")[0] for name in names if not re.match(r"callfence-[\w.]+(data|dist-info)/", name)} == {"callfence"}
    data = {name.partition(".data/data/share/")[2] for name in names} - {""}
    shells = {"bash": "bash-completion/completions", "zsh": "zsh/site-functions", "fish": "fish/vendor_completions.d"}
    expected = {f"{shells[path.parent.name]}/{path.name}" for path in (ROOT / "completions").glob("*/*")}
    assert data == expected | {f"man/{path.parent.name}/{path.name}" for path in (ROOT / "man").glob("*/*")}
    scripts = {name.partition(".data/scripts/")[2] for name in names} - {""}
    assert scripts == {path.name for path in (ROOT / "callfence" / "bin").iterdir()}
    for folder in ("tracer", "policygen", "enforcer"):
        assert {f"callfence/{path.relative_to(ROOT)}" for path in (ROOT / folder).rglob("*.py")} <= names
    assert "callfence/policygen/implied/implied1.tsv" in names


def test_the_sdist_makes_the_same_wheel(built: Path, tmp_path: Path) -> None:
    with tarfile.open(one(built, "*.tar.gz")) as archive:
        archive.extractall(tmp_path, filter="data")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, one(tmp_path, "callfence-*")]
    subprocess.run(command, capture_output=True, timeout=120, check=True)
    assert zipfile.ZipFile(one(tmp_path, "*.whl")).namelist() == zipfile.ZipFile(one(built, "*.whl")).namelist()


def test_the_bill_of_materials_has_what_is_needed(built: Path) -> None:
    bill = json.loads((built / "sbom.json").read_text())
    assert bill["bomFormat"] == "CycloneDX"
    assert {part["name"] for part in bill["components"]} >= {"callfence", "python-ptrace", "pyseccomp", "rich"}
    assert str(built) not in json.dumps(bill)


@pytest.fixture(scope="module")
def installed(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the wheel and, beside it, another `tracer`, as PyPI has one."""
    folder = tmp_path_factory.mktemp("installed") / "venv"
    subprocess.run([sys.executable, "-m", "venv", folder], check=True, timeout=120)
    (site,) = (folder / "lib").glob("python3*/site-packages")
    pip = [folder / "bin" / "python", "-m", "pip", "install", "-q", "--no-index", "--no-deps", one(built, "*.whl")]
    subprocess.run(pip, check=True, timeout=120)
    copy_needed(site)
    for name in ("tracer", "policygen", "enforcer"):
        (site / name).mkdir()
        (site / name / "__init__.py").write_text("WHO = 'somebody else'\n")
    return folder


def learned_and_enforced(folder: Path, learn: list[str | Path], enforce: list[str | Path], home: Path) -> None:
    """Learn a program, run it under its policy, and be denied what it did not do."""
    settings = {"cwd": folder, "env": _environment(home), "capture_output": True, "text": True, "timeout": 120}
    done = subprocess.run([*learn, "-q", "-o", "cat.policy", "--", "cat", "/etc/hostname"], check=False, **settings)  # type: ignore[call-overload]
    assert done.returncode == 0, done.stderr
    done = subprocess.run([*enforce, "-p", "cat.policy", "cat", "/etc/hostname"], check=False, **settings)  # type: ignore[call-overload]
    assert (done.returncode, done.stderr) == (0, "")
    done = subprocess.run([*enforce, "-p", "cat.policy", "mkdir", "denied"], check=False, **settings)  # type: ignore[call-overload]
    assert done.returncode != 0
    assert "enforce: denied" in done.stderr
    assert not (folder / "denied").exists()


def test_it_runs_beside_another_tracer(installed: Path, tmp_path: Path) -> None:
    learned_and_enforced(tmp_path, [installed / "bin/learn"], [installed / "bin/enforce"], tmp_path)
    code = "import tracer, callfence.tracer.abi; print(tracer.WHO, callfence.tracer.abi.NATIVE)"
    done = subprocess.run([installed / "bin/python", "-I", "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.startswith("somebody else ")


def test_the_zipapp_runs(built: Path, tmp_path: Path) -> None:
    """By the system's Python, which has none of the packages that callfence needs."""
    app = one(built, "*.pyz")
    words: list[str | Path] = ["/usr/bin/python3", "-S", app]
    learned_and_enforced(tmp_path, [*words, "learn"], [*words, "enforce"], tmp_path)


@needs("lintian")
def test_lintian_says_nothing(built: Path) -> None:
    command = ["lintian", "--allow-root", "--fail-on", "info,warning", "--display-info", one(built, "*.changes")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_commands_of_the_debian_package_take_no_code_from_the_users_home(built: Path, tmp_path: Path) -> None:
    """A file with the suffix .pth there could be run by the command's own Python."""
    subprocess.run(["dpkg-deb", "-x", one(built, "*.deb"), tmp_path], check=True, timeout=60)
    first = {path.name: path.read_text().splitlines()[0] for path in (tmp_path / "usr/bin").iterdir()}
    assert first == dict.fromkeys(("callfence", "callfence-sh", "enforce", "learn"), "#! /usr/bin/python3 -I")


@needs("mmdebstrap", "autopkgtest")
@needs_root
def test_the_debian_package_leaves_nothing_in_a_bare_system(built: Path) -> None:
    """Installed, used and uninstalled there, and tried by autopkgtest; `make packages` tries the others, and other releases."""
    command = [sys.executable, ROOT / "tools/packaging/check.py", built, "--suite", "trixie"]
    command += ["--only", "Debian package", "--only", "autopkgtest"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1200, check=False)
    assert done.returncode == 0, done.stderr
    *_, package, tests = done.stdout.splitlines()
    assert package.endswith("| nothing |")
    assert tests.startswith("| trixie | autopkgtest |")
