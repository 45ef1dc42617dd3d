"""`enforce` starts alike from every kind of installation: from the first start on it compiles nothing, and reads no source."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from installations import install

from callfence.tracer.abi import NATIVE

NOBODY = 65534
AUDIT = """
import os, sys
place = os.environ.get("STARTED")
if place:
    descriptor = os.open(place, os.O_WRONLY | os.O_APPEND)
    def note(event, arguments):
        if event == "compile" and arguments[0] is not None or event == "open" and str(arguments[0]).endswith((".py", ".pyc")):
            try:
                os.write(descriptor, f"{event} {arguments[0 if event == 'open' else 1]}\\n".encode())
            except OSError:
                pass  # the helper has closed it
    sys.addaudithook(note)
"""
POLICY = f"callfence 1\narch {NATIVE}\ntable 6.18\ndefault errno EACCES\nimplied 1\nopenat: flags == O_RDONLY\nmmap: allow\n"


@pytest.fixture(scope="module")
def installed() -> Iterator[Path]:
    """What pip leaves: packages with their compiled modules in a virtual environment, and the script; any user may read it."""
    folder = Path(tempfile.mkdtemp(prefix="installed-"))
    folder.chmod(0o755)
    install(folder / "venv")
    (site,) = (folder / "venv/lib").glob("python3*/site-packages")
    (site / "audited.py").write_text(AUDIT)
    (site / "audited.pth").write_text("import audited\n")
    (folder / "true.policy").write_text(POLICY)
    yield folder
    for path in [folder, *folder.rglob("*")]:
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o755)
    shutil.rmtree(folder)


def started(folder: Path, home: Path, user: int) -> tuple[list[str], list[str]]:
    """What the first start that finds its filter compiles, and the files of ours that it opens."""
    home.mkdir(mode=0o755)
    (home / "log").touch()
    for path in (home, home / "log"):
        os.chown(path, user, -1)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "XDG"))}
    environment |= {"HOME": str(home), "STARTED": ""}
    command = [folder / "venv/bin/enforce", "-p", folder / "true.policy", "true"]
    for _ in range(2):
        (home / "log").write_text("")
        done = subprocess.run(
            command, env=environment, cwd=home, user=user, capture_output=True, text=True, timeout=60, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")
        environment["STARTED"] = str(home / "log")
    lines = (home / "log").read_text().splitlines()
    environment["STARTED"] = ""
    for _ in range(2):  # the second one finds its filter, and has not imported what describes a call
        denied = subprocess.run(
            [*command[:-1], "mkdir", "made"], env=environment, cwd=home, user=user, capture_output=True, text=True,
            timeout=60, check=False,
        )  # fmt: skip
        assert denied.returncode == 1
        assert "enforce: denied mkdir(pathname=\"made\", mode=0777): it fails with EACCES" in denied.stderr
    return [line for line in lines if line.startswith("compile /")], [line for line in lines if line.startswith("open")]


KINDS = {
    "the owner's": (os.getuid(), True),
    "read-only": (os.getuid(), False),
    "root's, used by another user": (NOBODY, True),
    "root's, read-only, used by another user": (NOBODY, False),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_start_compiles_nothing(installed: Path, tmp_path: Path, kind: str) -> None:
    user, is_writable = KINDS[kind]
    if user != os.getuid() and os.getuid() != 0:
        pytest.skip("needs root: it is another user's")
    folders = [path for path in (installed, *installed.rglob("*")) if path.is_dir() and not path.is_symlink()]
    for path in folders:
        path.chmod(0o755 if is_writable else 0o555)
    home = Path(tempfile.mkdtemp(prefix="home-"))
    home.chmod(0o755)
    try:
        compiled, opened = started(installed, home / "user", user)
    finally:
        shutil.rmtree(home)
    assert compiled == []
    assert [line for line in opened if line.endswith(".py")] == []
    assert 20 < len([line for line in opened if "/site-packages/" in line]) < 40, "modules of ours that a start opens"
