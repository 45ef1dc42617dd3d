"""Follow a confined program, and all that it starts, until each process has entered its last phase or ended.

Every call stops at its entry (PTRACE_SYSCALL), before the kernel asks the filters.  At the entry of a phase's trigger, the
filter of the phase is put on all threads of the process, and then the call is made.  Filters only add up, and the strictest
answer counts: what a process may do is decided by the filters that it has, and by nothing that this process believes.

Before the last phase, filters answer SECCOMP_RET_USER_NOTIF for what is to be reported, and have no listener: the kernel fails
such a call with ENOSYS, and no process can let it run.  It is reported at its entry, and the process is killed there, or the
errno of the policy put in place of ENOSYS.  A filter that killed by itself would outrank the listener of the last phase.
While this process traces a program, its death ends the program (PTRACE_O_EXITKILL).
"""

from __future__ import annotations

import errno

from callfence.enforcer import kernel
from callfence.enforcer.arming import inject
from callfence.enforcer.arming.detour import Detour
from callfence.enforcer.arming.entering import RESTARTED, Entrance
from callfence.enforcer.arming.processes import Processes
from callfence.enforcer.bpf import ALL_RUN, Filter
from callfence.enforcer.errors import FAILED, ArmError, GoneError, HeldUpError
from callfence.enforcer.listener import Notification, StoppedRequest
from callfence.enforcer.pending import RESTART, RESTART_ALWAYS
from callfence.tracer import TYPE_CHECKING, linux
from callfence.tracer.machine import MACHINE
from callfence.tracer.proc import fields_of, handles, signals
from callfence.tracer.stops import CALL, CREATED, ENDED, EXECUTED, SIGNAL, Stop

if TYPE_CHECKING:
    from callfence.enforcer.arming.phase_plan import Plan
    from callfence.enforcer.arming.processes import Call, Process
    from callfence.enforcer.duty import Duty

_CLONE = MACHINE.numbers_by_arch("clone")
_VFORK = MACHINE.calls("vfork")
_CLONE3 = MACHINE.calls("clone3")
"""On both."""
_RESTARTS = (RESTART, RESTART_ALWAYS)
_STARTING = MACHINE.calls("fork", "vfork", "clone", "clone3")
_DETACHED_BEFORE = RESTARTED | _STARTING
"""Calls that the kernel makes again, unseen, if a signal seems pending; some of them wait for long."""


class Follower:
    """Follows a program through its phases."""

    def __init__(self, program: int, plan: Plan, duty: Duty, stderr: int, *, is_executed: bool) -> None:
        """`program`: the id of the stopped process.  `is_executed`: whether it has executed the program; until then it has none
        of our filters, and no call leads to a phase.  `stderr`: the descriptor for messages, -1 for none."""
        self._program = program
        self._plan = plan
        self._stages = plan.stages
        self._key = plan.key
        self._duty = duty
        self._filters = [Filter(filter_) for filter_ in (plan.start, *(stage.filter for stage in plan.stages))]
        """The filter that answers the calls of a process, by the number of phases that it has reached."""
        self._refusals = Filter(plan.refusals + ALL_RUN)
        count = inject.filters(program)
        count = count if count < 0 or is_executed else count + 1
        self._processes = Processes(len(plan.stages), count, counts=not plan.has_own_filters)
        self._processes.adopt(program).is_starting = not is_executed
        self._stop = kernel.CallStop()
        self._stops = inject.Stops(kernel.signal_descriptor(linux.SIGCHLD))
        self._entrance = Entrance(plan, self._processes, self._stops, duty, stderr)

    def run(self) -> None:
        """Follow the stopped program until no process is traced any more."""
        processes = self._processes
        inject.resume(linux.PTRACE_SYSCALL, self._program)
        while processes.tasks:
            pid, stop = self._next()
            if not pid:
                continue
            if pid not in processes.tasks:
                processes.store_early(pid, stop)
            else:
                self._happened(pid, stop)
            while orphan := processes.take_orphan():
                self._go_on_without_creator(*orphan)

    # What happens

    def _next(self) -> tuple[int, Stop]:
        """Return the next task and its stop or end, task 0 if none is left; meanwhile, answer the calls of listeners."""
        while self._duty.is_answering:
            self._answer_made()
            pid, stop = self._stops.next(waits=False)
            if pid:
                return pid, stop
            self._duty.answer_until_child()
            self._processes.forget_replaced()
            if not self._processes.tasks:
                return 0, stop
        return self._stops.next()

    def _happened(self, pid: int, stop: Stop) -> None:
        """Handle the stop or the end of a task, whose creator is known or has died."""
        if stop.kind == ENDED:
            self._processes.forget(pid)
            if pid == self._program:
                self._duty.program_ended()
            return
        try:
            self._stopped(pid, stop, self._processes.tasks.get(pid) or self._processes.adopt(pid))
        except (ProcessLookupError, GoneError, HeldUpError):
            return  # it was killed while it was stopped: its end comes

    def _stopped(self, pid: int, stop: Stop, process: Process) -> None:
        if stop.kind == CREATED:
            self._created(pid, process, stop.event)
        elif process.doomed:
            self._ends(pid, process, stop)
        elif process.is_left:
            self._leaves(pid, stop)
        elif stop.kind == CALL:
            self._at_call(pid, process)
        elif stop.kind == EXECUTED:
            self._processes.executed(pid)
            inject.resume(linux.PTRACE_SYSCALL, pid)
        else:
            inject.go_on(linux.PTRACE_SYSCALL, pid, stop)

    def _created(self, pid: int, process: Process, event: int) -> None:
        """Handle the event of a task's clone, which may come after another thread has entered a phase."""
        new = kernel.event_message(pid)
        self._processes.started(new, process, pid, event)
        self._entrance.fail_behind(process)
        if process.is_left:
            self._let_go(pid)
        elif not process.doomed:
            inject.resume(linux.PTRACE_SYSCALL, pid)
        if early := self._processes.take_early(new):
            self._happened(new, early)

    def _ends(self, pid: int, process: Process, stop: Stop) -> None:
        """Handle a stop of a process that SIGSYS should end; its other threads stay stopped.  If SIGSYS does not end it,
        because another process shares its signal handlers, SIGKILL does at the next stop."""
        if pid != process.doomed:
            return
        if stop.kind == SIGNAL and stop.signal == linux.SIGSYS:
            # Whatever has made SIGSYS harmless by now, it stops once more before it runs its own code.
            linux.ptrace(linux.PTRACE_INTERRUPT, pid)
            linux.ptrace(linux.PTRACE_CONT, pid, 0, linux.SIGSYS)
        else:
            process.kill()

    def _go_on_without_creator(self, pid: int, stop: Stop) -> None:
        if stop.kind != ENDED:
            self._entrance.fail_behind(self._processes.started_by_nobody(pid))
            self._happened(pid, stop)

    def _at_call(self, pid: int, process: Process) -> None:
        """Handle the stop of a task at the entry or the exit of a call."""
        if self._processes.inside.pop(pid, None) is None:
            stop = self._stop
            stop.read(pid)
            if stop.op == linux.PTRACE_SYSCALL_INFO_ENTRY:
                call = self._processes.inside[pid] = (stop.arch, stop.number)
                if self._answered(pid, process, call):
                    return
        inject.resume(linux.PTRACE_SYSCALL, pid)

    def _answered(self, pid: int, process: Process, call: Call) -> bool:
        """Do what a call needs at whose entry a task is stopped.  Return whether nothing is left to do at this stop, because
        the task has been resumed, detached or killed."""
        stop = self._stop
        if call in self._entrance.calls and not process.is_starting:
            if not process.is_stuck and self._entrance.enter(pid, process, call, stop):
                self._processes.inside.pop(pid, None)
                if process.is_left:
                    self._let_go(pid)
                else:
                    inject.resume(linux.PTRACE_SYSCALL, pid)
                return True
            if self._entrance.is_claim(call, stop):
                self._answer(pid, call, -errno.EINVAL)  # as without a phase of that name, whatever the filters say
                return True
        if call in _CLONE3:  # another thread could change its flags after a look at them
            self._answer(pid, call, -errno.ENOSYS)
            return True
        if call in _STARTING:
            self._starts(pid, call)
        if self._key.is_in(call, stop.arguments):
            process.kill()
            return True
        return self._is_judged(process) and self._deny(pid, process, call)

    def _starts(self, pid: int, call: Call) -> None:
        """Note that a task starts another, and have the kernel trace that one: remove CLONE_UNTRACED from clone's flags."""
        is_clone = call[1] in _CLONE.get(call[0], ())
        flags = self._stop.arguments[0] if is_clone else linux.CLONE_VM if call in _VFORK else 0
        self._processes.starts(pid, call, flags)
        if flags & linux.CLONE_UNTRACED:
            MACHINE.set_register(pid, MACHINE.of(call[0]).arguments[0], flags & ~linux.CLONE_UNTRACED)

    def _leaves(self, pid: int, stop: Stop) -> None:
        """Detach a task at a stop; at the entry of a call, only when the call ends.  Detached at its entry, a call acts as if a
        signal were pending (kernel/ptrace.c, __ptrace_unlink): one such as epoll_wait would fail with EINTR."""
        inside = self._processes.inside
        if stop.kind == CALL and pid not in inside:
            self._stop.read(pid)
            call = self._stop.arch, self._stop.number
            if self._stop.op == linux.PTRACE_SYSCALL_INFO_ENTRY and call not in _DETACHED_BEFORE:
                inside[pid] = call
                inject.resume(linux.PTRACE_SYSCALL, pid)
                return
        self._let_go(pid, stop.signal if stop.kind == SIGNAL else 0)

    def _let_go(self, pid: int, signal: int = 0) -> None:
        self._processes.forget(pid)
        linux.ptrace(linux.PTRACE_DETACH, pid, 0, signal)

    # Calls that are denied before the last phase

    def _is_judged(self, process: Process) -> bool:
        return not (self._plan.is_quiet or process.is_starting)

    def _deny(self, pid: int, process: Process, call: Call) -> bool:
        """Report the call at whose entry a task is stopped, if it is denied; then end the process or make the call fail, as the
        policy says.  Return whether the task has been resumed.

        The filters deny such a call in any case, because they notify a listener and there is none (ENOSYS)."""
        stop = self._stop
        answer = self._filters[process.reached].answer(*call, stop.ip, stop.arguments)
        is_denied = answer & linux.SECCOMP_RET_ACTION_FULL == linux.SECCOMP_RET_USER_NOTIF
        if not is_denied and (refusal := self._refusals.answer(*call, stop.ip, stop.arguments)) != linux.SECCOMP_RET_ALLOW:
            self._answer(pid, call, -(refusal & linux.SECCOMP_RET_DATA))
            return True
        notification = Notification(0, pid, 0, stop.number, stop.arch, stop.ip, stop.arguments)
        if self._plan.is_audit and self._duty.hides_a_loss(notification):
            MACHINE.set_register(pid, MACHINE.of(stop.arch).arguments[0], FAILED)
        if not is_denied and call not in self._plan.notified:
            return False
        phase = self._stages[process.reached - 1].name if process.reached else ""
        if not is_denied and (result := self._duty.make_listen(notification, phase)) is not None:
            self._answer(pid, call, -result)
            return True
        if not is_denied and (request := self._duty.make_call(notification, phase)) and not request.runs:
            self._processes.made[pid] = request  # other tasks go on meanwhile
            self._answer_made()
            return True
        result = self._duty.judge_and_report(notification, phase)
        if not is_denied or self._plan.is_audit:
            return False
        if result is not None:
            self._answer(pid, call, result)
            return True
        process.doomed = pid
        try:
            if _dies_of_sigsys(pid):
                # It makes its call once more, and stops there, if SIGSYS is lost: the call never returns.
                Detour(pid, call[0], self._key, self._stops).close()
                kernel.kill_thread(process.pid, pid, linux.SIGSYS)
                self._processes.inside.pop(pid, None)
                inject.resume(linux.PTRACE_SYSCALL, pid)
                return True
        except (ArmError, OSError):
            pass
        process.kill()
        return False

    def _answer_made(self) -> None:
        """Answer the calls that were made for stopped tasks, as far as they are done."""
        made = self._processes.made
        for pid, request in [*made.items()]:
            if request.result is None:
                continue
            del made[pid]
            stop = kernel.CallStop()
            try:
                stop.read(pid)
                if stop.op != linux.PTRACE_SYSCALL_INFO_ENTRY:  # another thread has executed a program, and has this id now
                    continue
                if not self._processes.tasks[pid].doomed and not self._makes_again(pid, request):
                    result = -errno.EINTR if request.result in _RESTARTS else request.result
                    self._answer(pid, (request.call.arch, request.call.number), result)
            except (ProcessLookupError, GoneError, HeldUpError):
                continue  # it was killed while it was stopped: its end comes

    def _makes_again(self, pid: int, request: StoppedRequest) -> bool:
        """Have a stopped task make its call again after a signal that it does not catch, such as SIGSTOP, if the call waited;
        return False otherwise.

        Of a signal that it catches, it cannot be seen here whether the call is made again then (SA_RESTART)."""
        if request.result == RESTART:
            fields = fields_of(pid)
            if signals(fields, "SigPnd", "ShdPnd") & signals(fields, "SigCgt") & ~signals(fields, "SigBlk"):
                return False
        elif request.result != RESTART_ALWAYS:
            return False
        try:
            Detour(pid, request.call.arch, self._key, self._stops).close()
        except ProcessLookupError:
            raise
        except (ArmError, OSError):
            return False
        self._processes.inside.pop(pid, None)
        inject.resume(linux.PTRACE_SYSCALL, pid)
        return True

    def _answer(self, pid: int, call: Call, result: int) -> None:
        """Make the call at whose entry a task is stopped return `result`, 0 or a negative errno, and resume the task."""
        Detour(pid, call[0], self._key, self._stops, calls=False).finish(result)
        self._processes.inside.pop(pid, None)
        inject.resume(linux.PTRACE_SYSCALL, pid)


def _dies_of_sigsys(pid: int) -> bool:
    fields = fields_of(pid)
    return bool(fields) and not handles(fields, linux.SIGSYS, "SigBlk", "SigIgn", "SigCgt")
