"""Follow a confined program, and all that it starts, until each process has entered its last phase or ended.

Every call stops at its entry (PTRACE_SYSCALL).  At the entry of a phase's trigger, the filter of the phase is put on all
threads of the process, and then the call is made.  Filters only add up, and the strictest answer counts.  Until a process is
let go, its filters leave denied calls to this process (SECCOMP_RET_TRACE); the last one has a listener.  While this process
traces a program, its death ends the program (PTRACE_O_EXITKILL).
"""

from __future__ import annotations

import errno
import os
import select

from enforcer import helper, kernel
from enforcer.arming import inject, install
from enforcer.arming.detour import Detour
from enforcer.arming.stage import DATUM
from enforcer.errors import ArmError, GoneError
from enforcer.reporting.process import status as status_of
from tracer import linux
from tracer.errors import KernelError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from enforcer.arming.stage import Stage
    from enforcer.duty import Duty
    from policygen.model import Action

_CALL = inject.SYSCALL_STOP << 8 | 0x7F
"""The status of a stop at a call's entry or exit."""
_FORKS = (linux.PTRACE_EVENT_FORK, linux.PTRACE_EVENT_VFORK, linux.PTRACE_EVENT_CLONE)
_PRCTL = {linux.AUDIT_ARCH_X86_64: 157, linux.AUDIT_ARCH_I386: 172}
_SENDS = {  # sendmsg, sendto, write
    **dict.fromkeys([(linux.AUDIT_ARCH_X86_64, number) for number in (46, 44, 1)], 8),
    **dict.fromkeys([(linux.AUDIT_ARCH_I386, number) for number in (370, 369, 4)], 4),
}
"""Calls with which a program may say that it is ready, and the size of a pointer."""
_SENDMSG = ((linux.AUDIT_ARCH_X86_64, 46), (linux.AUDIT_ARCH_I386, 370))
_RESTARTED = {
    # futex poll ppoll select pselect6 nanosleep clock_nanosleep wait4 waitid rt_sigsuspend pause
    linux.AUDIT_ARCH_X86_64: (202, 7, 271, 23, 270, 35, 230, 61, 247, 130, 34),
    # and waitpid, sigsuspend, futex_time64, ppoll_time64, pselect6_time64, clock_nanosleep_time64
    linux.AUDIT_ARCH_I386: (240, 168, 309, 142, 308, 162, 267, 114, 284, 179, 29, 7, 72, 422, 414, 413, 407),
}
"""Calls that go on as before when a stop interrupts them; epoll_wait, for instance, fails with EINTR (signal(7))."""
_UNREADABLE = "its memory cannot be read (PR_SET_DUMPABLE)"


class _Process:
    """A process that is traced."""

    __slots__ = ("doomed", "is_left", "is_stuck", "is_told", "pid", "reached", "threads")

    def __init__(self, pid: int, reached: int) -> None:
        self.pid = pid
        self.reached = reached
        """How many of the phases it has entered or passed."""
        self.threads: set[int] = set()
        self.is_left = False
        """Whether it is in its last phase, so that its threads are let go at their next stop."""
        self.is_stuck = False
        """Whether no filter can be put on the program that it executes."""
        self.is_told = False
        """Whether the user knows that it cannot enter a phase."""
        self.doomed = 0
        """The task whose call ends the process; none of them goes on in the program."""


class Follower:
    """What follows the program."""

    def __init__(self, program: int, stages: Sequence[Stage], duty: Duty, stderr: int, *, is_quiet: bool) -> None:
        self._program = program
        self._stages = stages
        self._duty = duty
        self._stderr = stderr
        self._is_quiet = is_quiet
        self._triggers = {trigger: number for number, stage in enumerate(stages, 1) for trigger in stage.triggers}
        entered = [number for number, stage in enumerate(stages, 1) if stage.is_entered]
        self._notified = next((number for number, stage in enumerate(stages, 1) if stage.is_notified), 0)
        """The number of the phase that begins when the program says that it is ready; 0 if none does."""
        self._numbers = {(arch, number) for arch, number in _PRCTL.items() if entered} | set(self._triggers)
        self._numbers.update(_SENDS if self._notified else ())
        """Calls that are looked at."""
        self._processes: dict[int, _Process] = {}
        self._tasks: dict[int, _Process] = {}
        self._early: set[int] = set()
        """Tasks that stopped or ended before the event of their parent came; they may have been let go since."""
        self._inside: dict[int, tuple[int, int]] = {}
        """Architecture and number of the call that a task is in."""
        self._stop = kernel.CallStop()
        self._epoll: select.epoll | None = None
        self._children = -1

    def run(self, *, is_executed: bool) -> None:
        """Follow the program, which is stopped, until nothing is traced any more.

        If it has not been executed yet, what `enforce` itself does before leads to no phase."""
        self._adopt(self._program).is_stuck = not is_executed
        self._resume(self._program)
        while self._tasks:
            pid, status = self._next()
            if not os.WIFSTOPPED(status):
                self._ended(pid)
                continue
            try:
                self._stopped(pid, status)
            except (ProcessLookupError, GoneError):
                self._gone(pid)

    # What happens

    def _next(self) -> tuple[int, int]:
        """The next stop or end of a task.  Calls that ask meanwhile are answered."""
        while self._epoll is not None:
            pid, status = os.waitpid(-1, linux.WALL | os.WNOHANG)
            if pid:
                return pid, status
            for descriptor, events in self._duty.events(self._epoll):
                if descriptor == self._children:
                    os.read(descriptor, 4096)
                else:
                    self._duty.answer(self._epoll, descriptor, events)
        return os.waitpid(-1, linux.WALL)

    def _stopped(self, pid: int, status: int) -> None:
        process = self._tasks.get(pid)
        if process is None:
            self._early.add(pid)
            process = self._adopt(pid)
        event = status >> 16
        if process.doomed:
            self._ends(pid, process, status)
        elif process.is_left:
            if event == linux.PTRACE_EVENT_SECCOMP:
                self._asked(pid, process)
            self._let_go(pid, os.WSTOPSIG(status) if event == 0 and status != _CALL else 0)
        elif status == _CALL:
            self._at_call(pid, process)
        elif event == linux.PTRACE_EVENT_SECCOMP:
            self._asked(pid, process)
            self._resume(pid)
        elif event == linux.PTRACE_EVENT_EXEC:
            self._executed(pid)
            self._resume(pid)
        elif event in _FORKS:
            new = kernel.event_message(pid)
            if new in self._early:
                self._early.discard(new)
            elif new not in self._tasks and os.path.exists(f"/proc/{new}"):
                self._adopt(new, process)
            self._resume(pid)
        else:
            inject.go_on(linux.PTRACE_SYSCALL, pid, status)

    def _ends(self, pid: int, process: _Process, status: int) -> None:
        """A stop of a process that SIGSYS should end: its other threads stay where they are, so that they cannot prevent it."""
        if pid != process.doomed:
            return
        if status == _CALL and pid in self._inside:
            del self._inside[pid]
            self._resume(pid)
        elif status >> 8 == kernel.SIGSYS:
            kernel.ptrace(linux.PTRACE_CONT, pid, 0, kernel.SIGSYS)
        else:
            self._kill(process)

    def _at_call(self, pid: int, process: _Process) -> None:
        if self._inside.pop(pid, None) is None:
            stop = self._stop
            stop.read(pid)
            if stop.op == linux.PTRACE_SYSCALL_INFO_ENTRY:
                call = self._inside[pid] = (stop.arch, stop.number)
                if call in self._numbers and not process.is_stuck and self._enters(pid, process, call):
                    return
        kernel.ptrace(linux.PTRACE_SYSCALL, pid)

    def _adopt(self, pid: int, parent: _Process | None = None) -> _Process:
        """Add a task; its process if that is new."""
        fields = status_of(pid)
        tgid = int(fields.get("Tgid", pid))
        process = self._processes.get(tgid)
        if process is None:
            parent = parent or self._processes.get(int(fields.get("PPid", 0)))
            process = self._processes[tgid] = _Process(tgid, parent.reached - parent.is_left if parent else 0)
        process.threads.add(pid)
        self._tasks[pid] = process
        return process

    def _executed(self, pid: int) -> None:
        """A task has executed another program: the other threads are gone, and it has the process's id."""
        self._inside.pop(kernel.event_message(pid), None)
        self._inside[pid] = (0, 0)  # the exit of its execve comes
        process = self._processes[pid]
        process.is_stuck = process.is_told = False
        for task in process.threads - {pid}:
            self._tasks.pop(task, None)
            self._inside.pop(task, None)
        process.threads = {pid}
        self._tasks[pid] = process

    def _ended(self, pid: int) -> None:
        if pid not in self._tasks:
            self._early.add(pid)
        self._forget(pid)
        if pid == self._program:
            self._duty.program_ended()

    def _gone(self, pid: int) -> None:
        """A task was killed while it was stopped: its end comes, or was taken where it was given a filter or resumed."""
        try:
            found, status = os.waitpid(pid, linux.WALL | os.WNOHANG)
        except ChildProcessError:
            self._ended(pid)
            return
        if found and not os.WIFSTOPPED(status):
            self._ended(pid)

    def _forget(self, pid: int) -> None:
        process = self._tasks.pop(pid, None)
        self._inside.pop(pid, None)
        if process is not None:
            process.threads.discard(pid)
            if not process.threads:
                self._processes.pop(process.pid, None)

    def _resume(self, pid: int) -> None:
        inject.resume(linux.PTRACE_SYSCALL, pid)

    def _let_go(self, pid: int, signal: int = 0) -> None:
        self._forget(pid)
        kernel.ptrace(linux.PTRACE_DETACH, pid, 0, signal)

    # Phases

    def _enters(self, pid: int, process: _Process, call: tuple[int, int]) -> bool:
        """Put the filter of the phase on the process that this call leads to, if any; whether the task has been resumed."""
        said = self._said(pid) if _PRCTL.get(call[0]) == call[1] else 0
        number = said or self._triggers.get(call, 0)
        if number <= process.reached < self._notified and call in _SENDS and self._is_ready(pid, call):
            number = self._notified
        if not said and number <= process.reached:
            return False
        self._inside.pop(pid)
        try:
            surgery = Detour(pid, call[0], unmaps=bool(number) and self._stages[max(number, 1) - 1].unmaps)
        except ProcessLookupError:  # it is dying
            raise
        except (ArmError, OSError) as error:
            self._stuck(process, str(error) if isinstance(error, ArmError) else _UNREADABLE)
            self._inside[pid] = call
            return False
        if number > process.reached:
            self._put(surgery, process, number)
        if said:
            surgery.finish(0)
        else:
            surgery.close()
        if process.is_left:
            self._let_go(pid)
        else:
            self._resume(pid)
        return True

    def _said(self, pid: int) -> int:
        """The number of the phase that a program says it enters; 0 for another prctl or another phase."""
        if self._stop.arguments[0] != linux.CALLFENCE_ENTER:
            return 0
        try:
            name = kernel.peek_string(pid, self._stop.arguments[1])
        except ProcessLookupError:
            raise
        except OSError:
            self._tell(self._tasks[pid], _UNREADABLE)
            return 0
        named = {os.fsencode(stage.name): number for number, stage in enumerate(self._stages, 1) if stage.is_entered}
        return named.get(name, 0)

    def _is_ready(self, pid: int, call: tuple[int, int]) -> bool:
        """Whether the call tells a service manager that the program is ready."""
        from enforcer.reporting.caller import Caller  # with tables, which most programs do without
        from tracer.abi.ready import is_ready

        caller = Caller(pid, self._tasks[pid].pid)
        if not caller.can_be_read:
            self._tell(self._tasks[pid], _UNREADABLE)
        try:
            return is_ready(self._stop.arguments, caller.read, pointer=_SENDS[call], is_sendmsg=call in _SENDMSG)
        finally:
            caller.close()

    def _put(self, surgery: Detour, process: _Process, number: int) -> None:
        """Put the filter of a phase on a process."""
        stage = self._stages[number - 1]
        is_last = number == len(self._stages)
        listens = is_last and not self._is_quiet
        others: list[kernel.Notification] = []
        pidfd = kernel.pidfd_open(process.pid) if listens else -1
        try:
            listener = install.install(surgery, stage.filter, pidfd, others)
            if listener >= 0:
                self._listen(listener, stage.name, others)
        except GoneError:
            raise
        except (KernelError, OSError) as error:
            if surgery.is_confined:
                self._kill(process)  # nobody would answer its calls
            if error.errno != errno.EBUSY or not listens:
                self._stuck(process, str(error))
                return
            # It was started by a thread of a process that was just entering the phase, and has the filter.
        finally:
            if pidfd >= 0:
                os.close(pidfd)
        process.reached = number
        process.is_left = is_last
        if is_last:
            self._call_back(process, surgery.pid)

    def _call_back(self, process: _Process, but: int) -> None:
        """Have the other threads stop, to be let go, where that goes unnoticed.  The rest stop at their next call."""
        for task in process.threads - {but}:
            arch, number = self._inside.get(task, (0, 0))
            if number in _RESTARTED.get(arch, ()):
                try:
                    kernel.ptrace(linux.PTRACE_INTERRUPT, task)
                except ProcessLookupError:
                    continue

    def _listen(self, listener: int, phase: str, others: Sequence[kernel.Notification]) -> None:
        """Answer the calls that this listener asks about from now on."""
        if self._epoll is None:
            self._children = kernel.signal_descriptor(kernel.SIGCHLD)
            self._epoll = select.epoll()
            self._epoll.register(self._children, select.EPOLLIN)
            self._epoll.register(self._duty.program, select.EPOLLIN)
        self._epoll.register(listener, select.EPOLLIN)
        self._duty.listen(listener, phase)
        for asked in others:
            self._duty.answer_late(listener, asked)

    def _stuck(self, process: _Process, why: str) -> None:
        process.is_stuck = True
        self._tell(process, why)

    def _tell(self, process: _Process, why: str) -> None:
        if process.is_told:
            return
        process.is_told = True
        text = f"enforce: process {process.pid} cannot enter a phase, and is allowed what a start needs: {why}\n"
        helper.write(self._stderr, text.encode(errors="replace"))

    # Calls that are denied before the last phase

    def _asked(self, pid: int, process: _Process) -> None:
        """Answer a call that a filter leaves to this process."""
        stop = self._stop
        stop.read(pid)
        if stop.datum != DATUM:  # a filter of the program's own, which nobody would answer
            self._fail(pid, errno.ENOSYS)
            return
        asked = kernel.Notification(0, pid, 0, stop.number, stop.arch, stop.ip, stop.arguments)
        action = self._duty.judged(asked, self._stages[process.reached - 1].name if process.reached else "")
        if not self._duty.is_audit:
            self._apply(pid, process, action)

    def _apply(self, pid: int, process: _Process, action: Action | None) -> None:
        kind = action.kind if action else "kill"
        if action and kind == "errno":
            self._fail(pid, action.errno)
        elif kind == "notify":
            self._fail(pid, errno.ENOSYS)
        elif kind == "trap":
            kernel.kill_thread(process.pid, pid, kernel.SIGSYS)
            self._fail(pid, errno.ENOSYS)
        elif kind == "kill":
            process.doomed = pid
            self._fail(pid, errno.ENOSYS)
            if _dies_of_sigsys(pid):
                kernel.kill_thread(process.pid, pid, kernel.SIGSYS)
            else:
                self._kill(process)

    def _fail(self, pid: int, number: int) -> None:
        kernel.poke_user(pid, 8 * linux.ORIG_RAX, inject.NO_CALL)
        kernel.poke_user(pid, 8 * linux.RAX, -number & inject.NO_CALL)

    def _kill(self, process: _Process) -> None:
        if process.pid == 1:  # of this pid namespace: it ignores even SIGKILL from inside, but not the end of its tracer
            os._exit(0)
        os.kill(process.pid, kernel.SIGKILL)


def _dies_of_sigsys(pid: int) -> bool:
    fields = status_of(pid)
    bit = 1 << (kernel.SIGSYS - 1)
    return bool(fields) and not any(int(fields[mask], 16) & bit for mask in ("SigBlk", "SigIgn", "SigCgt"))
