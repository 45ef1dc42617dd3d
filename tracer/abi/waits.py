"""The calls with which a server may begin to serve: candidates for the trigger of a phase, in the order of their bits.

A recording has the bits, so this list only grows at its end.
"""

from __future__ import annotations

from typing import Final

ENTER: Final = "enter"
"""The trigger that is no call by itself: the program says that it enters a phase (include/callfence.h)."""
NOTIFY: Final = "sd_notify"
"""The trigger that is a message to the service manager: the program says that it is ready (tracer.abi.ready)."""
CANDIDATES: Final = (
    "epoll_wait", "epoll_pwait", "epoll_pwait2", "poll", "ppoll", "select", "pselect6", "_newselect", "accept", "accept4",
    "rt_sigsuspend", "sigsuspend", "rt_sigtimedwait", "pause", "io_getevents", "io_pgetevents", ENTER,
    NOTIFY,
)  # fmt: skip


_CALLS: Final = {ENTER: ("prctl",), NOTIFY: ("sendmsg", "sendto", "write")}


def calls_of(trigger: str) -> tuple[str, ...]:
    """The names of the calls by which a process may enter a phase with this trigger."""
    return _CALLS.get(trigger, (trigger,))


def bits(triggers: tuple[str, ...]) -> int:
    """The bits of those among the triggers that are candidates."""
    return sum(1 << CANDIDATES.index(name) for name in triggers if name in CANDIDATES)


ALL: Final = (1 << len(CANDIDATES)) - 1
