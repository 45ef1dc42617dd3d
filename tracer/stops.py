"""What a wait status of a traced task says (waitpid(2), ptrace(2)), as a value; the kernel is not asked.

`enforce` imports this on some starts, so it imports no more than the kernel's numbers.
"""

from __future__ import annotations

from tracer import TYPE_CHECKING, linux

if TYPE_CHECKING:
    from typing import Final

ENDED = "ended"
"""The task has ended."""
CALL = "call"
"""At a call's entry or exit, or at a filter's RET_TRACE: PTRACE_GET_SYSCALL_INFO says which."""
EXECUTED = "executed"
"""Within an execve that has succeeded, before it returns."""
CREATED = "created"
"""Within a call that has created a task: fork, vfork or clone."""
GROUP = "group"
"""In a group-stop: PTRACE_LISTEN keeps it there until SIGCONT."""
TRAP = "trap"
"""Interrupted by the tracer, continued by SIGCONT, or new and not begun."""
SIGNAL = "signal"
"""About to be given a signal, which the tracer may deliver, change or suppress."""
OTHER = "other"
"""At an event that was not requested."""

STOPPING: Final = (19, 20, 21, 22)  # SIGSTOP, SIGTSTP, SIGTTIN, SIGTTOU: asm/signal.h, x86
SIGTRAP: Final = 5
SYSCALL_STOP: Final = SIGTRAP | 0x80  # PTRACE_O_TRACESYSGOOD
STATUS_SECCOMP: Final = linux.PTRACE_EVENT_SECCOMP << 16 | SIGTRAP << 8 | 0x7F
"""The whole wait status of a seccomp stop."""
STATUS_SYSCALL: Final = SYSCALL_STOP << 8 | 0x7F
"""That of a stop at a call's entry or exit under PTRACE_O_TRACESYSGOOD."""
_CREATING = (linux.PTRACE_EVENT_FORK, linux.PTRACE_EVENT_VFORK, linux.PTRACE_EVENT_CLONE)


class Stop:
    """One stop, or the end, of a task."""

    __slots__ = ("event", "kind", "signal")

    def __init__(self, kind: str, signal: int = 0, event: int = 0) -> None:
        self.kind = kind
        """One of the words above."""
        self.signal = signal
        """The signal of a signal-delivery stop or a group-stop; else 0."""
        self.event = event
        """PTRACE_EVENT_* of the call that has created a task; else 0."""


_STOPS = {STATUS_SECCOMP: Stop(CALL), STATUS_SYSCALL: Stop(CALL)}
"""The stops by wait status: few statuses differ."""


def stop_of(status: int) -> Stop:
    """Return the stop that a wait status means, of a task that was seized with PTRACE_O_TRACESYSGOOD."""
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
