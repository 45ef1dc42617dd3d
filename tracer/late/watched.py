"""The known calls at which the tracer has something to do, so that no filter may let them run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tracer import linux
from tracer.abi import Arch, table
from tracer.calls import CLONE_UNTRACED, SET_MODE, WRITES, is_readable

if TYPE_CHECKING:
    from tracer.abi import Event
    from tracer.late.filter import Key

WATCHED: Final = frozenset((*linux.OPAQUE, "ptrace", "sched_getaffinity", "sched_setaffinity", "sched_setattr", "seccomp"))
_FLAGS: Final = {"open": 1, "openat": 2}
"""Which argument of a call that opens files has the flags."""
_FAST_OPEN: Final = {"sendto": 3, "sendmsg": 2, "sendmmsg": 3}
"""Which argument of a call that sends has MSG_*."""
_MSG_FASTOPEN: Final = 0x20000000  # linux/socket.h: connects, which learning of ports looks at


def may_run(key: Key, *, opens: bool, writes: bool) -> bool:
    """Whether a known call of x86_64 may run without a stop.  `opens`: also one that opens a file for reading, which may be
    one that shows affinities (`SharedProcessor`).  `writes`: also one that may write to a terminal."""
    call = table(Arch.X86_64).by_number.get(key.number)
    if call is None or call.name in WATCHED:
        return False
    if call.name == "clone":
        return not key.argument(0) & CLONE_UNTRACED
    if call.name in _FAST_OPEN:
        return not key.argument(_FAST_OPEN[call.name]) & _MSG_FASTOPEN
    if call.name == "prctl":
        return key.argument(0) & 0xFFFFFFFF not in (linux.PR_GET_SECCOMP, linux.PR_SET_SECCOMP)
    return (opens or not opens_for_reading(key)) and (writes or not may_write(key))


def opens_for_reading(key: Key) -> bool:
    """Whether a call of x86_64 opens a file so that it can be read."""
    call = table(Arch.X86_64).by_number.get(key.number)
    return call is not None and call.name in _FLAGS and is_readable(key.argument(_FLAGS[call.name]))


def may_write(key: Key) -> bool:
    """Whether a call of x86_64 can write to a terminal."""
    call = table(Arch.X86_64).by_number.get(key.number)
    return call is not None and call.name in WRITES


def installs_filter(event: Event) -> bool:
    """Whether a call of x86_64 is to put the task under a seccomp filter."""
    call = table(Arch.X86_64).by_number.get(event.number)
    option = event.arguments[0] & 0xFFFFFFFF
    return call is not None and (
        (call.name == "prctl" and option == linux.PR_SET_SECCOMP) or (call.name == "seccomp" and option in SET_MODE)
    )
