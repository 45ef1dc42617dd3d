"""Several filters as one, which answers as the strictest of them does.

They cannot be put on one after the other: the first would judge the `seccomp` call that installs the second, and one
chain of filters has one listener only (seccomp(2), EBUSY).  So each answer of a filter becomes a jump into a copy of what
follows, whose answers are at least as strict.  Classic BPF has no subroutines, but few different answers.
"""

from __future__ import annotations

from tracer import linux

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

SHIELD, EXITS, LISTENER, KEY = 161, 13, 17, 81
"""Instructions that `shield.shielded`, `shield.asking_on_exit`, `shield.without_listener` and `arming.key.Key.passing` add, for
which there must be room."""
ROOM = SHIELD + EXITS + LISTENER + KEY
_SIZE = linux.BPF_INSTRUCTION


def chain(filters: Sequence[bytes], *, reports: bool = False) -> bytes:
    """Return one program for all of `filters`, each an array of struct sock_filter that returns constants.

    The kernel's order of strictness (seccomp(2)) decides, of equals the first.  With `reports`, a notification outranks all
    but a kill, because the helper judges by all policies, and there must be room for what `shield` adds.  ValueError if there
    are no filters, or more instructions than the kernel takes.
    """
    if not filters:
        raise ValueError("no filter")
    whole = filters[-1]
    for one in reversed(filters[:-1]):
        whole = _followed(one, whole, reports)
    linux.check_length(whole, room=ROOM if reports else LISTENER)
    return whole


def _followed(first: bytes, second: bytes, reports: bool) -> bytes:
    """The program that answers as the stricter of the two."""
    copies: dict[int, bytes] = {}
    for answer in {*_answers(first)}:
        stricter = {other: min(answer, other, key=lambda one: _rank(one, reports)) for other in _answers(second)}
        if set(stricter.values()) != {answer}:
            copies[answer] = _replaced(second, stricter)
    places, end = {}, len(first)
    for answer in sorted(copies):
        places[answer] = end
        end += len(copies[answer])
    parts = []
    for start in range(0, len(first), _SIZE):
        instruction = first[start : start + _SIZE]
        code, k = _decoded(instruction)
        if code == linux.BPF_RET_K and k in places:
            instruction = linux.BPF_JA.to_bytes(4, "little") + (places[k] // _SIZE - start // _SIZE - 1).to_bytes(4, "little")
        parts.append(instruction)
    return b"".join(parts) + b"".join(copies[answer] for answer in sorted(copies))


def _replaced(program: bytes, answers: dict[int, int]) -> bytes:
    parts = []
    for start in range(0, len(program), _SIZE):
        instruction = program[start : start + _SIZE]
        code, k = _decoded(instruction)
        parts.append(instruction if code != linux.BPF_RET_K else instruction[:4] + answers[k].to_bytes(4, "little"))
    return b"".join(parts)


def _answers(program: bytes) -> list[int]:
    """What the program returns."""
    decoded = (_decoded(program[start : start + _SIZE]) for start in range(0, len(program), _SIZE))
    return [k for code, k in decoded if code == linux.BPF_RET_K]


def _decoded(instruction: bytes) -> tuple[int, int]:
    return int.from_bytes(instruction[:2], "little"), int.from_bytes(instruction[4:], "little")


def _rank(answer: int, reports: bool) -> int:
    """The smaller, the stricter."""
    action = answer & linux.SECCOMP_RET_ACTION_FULL
    if action in (linux.SECCOMP_RET_KILL_PROCESS, linux.SECCOMP_RET_KILL_THREAD):
        return -2 if action == linux.SECCOMP_RET_KILL_PROCESS else -1
    return 0 if reports and action == linux.SECCOMP_RET_USER_NOTIF else action
