"""Filters that are kept: only what this user's callfence, or root's, has compiled counts, and what does not fit is named."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from calls import for_this_machine

from callfence.enforcer.errors import EnforceError
from callfence.enforcing import cache
from callfence.enforcing.compile import misfit
from callfence.enforcing.filters import VARIANTS, compiled
from callfence.enforcing.sealed import Compiled, bundle, seal, unbundle, unseal
from callfence.policygen.filter import bpf
from callfence.policygen.filter.bpf import Instruction
from callfence.policygen.filter.compile import CompileError
from callfence.policygen.filter.libseccomp import LibseccompError

ROOT = Path(__file__).parents[3]
EVERYTHING = bpf.encode([Instruction(bpf.RET | bpf.K, k=0x7FFF0000)])
"""The filter that allows every call."""
MKDIR = ("mkdir", "made")
FACTS = ("expects_listener", "is_settled", "may_listen", "names_processes", "own_filters")
has_keyring = pytest.mark.skipif(not cache.secret(), reason="the kernel, or a container's filter, has no keyrings")


class Work:
    """A folder with mkdir.policy, under which mkdir fails, and a cache of its own."""

    def __init__(self, folder: Path, packages: Path = ROOT) -> None:
        self.folder = folder
        self.policy = folder / "mkdir.policy"
        self.policy.write_text(for_this_machine("default allow\nmkdir: errno EPERM\n"))
        cleared = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        self.environment = cleared | {"XDG_CACHE_HOME": str(folder / "cache"), "PYTHONPATH": str(packages)}

    def run(self, *words: str | Path, under: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
        command = [*under, sys.executable, "-X", "importtime", "-m", "callfence", *words]
        return subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=120, check=False
        )

    def enforce(self, *options: str | Path, compiles: bool) -> None:
        """mkdir is confined, and its policy is compiled for that or not."""
        done = self.run("enforce", "--quiet-kernel", *options, *MKDIR)
        assert "Operation not permitted" in done.stderr, done.stderr
        assert not (self.folder / "made").exists()
        assert ("callfence.policygen.filter.compile" in done.stderr) == compiles

    def cached(self) -> list[Path]:
        return sorted((self.folder / "cache" / "callfence").glob("*"))

    def forge(self, secret: bytes) -> Path:
        """Replace what is kept by a filter that allows everything."""
        (file,) = self.cached()
        made_by, old = unseal(file.read_bytes(), cache.secret())
        facts = {name: getattr(old, name) for name in FACTS}
        forged = Compiled(EVERYTHING, old.arm, old.sources, variant=old.variant, scope=old.scope, **facts)
        file.write_bytes(seal(forged, made_by, secret))
        return file


@pytest.fixture
def work(tmp_path: Path) -> Work:
    return Work(tmp_path)


@has_keyring
def test_what_another_program_has_written_is_not_used(work: Work) -> None:
    """It knows all but the secret."""
    work.enforce(compiles=True)
    work.enforce(compiles=False)
    file = work.forge(b"")
    told = work.run("verify", "--cached")
    assert f"{file} of ?: not used: the file is damaged, or callfence has not written it for this user" in told.stdout
    work.enforce(compiles=True)
    work.enforce(compiles=False)


NO_WRITING = "implied 1\ntcp connect example.org: 443\nread: allow\nconnect: allow\n"
"""A policy for which the helper makes calls, and by which no file can be changed."""


@pytest.mark.parametrize(
    ("fact", "text"),
    [
        *((fact, NO_WRITING) for fact in ("expects_listener", "may_listen", "names_processes", "own_filters")),
        ("changes_files", NO_WRITING),
        ("changes_files", NO_WRITING + "rename: allow\n"),
        ("changes_files", "read: allow\n"),  # True where the helper makes no calls
        ("phases_optional", NO_WRITING),
    ],
)
def test_what_the_helper_relies_on_is_compared_with_the_policy(tmp_path: Path, fact: str, text: str) -> None:
    (tmp_path / "it.policy").write_text(for_this_machine(text))
    filter_ = compiled(str(tmp_path / "it.policy"), "report", cached=False)
    assert misfit(filter_) == ""
    setattr(filter_, fact, not getattr(filter_, fact))
    assert misfit(filter_)


@pytest.mark.parametrize(
    ("error", "is_filtered", "is_advised"),
    [(LibseccompError, True, True), (LibseccompError, False, False), (CompileError, True, False)],
)
def test_where_a_filter_denies_what_compiling_needs_it_can_be_compiled_before(
    error: type[Exception], is_filtered: bool, is_advised: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise error("it fails")

    (tmp_path / "it.policy").write_text(for_this_machine("read: allow\n"))
    monkeypatch.setattr("callfence.enforcing.filters.compiled_from", fails)
    monkeypatch.setattr("callfence.enforcer.launch.is_filtered", lambda: is_filtered)
    name = str(tmp_path / "it.policy")
    with pytest.raises(EnforceError) as caught:
        compiled(name, "report", cached=False)
    remedy = f"; compile the policy before: `callfence compile -o FILE {name}`, then `enforce --compiled FILE`"
    assert str(caught.value) == f"{name}: it fails{remedy * is_advised}"


def test_what_does_not_fit_its_policy_is_named(work: Work) -> None:
    work.enforce(compiles=True)
    file = work.forge(cache.secret())
    done = work.run("verify", "mkdir.policy")
    assert done.returncode == 1
    assert "mkdir.policy: its cached filter (silent) does not match the policy: to syscall 0 " in done.stdout
    done = work.run("verify", "--cached")
    assert done.returncode == 1
    assert f"{file} of mkdir.policy: to syscall 0 " in done.stdout
    done = work.run("doctor")
    assert done.returncode == 1
    assert f"{file} does not match its policy mkdir.policy: to syscall 0 " in done.stdout


def test_what_is_missing_before_the_filter_is_named(work: Work) -> None:
    """Then a file could be opened for neither reading nor writing, which Landlock does not judge."""
    work.policy.write_text(for_this_machine("default allow\npath /: read, execute, list\nmkdir: errno EPERM\n"))
    work.enforce(compiles=True)
    (file,) = work.cached()
    made_by, kept = unseal(file.read_bytes(), cache.secret())
    assert kept.refusals
    kept.refusals = b""
    file.write_bytes(seal(kept, made_by, cache.secret()))
    done = work.run("verify", "--cached")
    assert done.returncode == 1
    assert "compiling the policy now gives other instructions before the filter" in done.stdout


@pytest.mark.parametrize("variant", ["report", "audit", "silent", "warm"])
def test_what_fits_is_proved(work: Work, variant: str) -> None:
    options = {"silent": "--quiet-kernel", "audit": "--audit", "report": "--arm=exec"}
    words = ("learn", "-q") if variant == "warm" else ("enforce", options[variant])
    work.run(*words, *MKDIR)
    if variant == "warm":
        work.run(*words, *MKDIR)
    done = work.run("verify", "--cached")
    assert (done.returncode, done.stdout) == (0, "proved: 1 cached filter\n")


@pytest.mark.parametrize(
    ("changed", "where"),
    [
        ("callfence/policygen/filter/compile.py", "checkout"),
        ("callfence/policygen/model.py", "checkout"),
        ("callfence/tracer/abi/table.py", "checkout"),
        ("callfence/enforcer/guard.py", "checkout"),
        ("callfence/start.py", "installation"),
    ],
)
def test_a_changed_compiler_counts(tmp_path: Path, changed: str, where: str) -> None:
    """Whoever installs callfence again writes all of its files."""
    packages = tmp_path / "packages"
    shutil.copytree(ROOT / "callfence", packages / "callfence", ignore=shutil.ignore_patterns("__pycache__"))
    if where == "checkout":
        (packages / "pyproject.toml").touch()
    (tmp_path / "work").mkdir()
    work = Work(tmp_path / "work", packages)
    work.enforce(compiles=True)
    work.enforce(compiles=False)
    with (packages / changed).open("a") as file:
        file.write("# changed\n")
    work.enforce(compiles=True)
    work.enforce(compiles=False)


@pytest.mark.parametrize("variant", VARIANTS)
def test_files_that_are_not_looked_at_do_not_compile(work: Work, variant: str) -> None:
    script = f"""
import sys
from callfence.enforcing import cache, filters
made = filters.compiled("mkdir.policy", "{variant}", cached=False)
names = {{word for name in sys.modules if name.startswith("callfence.policygen.") for word in name.split(".")}}
print(sorted(names & {{*cache.NOT_COMPILING}}))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=work.folder, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True,
        text=True, timeout=60, check=True,
    )  # fmt: skip
    assert done.stdout == "[]\n"


def test_no_cache(work: Work) -> None:
    for _ in range(2):
        work.enforce("--no-cache", compiles=True)
    assert work.cached() == []


def test_a_filter_beside_the_policy(work: Work) -> None:
    done = work.run("compile", "-o", "mkdir.filter", "mkdir.policy")
    assert done.returncode == 0, done.stderr
    first = (work.folder / "mkdir.filter").read_bytes()
    assert "takes the name of a file" in work.run("compile", "-o", "-", "mkdir.policy").stderr
    assert not (work.folder / "-").exists()
    work.run("compile", "-o", "mkdir.filter", "mkdir.policy")
    assert (work.folder / "mkdir.filter").read_bytes() == first
    for options in ((), ("-p", "mkdir.policy")):
        work.enforce("--compiled", "mkdir.filter", *options, compiles=False)
    assert "Operation not permitted" in work.run("enforce", "--compiled", "mkdir.filter", *MKDIR).stderr, "with reports, too"
    work.policy.unlink()
    work.enforce("--compiled", "mkdir.filter", compiles=False)
    assert work.cached() == []
    assert "proved: the filters in mkdir.filter are equivalent to the policy in it" in work.run("verify", "mkdir.filter").stdout


def test_a_filter_that_does_not_fit_is_refused(work: Work) -> None:
    work.run("compile", "-o", "mkdir.filter", "mkdir.policy")
    whole = (work.folder / "mkdir.filter").read_bytes()
    spoilt = {
        "mkdir.filter is out of date, because mkdir.policy has changed": lambda: work.policy.write_text("default allow\n"),
        "the file is damaged": lambda: (work.folder / "mkdir.filter").write_bytes(whole.replace(b"EPERM", b"EINTR", 1)),
        "was not written by": lambda: (work.folder / "mkdir.filter").write_bytes(EVERYTHING),
        "every user can write mkdir.filter": lambda: (work.folder / "mkdir.filter").chmod(0o666),
        "No such file": lambda: (work.folder / "mkdir.filter").unlink(),
    }
    for said, spoil in spoilt.items():
        spoil()
        done = work.run("enforce", "--compiled", "mkdir.filter", *MKDIR)
        assert done.returncode == 125
        assert said in done.stderr
        assert not re.search(r"Errno|Error", done.stderr)
    assert not (work.folder / "made").exists()


def test_a_bundle_whose_filter_is_not_its_policy_is_named(work: Work) -> None:
    work.run("compile", "-o", "mkdir.filter", "mkdir.policy")
    file = work.folder / "mkdir.filter"
    old = unbundle(file.read_bytes())["silent"]
    facts = {name: getattr(old, name) for name in FACTS}
    forged = Compiled(EVERYTHING, old.arm, old.sources, variant="silent", scope=old.scope, **facts)
    file.write_bytes(bundle([forged], b""))
    done = work.run("verify", "mkdir.filter")
    assert done.returncode == 1
    assert "mkdir.filter: the filter (silent) does not match the policy in the file: to syscall 0 " in done.stdout


@pytest.mark.skipif(os.geteuid() != 0, reason="what root has compiled takes root")
def test_what_root_has_compiled_is_used_by_all(work: Work) -> None:
    """In a mount namespace, where /var/cache is empty."""
    script = f"""
mount -t tmpfs none /var/cache || exit 99
python() {{ {sys.executable} -X importtime -m callfence "$@"; }}
python compile mkdir.policy || exit 1
ls -l /var/cache/callfence
python enforce --quiet-kernel -p {work.policy} mkdir made 2>&1 | grep -e 'Operation not permitted' -e filter.compile
python enforce --quiet-kernel mkdir made 2>&1 | grep -e 'Operation not permitted' -e callfence.policygen.filter.compile
ls {work.folder}
chmod 777 /var/cache/callfence
python enforce --quiet-kernel mkdir made 2>&1 | grep -c callfence.policygen.filter.compile
"""
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script],
        cwd=work.folder,
        env=work.environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if done.returncode == 99 or "unshare" in done.stderr:
        pytest.skip("a mount namespace cannot be made")
    assert "-rw-r--r-- 1 root root" in done.stdout
    assert done.stdout.count("Operation not permitted") == 2
    assert "callfence.policygen.filter.compile" not in done.stdout
    assert "cache" not in done.stdout.split("Operation not permitted")[-1].split("\n")
    assert done.stdout.endswith("\n1\n")


@pytest.mark.skipif(os.geteuid() != 0, reason="what root has compiled takes root")
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("-o size=4k", "/var/cache/callfence/[0-9a-f]+.filter: No space left on device"),
        ("-o mode=755; mkdir -m 777 /var/cache/callfence", "/var/cache/callfence: other users than root can write there"),
    ],
)
def test_where_root_cannot_keep_a_filter_the_place_is_named(work: Work, options: str, said: str) -> None:
    """And nothing is left there.  In a mount namespace."""
    script = f"mount -t tmpfs none /var/cache {options} || exit 99; {sys.executable} -m callfence compile mkdir.policy"
    script += "; echo $?; ls -R /var/cache/callfence"
    settings = {"capture_output": True, "text": True, "timeout": 120, "env": work.environment}
    done = subprocess.run(["unshare", "-m", "sh", "-c", script], cwd=work.folder, check=False, **settings)
    if done.returncode == 99 or "unshare" in done.stderr:
        pytest.skip("a mount namespace cannot be made")
    assert done.stdout == "2\n/var/cache/callfence:\n"
    assert re.fullmatch(f"callfence compile: {said}\n", done.stderr)


def test_only_root_fills_the_cache_of_all(work: Work) -> None:
    script = "import os; os.geteuid = lambda: 1000; from callfence.enforcing import compile; exit(compile.main(['it.policy']))"
    settings = {"capture_output": True, "text": True, "timeout": 60, "env": work.environment}
    done = subprocess.run([sys.executable, "-c", script], cwd=work.folder, check=False, **settings)
    assert done.returncode == 2
    assert "only root can write to /var/cache/callfence; -o FILE writes a file" in done.stderr
