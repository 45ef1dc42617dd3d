"""`learn --portable`: a policy learned with one C library runs the same program built with another."""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from calls import native, number_of

from callfence.policygen.evaluate import evaluate
from callfence.policygen.language.document import parse_file
from callfence.tracer.abi import NATIVE, Event, table

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

    from conftest import Commands, Enforced

    from callfence.policygen.model import Policy

pytestmark = pytest.mark.long

COMMANDS = Path(sys.executable).parent
SOURCES = Path(__file__).parent / "portable"
PROGRAMS = sorted(source.stem for source in SOURCES.glob("*.c"))
LIBRARIES = {
    "glibc": ("cc", ()),
    "static glibc": ("cc", ("-static",)),
    "musl": ("musl-gcc", ()),
    "static musl": ("musl-gcc", ("-static",)),
}
"""The compiler and its flags."""


@dataclass(frozen=True, slots=True)
class Crossed:
    """A program learned with one library, and confined with another."""

    learned: subprocess.CompletedProcess[bytes]
    policy: Path
    enforced: Enforced


@pytest.fixture(scope="session")
def built(compile_c: Callable[..., Path]) -> Callable[[str, str], Path]:
    """`built(program, library)` -> the executable."""

    def build(program: str, library: str) -> Path:
        compiler, flags = LIBRARIES[library]
        return compile_c(SOURCES / f"{program}.c", "-pthread", *flags, compiler=compiler)

    return build


@pytest.fixture
def cross(commands: Commands, built: Callable[[str, str], Path], tmp_path: Path) -> Callable[..., Crossed]:
    """`cross(program, one, other, *flags)`: learn with one library, then run confined with the other."""

    def run(program: str, one: str, other: str, *flags: str) -> Crossed:
        policy = tmp_path / "it.policy"
        folders = tmp_path / "learned", tmp_path / "confined"
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
        learned = commands.learn(policy, [built(program, one)], folders[0], "--fresh", *flags)
        assert learned.returncode == 0, learned.stderr.decode()
        return Crossed(learned, policy, commands.enforce(policy, [built(program, other)], folders[1]))

    return run


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize(("one", "other"), [("glibc", "static musl"), ("static musl", "glibc")])
def test_the_same_program_with_the_other_library(program: str, one: str, other: str, cross: Callable[..., Crossed]) -> None:
    done = cross(program, one, other, "--portable")
    assert done.enforced.violations == []
    assert done.enforced.ran.returncode == 0
    assert done.enforced.ran.stdout == done.learned.stdout
    assert "\nportable " in done.policy.read_text()
    check_what_is_unrelated(program, parse_file(done.policy).policy)


@pytest.mark.parametrize("program", ["copy", "spawn", "threads"])
@pytest.mark.parametrize(("one", "other"), [("glibc", "static musl"), ("static musl", "glibc")])
def test_it_takes_the_option(program: str, one: str, other: str, cross: Callable[..., Crossed]) -> None:
    plain = cross(program, one, other, "--exact")
    assert plain.enforced.violations
    assert plain.enforced.ran.returncode != 0


@pytest.mark.parametrize(
    ("program", "one", "other"),
    [
        ("threads", "glibc", "musl"),
        ("spawn", "glibc", "musl"),
        ("walk", "musl", "static glibc"),
        ("copy", "musl", "static glibc"),
    ],
)
def test_other_ways_of_linking(program: str, one: str, other: str, cross: Callable[..., Crossed]) -> None:
    done = cross(program, one, other, "--portable")
    assert done.enforced.violations == []
    assert done.enforced.ran.returncode == 0


UNRELATED = ("ptrace", "bpf", "mount", "setuid", "execveat", "process_vm_readv", "keyctl", "unshare", "io_uring_setup")
SOCKETS = ("socket", "socketpair", "connect", "bind", "listen", "accept", "accept4", "sendto", "sendmsg", "recvfrom")


def check_what_is_unrelated(program: str, policy: Policy) -> None:
    """The other library's program may do what is listed for the families that were seen, and no more."""
    names = {table(NATIVE).by_number[number].name for number in policy.entries[NATIVE]}
    assert not names.intersection(UNRELATED)
    assert program == "sockets" or not names.intersection(SOCKETS)
    assert program == "spawn" or "execve" not in names
    assert program in ("spawn", "sockets") or not names.intersection(("fork", "vfork"))
    assert program == "walk" or not names.intersection(("chmod", "fchmodat", "rename", "renameat2", "mkdirat"))
    for number in (number_of("mmap"), number_of("mprotect")):
        for protection in (6, 7):
            event = Event(NATIVE.audit, number, (0, 4096, protection, 0x22, 0, 0))
            assert not evaluate(policy, event).allows, "writable and executable"


def test_merging_keeps_the_line_and_starting_over_drops_it(
    commands: Commands, built: Callable[[str, str], Path], tmp_path: Path
) -> None:
    policy = tmp_path / "it.policy"
    first = commands.learn(policy, [built("heap", "glibc")], tmp_path, "--portable", "--exact")
    assert first.returncode == 0, first.stderr.decode()
    before = policy.read_bytes()
    assert commands.learn(policy, [built("heap", "glibc")], tmp_path).returncode == 0
    assert policy.read_bytes() == before
    again = commands.learn(policy, [built("copy", "glibc")], tmp_path)
    assert native("unlink") == "unlinkat" or b"+ unlink: allow" in again.stderr
    assert b"+ unlinkat: dfd == AT_FDCWD && flag == 0" in again.stderr
    confined = commands.enforce(policy, [built("copy", "static musl")], tmp_path)
    assert confined.violations == []
    assert confined.ran.returncode == 0
    commands.learn(policy, [built("heap", "glibc")], tmp_path, "--fresh")
    assert "portable" not in policy.read_text()


def test_an_allowed_line_brings_its_equivalents(commands: Commands, tmp_path: Path) -> None:
    policy = tmp_path / "it.policy"
    policy.write_text("arch x86_64\nportable\nunlinkat: deny\n")
    done = commands.plain([COMMANDS / "callfence", "allow", policy, "mkdir: allow", "unlink: allow"], tmp_path)
    assert done.returncode == 0, done.stderr.decode()
    assert b"portable: mkdirat\n    + mkdirat: dfd == AT_FDCWD\n" in done.stdout
    assert "mkdirat: dfd == AT_FDCWD\nunlink: allow\nunlinkat: deny\n" in policy.read_text()


@pytest.mark.only_on("x86_64")  # elsewhere both libraries make these calls
def test_why_says_what_no_run_needed(commands: Commands, built: Callable[[str, str], Path], tmp_path: Path) -> None:
    policy = tmp_path / "it.policy"
    for options, call, said in [
        (("--exact",), "unlinkat", b"portable: as unlink"),
        (("--exact",), "open", b"portable: as openat"),
        (("--exact",), "openat", b"learned, and extended for other C libraries or by hand"),
        (("--exact",), "mprotect", b"added for other C libraries or by hand"),
    ]:
        commands.learn(policy, [built("copy", "glibc")], tmp_path, "--fresh", "--portable", *options)
        assert said in commands.plain([COMMANDS / "callfence", "why", policy, call], tmp_path).stdout


@pytest.mark.parametrize(
    ("flags", "what"),
    [
        (("--portable", "--tight"), b"--tight and --portable cannot be given together"),
        (("--portable", "--check"), b"cannot be given with --fresh, --tight, --portable or --default"),
    ],
)
def test_options_that_exclude_each_other(commands: Commands, tmp_path: Path, flags: tuple[str, ...], what: bytes) -> None:
    done = commands.learn(tmp_path / "it.policy", ["touch", "ran"], tmp_path, *flags)
    assert done.returncode == 125
    assert what in done.stderr
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "it.policy").exists()
