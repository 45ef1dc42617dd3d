"""Follow the traced program to the moment at which it is confined: the end of its execve, or its entry point.

An execve reports an event stop *inside* the call, then its exit stop (ptrace(2)).  Only at the exit stop, before the new
program's first instruction, can a call of ours be performed.
"""

from __future__ import annotations

import os

from enforcer import kernel
from enforcer.arming import inject
from enforcer.errors import ArmError
from enforcer.shield import EXITS
from tracer import linux
from tracer.stops import CALL, CREATED, EXECUTED, GROUP, SIGNAL, SIGTRAP, TRAP

_OPTIONS = linux.PTRACE_O_EXITKILL | linux.PTRACE_O_TRACEEXEC | linux.PTRACE_O_TRACESYSGOOD
_FORK_OPTIONS = linux.PTRACE_O_TRACEFORK | linux.PTRACE_O_TRACEVFORK | linux.PTRACE_O_TRACECLONE
_EXECUTE_0 = 0x1  # DR7: breakpoint 0, of this task, where an instruction is executed (asm/debugreg.h)
_FORKS = linux.numbers_by_arch("clone", "clone3")
_RUNNING = linux.numbers_by_arch(
    "listen", "accept", "accept4", "wait4", "waitid", "waitpid", "pause", "rt_sigsuspend", "epoll_wait", "epoll_pwait",
    "ptrace", "io_uring_setup", "socketcall",
)  # fmt: skip
"""Calls that only a running program makes."""
_NO_CALL = 0xFFFFFFFFFFFFFFFF  # -1
_HINT = "arm at exec instead: --arm exec"


def seize(pid: int) -> None:
    """Trace the process from now on.  It dies if this process does.  Raises OSError."""
    kernel.ptrace(linux.PTRACE_SEIZE, pid, 0, _OPTIONS | _FORK_OPTIONS)


def stop(pid: int) -> None:
    """Stop a seized process that runs.  GoneError if it has died."""
    kernel.ptrace(linux.PTRACE_INTERRUPT, pid)
    inject.wait(pid)


def until_exec(pid: int) -> None:
    """Follow a seized process to the exit stop of its first successful execve.  GoneError if there is none.

    Raises ArmError, with the process at the exit of a call, if it starts a thread or a process before.
    """
    while (kind := _next_event(pid)) != EXECUTED:
        if kind == CREATED:
            _end_new(pid)
            raise ArmError("it starts a thread or a process before its execve, which could not be confined")
        inject.resume(linux.PTRACE_CONT, pid)
    _leave_call(pid)


def until_entry(pid: int) -> None:
    """Follow a process from its execve's exit stop to its ELF entry point, where its dynamic loader ends.

    The breakpoint is in the processor's debug registers, which the process cannot change itself, and each of its calls is
    looked at.  Raises ArmError, with the process at the exit of a call, if it ends before, starts a thread or a process, which
    the filter would not confine, or makes calls that only a running program makes.
    """
    while True:
        entry = _entry_point(pid)
        if kernel.get_registers(pid)[linux.RIP] == entry:  # no dynamic loader
            return
        try:
            kernel.poke_user(pid, linux.DEBUG_REGISTERS, entry)
            kernel.poke_user(pid, linux.DEBUG_CONTROL, _EXECUTE_0)
        except ProcessLookupError:
            raise
        except OSError as error:
            raise ArmError(f"there is no breakpoint for its entry point ({error.strerror}); {_HINT}") from error
        inject.resume(linux.PTRACE_SYSCALL, pid)
        if _is_reached(pid, entry):
            kernel.poke_user(pid, linux.DEBUG_CONTROL, 0)
            kernel.poke_user(pid, linux.DEBUG_REGISTERS, 0)
            return


def _is_reached(pid: int, entry: int) -> bool:
    """Follow the running process to its entry point: True; False at the exit of an execve that a constructor made."""
    while True:
        stop = inject.wait(pid)
        if stop.kind == EXECUTED:
            _leave_call(pid)
            return False
        if stop.kind == CREATED:
            _end_new(pid)
            raise ArmError(f"it starts a thread or a process before its entry point, which could not be confined; {_HINT}")
        if stop.kind == CALL:
            _judge(pid)
            inject.resume(linux.PTRACE_SYSCALL, pid)
        elif stop.kind == SIGNAL and stop.signal == SIGTRAP and kernel.get_registers(pid)[linux.RIP] == entry:
            return True
        else:
            inject.go_on(linux.PTRACE_SYSCALL, pid, stop)


def _judge(pid: int) -> None:
    """At a call's entry, before the entry point: if it may not be made there, have it fail and raise ArmError."""
    op, arch, number, first = kernel.syscall_info(pid)
    if op != linux.PTRACE_SYSCALL_INFO_ENTRY:
        return
    number &= ~linux.X32_BIT
    if number in EXITS.get(arch, ()):
        reason = "it ends before its entry point, and nothing of it was confined"
    elif number in _RUNNING.get(arch, ()):
        reason = f"it runs before its entry point (call number {number}), and nothing of it was confined"
    elif number in _FORKS.get(arch, ()) and _flags(pid, number, first) & linux.CLONE_UNTRACED:
        reason = "it starts a thread or a process before its entry point that could not be confined"
    else:
        return
    kernel.poke_user(pid, 8 * linux.ORIG_RAX, _NO_CALL)
    _leave_call(pid)
    raise ArmError(f"{reason}; {_HINT}")


def _flags(pid: int, number: int, first: int) -> int:
    """The flags of clone or clone3."""
    return kernel.peek(pid, first) if number == linux.NUMBERS["clone3"][0] else first


def _next_event(pid: int) -> str:
    """Follow the running process to its next ptrace event, a kind of stop.  Signals and stops take effect as usual."""
    while (stop := inject.wait(pid)).kind in (SIGNAL, GROUP, TRAP, CALL):
        inject.go_on(linux.PTRACE_CONT, pid, stop)
    return stop.kind


def _leave_call(pid: int) -> None:
    """Take a process from an event stop, which is inside a call, to that call's exit stop."""
    inject.resume(linux.PTRACE_SYSCALL, pid)
    if (stop := inject.wait(pid)).kind != CALL:
        raise ArmError(f"it stopped ({stop.kind}) instead of leaving its call")


def _end_new(pid: int) -> None:
    """At a fork's event stop: kill the new process, and take the old one to the exit of its call."""
    new = kernel.event_message(pid)
    if not os.path.exists(f"{pid}/task/{new}"):
        os.kill(new, linux.SIGKILL)  # a process; a thread goes with the program
    _leave_call(pid)


def _entry_point(pid: int) -> int:
    entry = linux.entry_point(pid, kernel.get_registers(pid)[linux.CS])
    if entry is None:
        raise ArmError("its entry point is not known: no AT_ENTRY in its auxiliary vector")
    return entry
