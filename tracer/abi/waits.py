"""The calls with which a server may begin to serve: candidates for the trigger of a phase, in the order of their bits; and
whether a call tells a service manager that the program is ready, as sd_notify(3) does.

A recording has the bits, so this list only grows at its end, to 28 at most: above them a recording has how often a process was
forked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

ENTER: Final = "enter"
"""The trigger that is no call by itself: the program says that it enters a phase (include/callfence.h)."""
NOTIFY: Final = "sd_notify"
"""The trigger that is a message to the service manager: the program says that it is ready (`is_ready`)."""
CANDIDATES: Final = (
    "epoll_wait", "epoll_pwait", "epoll_pwait2", "poll", "ppoll", "select", "pselect6", "_newselect", "accept", "accept4",
    "rt_sigsuspend", "sigsuspend", "rt_sigtimedwait", "pause", "io_getevents", "io_pgetevents", ENTER,
    NOTIFY, "ppoll_time64", "pselect6_time64", "rt_sigtimedwait_time64", "io_pgetevents_time64",
)  # fmt: skip
ACCEPTS: Final = ("accept", "accept4")
"""The candidates with which a process waits for connections, or takes one."""
SIGNALS: Final = ("rt_sigsuspend", "sigsuspend", "rt_sigtimedwait", "rt_sigtimedwait_time64", "pause")
"""The candidates with which a process waits for signals alone, as masters do."""
INPUT: Final = tuple(name for name in CANDIDATES if name not in (*SIGNALS, ENTER, NOTIFY))
"""The candidates with which a process waits for descriptors."""
_CALLS: Final = {ENTER: ("prctl",), NOTIFY: ("sendmsg", "sendto", "write")}
MAX_MESSAGE = 4096
"""The most bytes of a message that is examined: a longer one is not taken for a message of readiness."""
_PAGE = 4096
_VECTORS = 16


def calls_of(trigger: str) -> tuple[str, ...]:
    """Return the names of the system calls by which a process can enter a phase that begins after `trigger`."""
    return _CALLS.get(trigger, (trigger,))


def bits(triggers: tuple[str, ...]) -> int:
    """Return the bits of those `triggers` that are in CANDIDATES, as an integer; others are ignored."""
    return sum(1 << CANDIDATES.index(name) for name in triggers if name in CANDIDATES)


FORK: Final = 1 << 28
"""One fork, in a set of waits of a process: it was forked once more since its executable was executed, or not at all."""
_MAX_FORKS = 15
"""Processes that were forked more often are counted as forked so often: the numbers stay below 2**32."""


def forked(waits: int) -> int:
    """Return the set of waits of a new process, whose creator has this one."""
    return min(waits + FORK, _MAX_FORKS * FORK + waits % FORK)


def executed(waits: int) -> int:
    """Return the set of waits of a process with this one that has executed a file."""
    return waits % FORK


def is_ready(arguments: Sequence[int], read: Callable[[int, int], bytes], *, pointer: int, is_sendmsg: bool) -> bool:
    """Return whether the message that a write, sendto or sendmsg with these arguments sends has the line READY=1.

    The destination is not checked: a program that sends the line elsewhere enters its phase too early, and is then allowed
    less.  `pointer` is the size of a pointer in bytes.  `read` takes an address and a length within one page of the task's
    memory, and returns the bytes, or fewer if they cannot be read."""

    def whole(address: int, size: int) -> bytes:
        first = min(size, _PAGE - address % _PAGE)
        content = read(address, first)
        return content + read(address + first, size - first) if len(content) == first < size else content

    def words(address: int, count: int) -> list[int]:
        content = whole(address, pointer * count)
        return [int.from_bytes(content[at : at + pointer], "little") for at in range(0, len(content), pointer)]

    spans = [(arguments[1], arguments[2])]
    if is_sendmsg:  # struct msghdr {name, namelen, iov, iovlen, ...}, struct iovec {base, len}
        vectors = words(arguments[1] + 2 * pointer, 2)
        pairs = words(vectors[0], 2 * min(vectors[1], _VECTORS)) if len(vectors) == 2 else []
        spans = list(zip(pairs[::2], pairs[1::2], strict=False))
    if sum(size for _, size in spans) > MAX_MESSAGE:
        return False
    return b"READY=1" in b"".join(whole(address, size) for address, size in spans).split(b"\n")
