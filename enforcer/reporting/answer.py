"""What becomes of a call that the filter did not allow: reported, then failed or its process killed.

Whatever goes wrong here (a policy that cannot be read any more, no memory, callfence uninstalled meanwhile) the call is
not run, and the process is killed, which no policy can ask more than.
"""

from __future__ import annotations

import errno
import gc
import os
import select

from enforcer import kernel
from tracer import linux

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

    from enforcer.kernel import Notification
    from enforcer.reporting.report import Reports
    from enforcer.reporting.reporter import Reporter
    from policygen.model import Action


def serve(program: int, listener: int, reporter: Reporter) -> NoReturn:
    """Answer calls until the last confined task has ended.  `program` is a pidfd of the first one."""
    gc.enable()  # whoever started us may do without, for the start
    answers = Answers(listener, reporter)
    poller = select.poll()
    poller.register(listener, select.POLLIN)
    poller.register(program, select.POLLIN)
    while True:
        for descriptor, events in poller.poll():
            if descriptor == program:
                poller.unregister(program)
                answers.program_ended()
            elif events & select.POLLIN:
                answers.next()
            else:  # POLLHUP: nobody has the filter any more
                answers.all_ended()
                os._exit(0)


class Answers:
    """Takes calls from the listener, one after the other."""

    def __init__(self, listener: int, reporter: Reporter) -> None:
        self._listener = listener
        self._reporter = reporter
        self._reports: Reports | None = None

    def next(self) -> None:
        """Answer the call that waits longest."""
        try:
            asked = kernel.receive(self._listener)
        except OSError:  # ENOENT: it was interrupted, or its task has died
            return
        action = None
        try:
            if self._reports is None:
                from enforcer.reporting.report import Reports

                self._reports = Reports(self._reporter, self._is_waiting)
            action = self._reports.judge(asked)
        except Exception as error:
            self._complain(error)
        try:
            self._apply(asked, action)
        except Exception:  # it has died meanwhile, or cannot be killed
            return

    def program_ended(self) -> None:
        """The program's own process has ended; others may still be confined."""
        if self._reports:
            _try(self._reports.summarise)
        self._reporter.give_back()

    def all_ended(self) -> None:
        if self._reports:
            _try(self._reports.conclude)

    def _is_waiting(self, asked: Notification) -> bool:
        return kernel.is_waiting(self._listener, asked.id)

    def _apply(self, asked: Notification, action: Action | None) -> None:
        kind = action.kind if action else ""
        if self._reporter.audit:
            kernel.let_run(self._listener, asked.id)
        elif action and kind == "errno":
            kernel.fail(self._listener, asked.id, action.errno)
        elif kind == "notify":  # as the kernel does it where nobody listens
            kernel.fail(self._listener, asked.id, errno.ENOSYS)
        else:
            try:
                if self._is_waiting(asked):
                    _end(asked.task, trap=kind == "trap")
            finally:
                kernel.fail(self._listener, asked.id, errno.ENOSYS)

    def _complain(self, error: Exception) -> None:
        text = f"enforce: a call could not be judged, so its process is killed: {type(error).__name__}: {error}\n"
        try:
            os.write(self._reporter.descriptor, text.encode(errors="replace"))
        except OSError:
            return


def _try(tell: Callable[[], None]) -> None:
    """Whatever becomes of what is told, calls must go on being answered."""
    try:
        tell()
    except Exception:
        return


def _end(task: int, *, trap: bool) -> None:
    """Kill the process of a thread that waits for an answer, by SIGSYS as SECCOMP_RET_KILL_PROCESS does.

    That signal must not be caught, ignored or blocked, or it would not kill: then by SIGKILL.  With `trap` it is sent
    in any case, although without the siginfo of SECCOMP_RET_TRAP, which only the kernel can send.
    """
    try:
        _signal(task, trap=trap)
    except Exception:  # no /proc here, or whatever else: kill(2) takes a thread for its process
        os.kill(task, kernel.SIGKILL)


def _signal(task: int, *, trap: bool) -> None:
    with open(f"/proc/{task}/status", errors="replace") as file:  # a process may have any bytes for a name
        status = dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)
    process = int(status["Tgid"])
    bit = 1 << (kernel.SIGSYS - 1)
    deaf = any(int(status[mask], 16) & bit for mask in ("SigBlk", "SigIgn", "SigCgt"))
    initial = status.get("NSpid", "").split()[-1:] == ["1"]
    if trap or not (deaf or initial):
        kernel.kill_thread(process, task, kernel.SIGSYS)
    elif initial:
        _kill_initial(process)
    else:
        os.kill(process, kernel.SIGKILL)


def _kill_initial(process: int) -> None:
    """Kill the first process of a pid namespace, which ignores even SIGKILL from inside (pid_namespaces(7)).

    It cannot ignore the one that the kernel sends when a tracer with PTRACE_O_EXITKILL ends.
    """
    child = kernel.clone()
    if child == 0:
        try:
            kernel.ptrace(linux.PTRACE_SEIZE, process, 0, linux.PTRACE_O_EXITKILL)
        finally:
            os._exit(0)
    os.waitpid(child, linux.WALL)
