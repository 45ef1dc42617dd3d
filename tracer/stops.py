"""Decodes the wait status of a traced task (waitpid(2), ptrace(2)) into a `Stop`, without a system call.

`enforce` imports this on some starts, so it imports no more than the kernel's numbers.
"""

from __future__ import annotations

from callfence.tracer import TYPE_CHECKING, linux

if TYPE_CHECKING:
    from typing import Final

ENDED = "ended"
"""The task has ended."""
CALL = "call"
"""The task is at a syscall-entry, syscall-exit or seccomp stop; PTRACE_GET_SYSCALL_INFO reports which."""
EXECUTED = "executed"
"""The task is in an execve that has succeeded, before it returns."""
CREATED = "created"
"""The task is in a call that has created another task: fork, vfork or clone."""
GROUP = "group"
"""The task is in a group-stop; PTRACE_LISTEN keeps it there until SIGCONT."""
TRAP = "trap"
"""The task was interrupted by the tracer, was continued by SIGCONT, or is new and has not run yet."""
SIGNAL = "signal"
"""The task is at a signal-delivery stop: the tracer may deliver, change or suppress the signal."""
OTHER = "other"
"""The task is at a ptrace event that the tracer did not request."""

STOPPING: Final = (19, 20, 21, 22)  # SIGSTOP, SIGTSTP, SIGTTIN, SIGTTOU: asm/signal.h, x86
SIGTRAP: Final = 5
SYSCALL_STOP: Final = SIGTRAP | 0x80  # PTRACE_O_TRACESYSGOOD
STATUS_SECCOMP: Final = linux.PTRACE_EVENT_SECCOMP << 16 | SIGTRAP << 8 | 0x7F
"""The wait status of a seccomp stop."""
STATUS_SYSCALL: Final = SYSCALL_STOP << 8 | 0x7F
"""The wait status of a syscall-entry or syscall-exit stop under PTRACE_O_TRACESYSGOOD."""
_CREATING = (linux.PTRACE_EVENT_FORK, linux.PTRACE_EVENT_VFORK, linux.PTRACE_EVENT_CLONE)


class Stop:
    """A stop of a task, or its end."""

    __slots__ = ("event", "kind", "signal")

    def __init__(self, kind: str, signal: int = 0, event: int = 0) -> None:
        self.kind = kind
        """ENDED, CALL, EXECUTED, CREATED, GROUP, TRAP, SIGNAL or OTHER."""
        self.signal = signal
        """The signal of a signal-delivery stop or a group-stop; else 0."""
        self.event = event
        """PTRACE_EVENT_* of the call that has created a task; else 0."""


_STOPS = {STATUS_SECCOMP: Stop(CALL), STATUS_SYSCALL: Stop(CALL)}
"""The decoded stops, by wait status: a cache, since there are few different statuses."""


def stop_of(status: int) -> Stop:
    """Return the stop that a wait status reports; the task must have been seized with PTRACE_O_TRACESYSGOOD."""
    stop = _STOPS.get(status)
    if stop is None:
        stop = _STOPS[status] = _classified(status)
    return stop


def _classified(status: int) -> Stop:
    event, signal = status >> 16, status >> 8 & 0xFF
    if status & 0xFF != 0x7F:  # WIFSTOPPED
        return Stop(ENDED)
    if event == 0:
        return Stop(SIGNAL, signal)
    if event == linux.PTRACE_EVENT_STOP:
        return Stop(GROUP, signal) if signal in STOPPING else Stop(TRAP)
    if event == linux.PTRACE_EVENT_EXEC:
        return Stop(EXECUTED)
    return Stop(CREATED, 0, event) if event in _CREATING else Stop(OTHER)
