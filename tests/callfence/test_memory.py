"""Commands under a limit of address space: one line and their own status, or their result, and never a traceback."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from callfence import start
from callfence.learning import command as learning
from callfence.policygen import reading
from callfence.tracer.abi import NATIVE

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Commands

POLICY = f"callfence 1\narch {NATIVE}\ntable 6.18\ndefault kill\nunknown errno ENOSYS\nimplied 1\n\nioctl: allow\n"
LINE = "not enough memory"
LIMITS = [*range(20_000, 60_000, 2_500), 80_000, 130_000, 200_000, 400_000]
"""KiB.  With less than the first one Python itself does not start."""


def limited(commands: Commands, kib: int, folder: Path, *words: str) -> subprocess.CompletedProcess[bytes]:
    from tests.conftest import COMMANDS

    script = f'ulimit -v {kib}; exec "$@"'
    return commands.plain(["sh", "-c", script, "sh", COMMANDS / words[0], *words[1:]], folder)


@pytest.fixture
def policies(tmp_path: Path) -> Path:
    (tmp_path / "a.policy").write_text(POLICY)
    (tmp_path / "b.policy").write_text(POLICY.replace("allow", "cmd == TCGETS"))
    (tmp_path / "true.policy").write_text(POLICY)
    return tmp_path


@pytest.mark.long
@pytest.mark.parametrize(
    ("words", "failed"),
    [
        (("learn", "-q", "-o", "new.policy", "true"), 125),
        (("learn", "-o", "a.policy", "true"), 125),
        (("enforce", "--no-cache", "-p", "a.policy", "echo", "ran"), 125),
        (("enforce", "--quiet-kernel", "-p", "a.policy", "echo", "ran"), 125),
        (("callfence", "enforce", "-p", "a.policy", "echo", "ran"), 125),
        (("callfence", "lint", "a.policy"), 2),
        (("callfence", "diff", "a.policy", "b.policy"), 2),
        (("callfence", "why", "a.policy"), 2),
        (("callfence", "show", "--check", "a.policy"), 2),
    ],
)
def test_too_little_memory_is_said_in_a_line(
    words: tuple[str, ...], failed: int, policies: Path, commands: Commands
) -> None:
    short = 0
    for kib in LIMITS:
        ran = limited(commands, kib, policies, *words)
        told = ran.stderr.decode()
        assert "Traceback" not in told, kib
        if LINE in told:
            short += 1
            assert ran.returncode == failed, kib
            assert len(told.splitlines()) == 1, kib
            assert told.startswith(f"{'enforce' if 'enforce' in words else words[0]}: {LINE}")
            assert b"ran" not in ran.stdout
    assert 0 < short < len(LIMITS)
    assert LINE not in told


def test_any_error_where_there_is_no_room_is_for_want_of_memory() -> None:
    script = (
        "import resource, sys; from callfence import start; sys.argv = ['enforce']; start.end_in_a_line()\n"
        "size = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (size + {}, -1))\n"
        "raise SyntaxError('what an extension module makes of it')\n"
    )
    ended = [
        subprocess.run([sys.executable, "-c", script.format(room)], capture_output=True, text=True, check=False)
        for room in (8 << 20, 64 << 20)
    ]
    assert [one.returncode for one in ended] == [125, 125]
    assert [LINE in one.stderr for one in ended] == [True, False]


def test_no_error_ends_enforce_with_a_status_that_the_program_could_have() -> None:
    script = "import sys; from callfence import start; sys.argv = ['{}']; start.end_in_a_line(); raise ImportError('none')"
    for name, status in (("enforce", 125), ("learn", 125), ("callfence-sh", 125), ("callfence", 2)):
        ended = subprocess.run([sys.executable, "-c", script.format(name)], capture_output=True, text=True, check=False)
        assert (ended.returncode, ended.stderr.splitlines()[-1]) == (status, "ImportError: none")


def test_an_error_for_want_of_memory_is_known_by_its_cause() -> None:
    try:
        try:
            raise MemoryError
        except MemoryError as error:
            raise ValueError("unreadable") from error
    except ValueError as error:
        assert start.is_short(error)
    assert start.is_short(OSError(12, "Cannot allocate memory"))
    assert not start.is_short(ValueError("unreadable"))


def test_an_error_that_is_about_no_file_does_not_speak_of_one() -> None:
    """As where a limit leaves no descriptor (`ulimit -n 6`)."""
    assert learning._explained(OSError(24, "Too many open files")) == "Too many open files"
    assert learning._explained(OSError(28, "No space", "a.rec")) == "a.rec: No space; the file was not changed"


def test_a_small_file_takes_little_memory(tmp_path: Path) -> None:
    sizes = []

    class File:
        def read(self, size: int) -> bytes:
            sizes.append(size)
            return b"x" * min(size, 200_000 - sum(sizes[:-1]))

    assert len(reading.beginning(File(), 64 << 20)) == 200_000  # type: ignore[arg-type]
    assert max(sizes) < 400_000
    for size in (0, 1, (1 << 16) - 1, 1 << 16, (1 << 16) + 1, 300_000):
        (tmp_path / "file").write_bytes(b"y" * size)
        assert len(reading.read(str(tmp_path / "file"), limit=size or 1)) == size
        if size > 1:
            with pytest.raises(OSError, match="more than callfence reads"):
                reading.read(str(tmp_path / "file"), limit=size - 1)
