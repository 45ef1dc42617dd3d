"""Calls that a policy allows even if they were not observed, and calls that it denies even if they were, each with the reason.

The reasons are notes in the policy (`layout.NOTE_WORDS`), so that every rule is explained.
"""

from __future__ import annotations

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
"""Calls that are allowed in every architecture of the policy that has them -> the reason: whether a run makes these calls
depends on timing."""

OPAQUE: Mapping[str, str] = {
    "clone3": "opaque: flags are behind a pointer; libc falls back to clone",
    "openat2": "opaque: flags are behind a pointer; programs fall back to openat",
    "io_uring_setup": "opaque: what a ring asks for is no system call; programs fall back to those",
}
"""Calls that fail with ENOSYS, as on a kernel that lacks them -> the reason."""

VISIBLE_NO_MORE: Mapping[str, str] = {
    "clone3": "opaque: allowed with any flags, also new namespaces: they are behind a pointer",
    "openat2": "opaque: allowed with any flags and mode: they are behind a pointer",
    "io_uring_setup": "opaque: allowed, and with it whatever a ring can be asked for: no filter sees it",
}
"""The same calls -> the note if they are allowed on request."""

ARMED_BEFORE = "floor: the execve of the program itself, since the filter is armed before it"
