"""What of a recording learning leaves to a person."""

from __future__ import annotations

import pytest
from calls import parse

from callfence.policygen.comparing.compare import compare
from callfence.policygen.recording.many import merge
from callfence.policygen.recording.model import Observation, Recording, Run
from callfence.policygen.review.risk import held_back, ranked
from callfence.tracer.abi import Arch, table

PLAIN, FAULTY = Run("a", 1, (), 0, True), Run("b", 2, (), 0, True, rehearsed="write fails with EPIPE")


def seen(name: str, *arguments: int | None, executable: str = "/app") -> Observation:
    call = table(Arch.X86_64).by_name[name]
    padded = (*arguments, *[None] * (len(call.arguments) - len(arguments)))
    return Observation(Arch.X86_64.audit, call.number, padded, executable, (1,), "?", (0, 0, 0, 0, 0, 0))


def recorded(run: Run, *found: Observation) -> Recording:
    return Recording((run,), tuple(sorted(found, key=lambda one: one.order)))


EXECVE, RENAME, WRITE = seen("execve"), seen("rename"), seen("write")
IN_CHILD = seen("getpid", executable="/bin/debugger")
OPAQUE = seen("clone3")


@pytest.mark.parametrize(
    ("plain", "faulty", "policy", "held"),
    [
        ([WRITE], [RENAME], "", []),
        ([WRITE], [EXECVE, RENAME], "", [EXECVE]),
        ([WRITE], [EXECVE, IN_CHILD], "", [EXECVE, IN_CHILD]),
        ([WRITE], [EXECVE, IN_CHILD], "execve: allow", []),
        ([WRITE, EXECVE], [EXECVE, IN_CHILD], "", []),
        ([WRITE, IN_CHILD], [EXECVE, IN_CHILD], "", [EXECVE]),
        ([WRITE], [IN_CHILD], "", []),
        ([WRITE], [OPAQUE], "", []),
        ([], [EXECVE], "", [EXECVE]),
    ],
)
def test_what_is_held_back(
    plain: list[Observation], faulty: list[Observation], policy: str, held: list[Observation]
) -> None:
    both = merge(recorded(PLAIN, *plain), recorded(FAULTY, *faulty))
    document = parse(f"arch x86_64\n{policy}\n")
    assert held_back(both, document.policy) == {one.key for one in held}


def test_a_hidden_call_is_held_back_if_it_is_let_run() -> None:
    assert held_back(recorded(FAULTY, OPAQUE), None, ["clone3"]) == {OPAQUE.key}


WRITES = "openat: flags == O_WRONLY\n"
LOCKS = f"{WRITES}flock: allow\n"


@pytest.mark.parametrize(
    ("old", "new", "redundant"),
    [
        ("read: allow", "read: allow\ngetpid: allow", [True]),
        ("getpid: errno EPERM", "getpid: allow", [True]),
        ("fcntl: cmd == F_SETOWN", "fcntl: cmd == F_SETOWN || cmd == F_GETFD", [True]),
        ("fcntl: cmd == F_SETOWN || cmd == F_GETFD", "fcntl: cmd == F_SETOWN", [True]),
        ("fcntl: cmd == F_GETFD", "fcntl: cmd == F_GETFD || cmd == F_SETLEASE", [False]),
        (f"{WRITES}fcntl: cmd == F_GETFD", f"{WRITES}fcntl: cmd == F_GETFD || cmd == F_SETLKW", [False]),
        (f"{LOCKS}fcntl: cmd == F_GETFD", f"{LOCKS}fcntl: cmd == F_GETFD || cmd == F_SETLKW", [True]),
        ("default allow\ngetpid: errno EPERM", "default allow", [True]),
        ("default allow\nfchmod: errno EPERM", "default allow", [False]),
    ],
)
def test_what_an_implied_set_would_give_is_redundant_unless_it_gives_more(old: str, new: str, redundant: list[bool]) -> None:
    """F_SETLKW also lets a policy have the lock of a file, which `flock` does as well."""
    before, after = (parse(f"arch x86_64\n{text}\n").policy for text in (old, new))
    found = ranked(before, after, compare(before, after))
    assert [one.is_redundant for one in found] == redundant


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("unknown kill", "default allow\nunknown kill", ["default-allow"]),
        ("unknown kill", "unknown allow", ["unknown-allow"]),
        ("unknown errno ENOSYS", "default allow\nunknown allow", ["default-allow", "unknown-allow"]),
        ("default allow\nunknown allow", "unknown kill", []),
        ("unknown kill", "unknown errno ENOSYS", []),
    ],
)
def test_a_setting_that_allows_calls_is_a_danger_of_its_own(old: str, new: str, expected: list[str]) -> None:
    before, after = (parse(f"arch x86_64\n{text}\n").policy for text in (old, new))
    of_settings = [one for one in ranked(before, after, compare(before, after)) if one.difference.number is None]
    assert sorted({danger.id for one in of_settings for danger in one.dangers}) == expected
