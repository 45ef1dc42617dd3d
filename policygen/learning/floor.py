"""What a policy gets whether it was observed or not, and what it does not get although it was: with the reasons.

The reasons are notes in the policy (`layout.NOTE_WORDS`), so that every rule is explained.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_ENDS = "floor: every program ends"
_CLOCK = "floor: what the vDSO falls back to when the clock source changes"

FLOOR: Mapping[str, str] = {
    "exit": _ENDS,
    "exit_group": _ENDS,
    "rt_sigreturn": "floor: returns from a signal handler",
    "sigreturn": "floor: returns from a signal handler",
    "restart_syscall": "floor: resumes a call that a signal interrupted",
    # arch/x86/entry/vdso/vdso.lds.S and vdso32/vdso32.lds.S name the functions that have such a fallback
    "clock_gettime": _CLOCK,
    "clock_gettime64": _CLOCK,
    "clock_getres": _CLOCK,
    "clock_getres_time64": _CLOCK,
    "gettimeofday": _CLOCK,
    "time": _CLOCK,
    "getcpu": "floor: what the vDSO falls back to",
    "sched_yield": "floor: what spinning threads call",
}
"""Allowed in every architecture of the policy that has them: whether a run makes these calls depends on timing."""

CLONE_THREAD = 0x00010000
"""linux/sched.h"""

THREADS = "floor: how threads wait for each other; depends on timing"
"""Why a program that starts threads may use all of `FUTEX_OPERATIONS`."""

FUTEX_OPERATIONS = (
    "FUTEX_WAIT_PRIVATE",
    "FUTEX_WAKE_PRIVATE",
    "FUTEX_WAIT_BITSET_PRIVATE",
    "FUTEX_WAIT_BITSET_PRIVATE|FUTEX_CLOCK_REALTIME",
    "FUTEX_WAIT_BITSET|FUTEX_CLOCK_REALTIME",
)
"""What glibc, musl, Go and Rust make of locks, conditions and joins.  Whether a lock is taken, and so which of
them a run needs, depends on timing."""

PAUSE = "floor: sleeping while waiting for another task; depends on timing"
"""Why a program that starts processes or threads may sleep as `PAUSES` do: whether the
other has got so far when it looks, or it has to look again, depends on timing."""

STARTS = ("clone", "fork", "vfork")

PAUSES = ("clock_nanosleep", "clock_nanosleep_time64")

PAUSE_ARGUMENTS = (("CLOCK_REALTIME", "0"), ("CLOCK_MONOTONIC", "TIMER_ABSTIME"))
"""What glibc makes of sleep, usleep and nanosleep, and CPython of time.sleep (since 3.11; subprocess polls so)."""

OPAQUE: Mapping[str, str] = {
    "clone3": "opaque: flags are behind a pointer; libc falls back to clone",
    "openat2": "opaque: flags are behind a pointer; programs fall back to openat",
    "io_uring_setup": "opaque: what a ring asks for is no system call; programs fall back to those",
}
"""Fail with ENOSYS, as on a kernel that does not have them."""

VISIBLE_NO_MORE: Mapping[str, str] = {
    "clone3": "opaque: allowed with any flags, also new namespaces: they are behind a pointer",
    "openat2": "opaque: allowed with any flags and mode: they are behind a pointer",
    "io_uring_setup": "opaque: allowed, and with it whatever a ring can be asked for: no filter sees it",
}
"""Of the same calls, when they are allowed on request."""

ARMED_BEFORE = "floor: the execve of the program itself, since the filter is armed before it"
