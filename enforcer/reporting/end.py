"""Ending the process that made a call, whatever it does to prevent that, before the call returns to it."""

from __future__ import annotations

import os
import select

from enforcer import kernel
from tracer import linux
from tracer.proc import fields_of, handles, owner

TYPE_CHECKING = False
if TYPE_CHECKING:
    from enforcer.listener import Asked

_ERESTARTNOINTR = 513  # linux/errno.h
_LOOK = 0.005
"""Seconds between two looks at a process that SIGSYS should end."""
_LOOKS = 20


def end(asked: Asked) -> None:
    """End the process that waits for this answer, by SIGSYS as SECCOMP_RET_KILL_PROCESS does, or else by SIGKILL.

    SIGSYS only kills a process that does not block, ignore or catch it and is not traced, and its other threads may change that
    at any time: so it gets SIGKILL if it has not died of SIGSYS at once.  Raises OSError if it may not be killed: the call then
    stays without an answer.
    """
    try:
        fields = fields_of(asked.call.task)
    except MemoryError:  # prlimit(2) has taken it
        fields = {}
    pidfd = _opened(fields)
    try:
        if not asked.is_waiting():
            return  # it has died; what was read may have been about another process
        if fields.get("Tgid") == "1":
            _end_namespace()
        if pidfd < 0:
            os.kill(asked.call.task, linux.SIGKILL)  # kill(2) takes a thread for its process
        elif not (_dies_of_sigsys(fields) and _by_sigsys(asked, pidfd, int(fields["Tgid"]))):
            kernel.send_signal(pidfd, linux.SIGKILL)
    finally:
        if pidfd >= 0:
            os.close(pidfd)


def trap(asked: Asked) -> None:
    """Send SIGSYS to the thread, though without the siginfo of SECCOMP_RET_TRAP, which only the kernel can send."""
    process = owner(asked.call.task)
    if asked.is_waiting():
        kernel.kill_thread(process, asked.call.task, linux.SIGSYS)


def exit_with(code: int, asked: Asked) -> None:
    """Have a task that is about to exit do so with another status.

    The call is answered with ERESTARTNOINTR while ptrace stops the task, so it is made again, with that status.  A task that
    cannot be traced (it is already, or Yama forbids it) is killed: its status must not say that all was well.
    """
    register = linux.RDI if asked.call.arch == linux.AUDIT_ARCH_X86_64 else linux.RBX
    if not asked.is_waiting():
        return
    try:
        kernel.ptrace(linux.PTRACE_SEIZE, asked.call.task)
    except OSError:
        os.kill(asked.call.task, linux.SIGKILL)
        return
    kernel.ptrace(linux.PTRACE_INTERRUPT, asked.call.task)
    try:  # noqa: SIM105  contextlib takes a millisecond of each start
        asked.fail(_ERESTARTNOINTR)
    except FileNotFoundError:
        pass  # before Linux 5.19, the stop alone makes it repeat the call; or it was killed
    _, stop = os.waitpid(asked.call.task, linux.WALL)
    if os.WIFSTOPPED(stop):
        kernel.poke_user(asked.call.task, 8 * register, code)
        kernel.ptrace(linux.PTRACE_DETACH, asked.call.task)


def _opened(fields: dict[str, str]) -> int:
    """A pidfd of the process, or -1: no /proc of this namespace, or no descriptor is left (prlimit(2))."""
    try:
        return kernel.pidfd_open(int(fields["Tgid"]))
    except (OSError, KeyError):
        return -1


def _dies_of_sigsys(fields: dict[str, str]) -> bool:
    if not fields:
        return False
    is_default = not handles(fields, linux.SIGSYS, "SigBlk", "SigIgn", "SigCgt")
    return is_default and fields["TracerPid"] == "0" and fields.get("NSpid", "").split()[-1:] != ["1"]


def _by_sigsys(asked: Asked, pidfd: int, process: int) -> bool:
    """Whether the process dies of SIGSYS within a moment.

    The call is answered with ERESTARTNOINTR while a signal is pending: it never returns to the program, and if SIGSYS does not
    kill, the process is stopped, or makes the call again.
    """
    try:
        waiting = select.epoll()  # poll(2) fails if RLIMIT_NOFILE has been lowered
    except OSError:
        return False
    try:
        waiting.register(pidfd, select.EPOLLIN)
        kernel.kill_thread(process, asked.call.task, linux.SIGSYS)
        # If SIGSYS was ignored at that moment it is lost, and only a task with a signal restarts the call: this one cannot be
        # ignored, comes after SIGSYS (SYNCHRONOUS_MASK, kernel/signal.c), and holds the process until SIGKILL.
        kernel.kill_thread(process, asked.call.task, linux.SIGSTOP)
        asked.fail(_ERESTARTNOINTR)
        for _ in range(_LOOKS):
            # While it dumps core, its threads have all been stopped for good (fs/coredump.c, zap_threads).
            if waiting.poll(_LOOK) or fields_of(process).get("CoreDumping") == "1":
                return True
    except OSError:  # it has died meanwhile
        return False
    finally:
        waiting.close()
    return False


def _end_namespace() -> None:
    """Kill the first process of our own pid namespace, which ignores even SIGKILL from inside (pid_namespaces(7)).

    It cannot ignore the one that the kernel sends when a tracer with PTRACE_O_EXITKILL ends; all others of the namespace,
    this one included, die with it.
    """
    try:
        kernel.ptrace(linux.PTRACE_SEIZE, 1, 0, linux.PTRACE_O_EXITKILL)
    finally:
        os._exit(0)
