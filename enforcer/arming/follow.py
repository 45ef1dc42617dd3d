"""Follow the traced program to the moment at which it is confined: the end of its execve, or its entry point.

An execve reports an event stop *inside* the call, then its exit stop (ptrace(2)).  Only at the exit stop, before the new
program's first instruction, can a call of ours be performed.
"""

from __future__ import annotations

import os

from enforcer import kernel
from enforcer.arming import inject
from enforcer.errors import ArmError
from tracer import linux

_OPTIONS = linux.PTRACE_O_EXITKILL | linux.PTRACE_O_TRACEEXEC | linux.PTRACE_O_TRACESYSGOOD
_FORK_OPTIONS = linux.PTRACE_O_TRACEFORK | linux.PTRACE_O_TRACEVFORK | linux.PTRACE_O_TRACECLONE
_FORK_EVENTS = (linux.PTRACE_EVENT_FORK, linux.PTRACE_EVENT_VFORK, linux.PTRACE_EVENT_CLONE)
_INT3 = 0xCC


def seize(pid: int) -> None:
    """Trace the process from now on.  It dies if this process does.  Raises OSError."""
    kernel.ptrace(linux.PTRACE_SEIZE, pid, 0, _OPTIONS | _FORK_OPTIONS)


def until_exec(pid: int) -> None:
    """Follow a seized process to the exit stop of its first successful execve.  GoneError if there is none.

    Raises ArmError, with the process at the exit of a call, if it starts a thread or a process before.
    """
    while (event := _next_event(pid)) != linux.PTRACE_EVENT_EXEC:
        if event in _FORK_EVENTS:
            _end_new(pid)
            raise ArmError("it starts a thread or a process before its execve, which could not be confined")
        inject.resume(linux.PTRACE_CONT, pid)
    _leave_call(pid)


def until_entry(pid: int) -> None:
    """Follow a process from its execve's exit stop to its ELF entry point, where its dynamic loader ends.

    Raises ArmError, with the process at the exit of a call, if it starts a thread or a process before, which the filter
    would not confine.
    """
    while True:
        entry = _entry_point(pid)
        if kernel.get_registers(pid)[linux.RIP] == entry:  # no dynamic loader
            return
        aligned, shift = entry & ~7, 8 * (entry & 7)
        word = kernel.peek(pid, aligned)
        kernel.poke(pid, aligned, word & ~(0xFF << shift) | _INT3 << shift)
        inject.resume(linux.PTRACE_CONT, pid)
        event = _next_event(pid, breakpoint_end=entry + 1)
        if event == linux.PTRACE_EVENT_EXEC:  # a constructor executed another program
            _leave_call(pid)
            continue
        if event in _FORK_EVENTS:
            _end_new(pid)
            raise ArmError(
                "it starts a thread or a process before its entry point, which could not be confined; "
                "arm at exec instead: --arm exec"
            )
        kernel.poke(pid, aligned, word)
        registers = kernel.get_registers(pid)
        registers[linux.RIP] = entry
        kernel.set_registers(pid, registers)
        return


def _next_event(pid: int, breakpoint_end: int = 0) -> int:
    """Follow the running process to its next ptrace event; 0 at the breakpoint.  Signals and stops take effect as usual."""
    while True:
        status = inject.wait(pid)
        event = status >> 16
        if event not in (0, linux.PTRACE_EVENT_STOP):
            return event
        trapped = event == 0 and os.WSTOPSIG(status) == kernel.SIGTRAP
        if trapped and kernel.get_registers(pid)[linux.RIP] == breakpoint_end:
            return 0
        inject.go_on(linux.PTRACE_CONT, pid, status)


def _leave_call(pid: int) -> None:
    """Take a process from an event stop, which is inside a call, to that call's exit stop."""
    inject.resume(linux.PTRACE_SYSCALL, pid)
    status = inject.wait(pid)
    if os.WSTOPSIG(status) != inject.SYSCALL_STOP:
        raise ArmError(f"it stopped with status {status:#x} instead of leaving its call")


def _end_new(pid: int) -> None:
    """At a fork's event stop: kill the new process, and take the old one to the exit of its call."""
    new = kernel.event_message(pid)
    if not os.path.exists(f"/proc/{pid}/task/{new}"):
        os.kill(new, kernel.SIGKILL)  # a process; a thread goes with the program
    _leave_call(pid)


def _entry_point(pid: int) -> int:
    entry = linux.entry_point(pid, kernel.get_registers(pid)[linux.CS])
    if entry is None:
        raise ArmError("its entry point is not known: no AT_ENTRY in its auxiliary vector")
    return entry
