"""What the helper does between seizing the program and letting it go: filter in, listener out.

An execve reports an event stop *inside* the call, then its exit stop (ptrace(2)); only there, before the new program's
first instruction, can a call of ours be performed.
"""

from __future__ import annotations

import errno
import os
import select

from enforcer import kernel
from enforcer.arming import inject

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from enforcer.arming.inject import Surgery

_OPTIONS = kernel.PTRACE_O_EXITKILL | kernel.PTRACE_O_TRACEEXEC | kernel.PTRACE_O_TRACESYSGOOD
_FORK_OPTIONS = kernel.PTRACE_O_TRACEFORK | kernel.PTRACE_O_TRACEVFORK | kernel.PTRACE_O_TRACECLONE
_FORK_EVENTS = (kernel.PTRACE_EVENT_FORK, kernel.PTRACE_EVENT_VFORK, kernel.PTRACE_EVENT_CLONE)
_AT_ENTRY = 9  # linux/auxvec.h
_INT3 = 0xCC
BUSY = (
    "another filter has a listener already (a container's, or enforce within enforce); without reports: --quiet-kernel"
)
"""EBUSY of seccomp(2)."""
_SPINS = 1000
"""Looks at the listener without sleeping: closing one descriptor takes microseconds."""
_LONGEST = 50
"""Milliseconds between two looks at a process that has been stopped meanwhile."""


class ArmError(Exception):
    """The filter could not be put in place; the program must not run."""


def seize(pid: int) -> None:
    """Trace the process from now on; it dies if this process does."""
    kernel.ptrace(kernel.PTRACE_SEIZE, pid, 0, _OPTIONS | _FORK_OPTIONS)


def probe_listener(pidfd: int) -> None:
    """OSError if a listener could not be taken out of the process: tried on a descriptor, open or not."""
    try:
        os.close(kernel.pidfd_getfd(pidfd, 0))
    except OSError as error:
        if error.errno != errno.EBADF:
            raise


def until_exec(pid: int) -> None:
    """Follow a seized process to the exit stop of its first successful execve.  GoneError if there is none.

    ArmError, with the process at the exit of a call, if it starts a thread or a process before."""
    while (event := _next_event(pid)) != kernel.PTRACE_EVENT_EXEC:
        if event in _FORK_EVENTS:
            _end_new(pid)
            raise ArmError("it starts a thread or a process before its execve, which could not be confined")
        inject.resume(kernel.PTRACE_CONT, pid)
    _leave_call(pid)


def until_entry(pid: int) -> None:
    """From an execve's exit stop to the ELF entry point of the program, behind its dynamic loader.

    ArmError, with the process at the exit of a call, if it starts a thread or a process before: that would not be
    confined by what is installed here.
    """
    while True:
        entry = _entry_point(pid)
        if kernel.get_registers(pid)[inject.RIP] == entry:  # no dynamic loader
            return
        aligned, shift = entry & ~7, 8 * (entry & 7)
        word = kernel.peek(pid, aligned)
        kernel.poke(pid, aligned, word & ~(0xFF << shift) | _INT3 << shift)
        inject.resume(kernel.PTRACE_CONT, pid)
        event = _next_event(pid, breakpoint_end=entry + 1)
        if event == kernel.PTRACE_EVENT_EXEC:  # a constructor executed something else: once more
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
        registers[inject.RIP] = entry
        kernel.set_registers(pid, registers)
        return


def install(surgery: Surgery, program: bytes, pidfd: int) -> int:
    """Put the filter on a stopped process, and take its listener out through `pidfd`: the process keeps nothing of it.

    With no pidfd (-1) there is no listener (-1).  ArmError if the kernel refuses.
    """
    seccomp = surgery.convention.seccomp
    pointer = surgery.convention.pointer

    def data(address: int) -> bytes:  # struct sock_fprog {unsigned short len; struct sock_filter *filter}, then those
        length = (len(program) // 8).to_bytes(pointer, "little")
        return (length + (address + 2 * pointer).to_bytes(pointer, "little")) + program

    def load(flags: int) -> int:
        return surgery.call_with(seccomp, kernel.SECCOMP_SET_MODE_FILTER, flags, data=data)

    if pidfd < 0:
        _checked(load(0), "the kernel refused the filter")
        surgery.is_confined = True
        return -1
    # Linux 5.19 can keep signals from interrupting a call that is being answered; before, such a call is asked again.
    flags = kernel.SECCOMP_FILTER_FLAG_NEW_LISTENER
    result = load(flags | kernel.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV)
    if result == -errno.EINVAL:
        result = load(flags)
    if result == -errno.EBUSY:
        raise ArmError(BUSY)
    theirs = _checked(result, "the kernel refused the filter")
    surgery.is_confined = True
    listener = kernel.pidfd_getfd(pidfd, theirs)
    answer = _own_close(listener, surgery, theirs)
    result = surgery.call(surgery.convention.close, theirs, waiting=answer)
    _checked(result, "the listener could not be closed in the program")
    return listener


def _own_close(listener: int, surgery: Surgery, descriptor: int) -> Callable[[], None]:
    """Answers the one call that is ours: a filter compiled to report asks about a `close` that it does not allow.

    Nothing of the program has run, it has one thread and no child: any other call that asks is an error.
    """
    poller = select.poll()
    poller.register(listener, select.POLLIN)
    looks = 0

    def look() -> None:
        nonlocal looks
        looks += 1
        if not poller.poll(min(looks // _SPINS, _LONGEST)):
            os.sched_yield()
            return
        try:
            asked = kernel.receive(listener)
            ours = (surgery.pid, surgery.convention.audit, surgery.convention.close, descriptor)
            if (asked.task, asked.arch, asked.number, asked.arguments[0]) != ours:
                raise ArmError(f"an unexpected call, number {asked.number}, was made while the filter was put in place")
            kernel.let_run(listener, asked.id)
        except FileNotFoundError:  # ENOENT: a stop has interrupted it, and it will be made again
            return

    return look


def _next_event(pid: int, breakpoint_end: int = 0) -> int:
    """Follow the running process, signals and stops as without us, to its next ptrace event; 0 at the breakpoint."""
    while True:
        status = inject.wait(pid)
        event = status >> 16
        if event not in (0, kernel.PTRACE_EVENT_STOP):
            return event
        trapped = event == 0 and os.WSTOPSIG(status) == kernel.SIGTRAP
        if trapped and kernel.get_registers(pid)[inject.RIP] == breakpoint_end:
            return 0
        inject.go_on(kernel.PTRACE_CONT, pid, status)


def _leave_call(pid: int) -> None:
    """From an event stop, which is inside a call, to that call's exit stop."""
    inject.resume(kernel.PTRACE_SYSCALL, pid)
    status = inject.wait(pid)
    if os.WSTOPSIG(status) != inject.SYSCALL_STOP:
        raise ArmError(f"it stopped with status {status:#x} instead of leaving its call")


def _end_new(pid: int) -> None:
    """At a fork's event stop: end what was started, and take the process to the exit of its call."""
    new = kernel.event_message(pid)
    if not os.path.exists(f"/proc/{pid}/task/{new}"):
        os.kill(new, kernel.SIGKILL)  # a process; a thread goes with the program
    _leave_call(pid)


def _entry_point(pid: int) -> int:
    """AT_ENTRY of /proc/PID/auxv, whose words are as wide as the program's pointers (proc(5))."""
    with open(f"/proc/{pid}/auxv", "rb") as file:
        vector = file.read()
    size = 4 if kernel.get_registers(pid)[inject.CS] == inject.USER32_CS else 8
    words = [int.from_bytes(vector[i : i + size], "little") for i in range(0, len(vector), size)]
    for name, value in zip(words[::2], words[1::2], strict=False):
        if name == _AT_ENTRY:
            return value
    raise ArmError("its entry point is not known: no AT_ENTRY in its auxiliary vector")


def _checked(result: int, what: str) -> int:
    if result < 0:
        raise ArmError(f"{what}: {os.strerror(-result)}")
    return result
