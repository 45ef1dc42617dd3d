"""Follow a confined program, and all that it starts, until each process has entered its last phase or ended.

Every call stops at its entry (PTRACE_SYSCALL), before the kernel asks the filters.  At the entry of a phase's trigger, the
filter of the phase is put on all threads of the process, and then the call is made.  Filters only add up, and the strictest
answer counts: what a process may do is decided by the filters that it has, and by nothing that this process believes.

Before the last phase, filters answer SECCOMP_RET_USER_NOTIF for what is to be reported, and have no listener: the kernel fails
such a call with ENOSYS, and nobody can let it run.  It is reported at its entry, and the process is killed there, or the errno
of the policy put in place of ENOSYS.  A filter that killed by itself would outrank the listener of the last phase.  While this
process traces a program, its death ends the program (PTRACE_O_EXITKILL).
"""

from __future__ import annotations

import errno
import os
import select
import time

from enforcer import helper, kernel
from enforcer.arming import inject, install
from enforcer.arming.detour import Detour
from enforcer.arming.key import Key
from enforcer.bpf import ALL_RUN, Filter
from enforcer.errors import ArmError, GoneError, HeldUpError
from enforcer.reporting.listener import Notification
from enforcer.reporting.process import status as status_of
from tracer import linux
from tracer.errors import KernelError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from enforcer.arming.stage import Stage
    from enforcer.duty import Duty

_CALL = inject.SYSCALL_STOP << 8 | 0x7F
"""The status of a stop at a call's entry or exit."""
_FORKS = (linux.PTRACE_EVENT_FORK, linux.PTRACE_EVENT_VFORK, linux.PTRACE_EVENT_CLONE)
_PRCTL = {linux.AUDIT_ARCH_X86_64: 157, linux.AUDIT_ARCH_I386: 172}
_CLONE = {linux.AUDIT_ARCH_X86_64: 56, linux.AUDIT_ARCH_I386: 120}
_CLONE3 = 435  # on both
_STARTING = {  # fork, vfork, clone, clone3
    *((linux.AUDIT_ARCH_X86_64, number) for number in (57, 58, 56, _CLONE3)),
    *((linux.AUDIT_ARCH_I386, number) for number in (2, 190, 120, _CLONE3)),
}
_CLONE_UNTRACED = 0x00800000  # linux/sched.h
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
_FULL = "it may open no more descriptors"
_UNHEARD = {errno.EBUSY: "it has a listener already", errno.EMFILE: _FULL, errno.ENFILE: _FULL}
"""Errnos of seccomp(2) for want of a listener alone."""
_SETTLES = 1.0
"""Seconds in which the other threads of a process come to the end of their calls, or wait in them; a call that only computes
for longer is not waited for."""
_PAUSE = 0.0002
"""Seconds between two looks at them."""


class Plan:
    """What the program is followed through."""

    __slots__ = ("asked", "has_own_filters", "is_audit", "is_optional", "is_quiet", "key", "silent", "stages", "start")

    def __init__(
        self,
        start: bytes,
        silent: bytes,
        stages: Sequence[Stage],
        *,
        is_quiet: bool,
        is_audit: bool,
        is_optional: bool,
        has_own_filters: bool,
        asked: frozenset[tuple[int, int]] = frozenset(),
    ) -> None:
        self.start = start
        """The filter of what is before the first phase."""
        self.silent = silent
        """The same, by which the kernel alone answers; b"" if it is not needed."""
        self.stages = stages
        self.is_quiet = is_quiet
        """Whether nothing is reported."""
        self.is_audit = is_audit
        """Whether denied calls are reported and run."""
        self.is_optional = is_optional
        """Whether a process that cannot enter a phase goes on as it is."""
        self.has_own_filters = has_own_filters
        """Whether the program may install filters itself."""
        self.asked = asked
        """AUDIT_ARCH_* and number of the calls that the helper is asked about for the files and ports that they name."""
        self.key = Key()

    @property
    def installed(self) -> bytes:
        """The filter with which the program starts."""
        return ALL_RUN if self.is_audit else self.silent or self.start

    def installed_in(self, stage: Stage) -> bytes:
        """The filter with which a phase begins that is not the last."""
        return ALL_RUN if self.is_audit else stage.silent or stage.filter


class _Memory:
    """The memory of a process, or of several (CLONE_VM, vfork)."""

    __slots__ = ("is_free",)

    def __init__(self) -> None:
        self.is_free = False
        """Whether a process that is not traced has it, and may change a filter there before the kernel reads it."""


class _Process:
    """A process that is traced."""

    __slots__ = (
        "doomed", "is_left", "is_reported", "is_starting", "is_stuck", "memory", "pid", "reached", "shares", "threads"
    )  # fmt: skip

    def __init__(self, pid: int, reached: int, *, shares: bool) -> None:
        self.pid = pid
        self.reached = reached
        """How many of the phases it has entered or passed, as far as is known: at a trigger of a later one, the filters up to
        that one's are put on it, also if it has them already."""
        self.threads: set[int] = set()
        self.is_left = False
        """Whether it is in its last phase, so that its threads are let go at their next stop."""
        self.is_starting = False
        """Whether it has not executed the program yet."""
        self.is_stuck = False
        """Whether no filter can be put on the program that it executes, and the policy lets it go on."""
        self.is_reported = False
        """Whether the user knows that it cannot enter a phase."""
        self.doomed = 0
        """The task whose call ends the process; none of them goes on in the program."""
        self.shares = shares
        """Whether another process may have the same table of descriptors (CLONE_FILES)."""
        self.memory = _Memory()


class Follower:
    """What follows the program."""

    def __init__(self, program: int, plan: Plan, duty: Duty, stderr: int) -> None:
        self._program = program
        self._plan = plan
        self._stages = plan.stages
        self._key = plan.key
        self._duty = duty
        self._stderr = stderr
        self._filters = [Filter(filter_) for filter_ in (plan.start, *(stage.filter for stage in plan.stages))]
        """By the number of phases that a process has reached, what answers its calls."""
        self._had = 0
        """How many filters a process in the start phase has; -1 if that is not known."""
        self._triggers = {trigger: number for number, stage in enumerate(self._stages, 1) for trigger in stage.triggers}
        entered = [number for number, stage in enumerate(self._stages, 1) if stage.is_entered]
        self._notified = next((number for number, stage in enumerate(self._stages, 1) if stage.is_notified), 0)
        """The number of the phase that begins when the program says that it is ready; 0 if none does."""
        self._numbers = {(arch, number) for arch, number in _PRCTL.items() if entered} | set(self._triggers)
        self._numbers.update(_SENDS if self._notified else ())
        """Calls that are looked at."""
        self._processes: dict[int, _Process] = {}
        self._tasks: dict[int, _Process] = {}
        self._early: dict[int, tuple[int, list[tuple[int, tuple[int, int]]]]] = {}
        """Tasks that stopped or ended before the event of their creator came: the wait status, and who may be the creator."""
        self._starting: dict[int, tuple[int, int]] = {}
        """The call by which a task is about to start another, until its event comes; the same object as in `_inside`."""
        self._inside: dict[int, tuple[int, int]] = {}
        """Architecture and number of the call that a task is in."""
        self._flags: dict[int, int] = {}
        """The flags of a task's last clone."""
        self._stop = kernel.CallStop()
        self._stops = inject.Stops(kernel.signal_descriptor(kernel.SIGCHLD))
        self._epoll: select.epoll | None = None
        self._children = -1
        self._unreported: set[str] = set()
        """Reasons why the calls of some processes are not reported."""

    def run(self, *, is_executed: bool) -> None:
        """Follow the program, which is stopped, until nothing is traced any more.

        If it has not been executed yet, it has no filter of ours either, and what `enforce` does before leads to no phase."""
        had = install.filters(self._program)
        self._had = had if had < 0 or is_executed else had + 1
        self._adopt(self._program).is_starting = not is_executed
        inject.resume(linux.PTRACE_SYSCALL, self._program)
        while self._tasks:
            pid, status = self._next()
            if not pid:
                continue
            if pid not in self._tasks:
                self._early[pid] = status, self._creators()
            else:
                self._happened(pid, status)
            self._go_on_without_creators()

    # What happens

    def _next(self) -> tuple[int, int]:
        """The next stop or end of a task; (0, 0) if none is left.  Calls that ask meanwhile are answered."""
        while self._epoll is not None:
            pid, status = self._stops.next(waits=False)
            if pid:
                return pid, status
            for descriptor, events in self._duty.events(self._epoll):
                if descriptor == self._children:
                    os.read(descriptor, 4096)
                else:
                    self._duty.answer(self._epoll, descriptor, events)
            self._forget_replaced()
            if not self._tasks:
                return 0, 0
        return self._stops.next()

    def _happened(self, pid: int, status: int) -> None:
        """A task has stopped or ended, and its creator is known or has died."""
        if not os.WIFSTOPPED(status):
            self._ended(pid)
            return
        try:
            self._stopped(pid, status, self._tasks.get(pid) or self._adopt(pid))
        except (ProcessLookupError, GoneError, HeldUpError):
            return  # it was killed while it was stopped: its end comes

    def _stopped(self, pid: int, status: int, process: _Process) -> None:
        event = status >> 16
        if process.doomed:
            self._ends(pid, process, status)
        elif process.is_left:
            self._let_go(pid, os.WSTOPSIG(status) if event == 0 and status != _CALL else 0)
        elif status == _CALL:
            self._at_call(pid, process)
        elif event == linux.PTRACE_EVENT_EXEC:
            self._executed(pid)
            inject.resume(linux.PTRACE_SYSCALL, pid)
        elif event in _FORKS:
            self._starting.pop(pid, None)
            new = kernel.event_message(pid)
            self._started(new, process, pid, event)
            inject.resume(linux.PTRACE_SYSCALL, pid)
            if early := self._early.pop(new, None):
                self._happened(new, early[0])
        else:
            inject.go_on(linux.PTRACE_SYSCALL, pid, status)

    def _ends(self, pid: int, process: _Process, status: int) -> None:
        """A stop of a process that SIGSYS should end: its other threads stay where they are.

        A process that shares its signal handlers can still prevent that; then the next stop comes, and SIGKILL ends it."""
        if pid != process.doomed:
            return
        if status >> 8 == kernel.SIGSYS:
            # Whatever has made SIGSYS harmless by now, it stops once more before it runs its own code.
            kernel.ptrace(linux.PTRACE_INTERRUPT, pid)
            kernel.ptrace(linux.PTRACE_CONT, pid, 0, kernel.SIGSYS)
        else:
            self._kill(process)

    def _started(self, new: int, parent: _Process, pid: int, event: int) -> None:
        """A task of that process has started another."""
        if not os.path.exists(str(new)):
            return
        child = self._adopt(new, parent)
        if child is parent:
            return
        flags = self._flags.get(pid, 0)
        if event == linux.PTRACE_EVENT_VFORK or (flags & kernel.CLONE_VM and not flags & kernel.CLONE_THREAD):
            child.memory = parent.memory
            parent.memory.is_free = parent.memory.is_free or child.is_left
        shares = kernel.shares_files(new, pid)
        if flags & kernel.CLONE_FILES if shares is None else shares:
            child.shares = parent.shares = True

    def _creators(self) -> list[tuple[int, tuple[int, int]]]:
        """The tasks that may have started one whose creator's event is still to come, and the calls that they are in."""
        return [creator for creator in self._starting.items() if self._is_starting(*creator)]

    def _is_starting(self, pid: int, call: tuple[int, int]) -> bool:
        """Whether a task is still in that very call, and the event of what the call starts has not come."""
        return self._starting.get(pid) is call and self._inside.get(pid) is call

    def _go_on_without_creators(self) -> None:
        """Let early tasks go on whose creator has died before its event.

        Before that, none goes on: its creator's event says which table of descriptors it shares.  Nobody says so of these."""
        if not self._early:
            return
        for pid, (status, creators) in list(self._early.items()):
            if not any(self._is_starting(*creator) for creator in creators):
                del self._early[pid]
                if os.WIFSTOPPED(status):
                    process = self._adopt(pid)
                    process.shares = process.shares or process.pid == pid
                    self._happened(pid, status)

    def _at_call(self, pid: int, process: _Process) -> None:
        if self._inside.pop(pid, None) is None:
            stop = self._stop
            stop.read(pid)
            if stop.op == linux.PTRACE_SYSCALL_INFO_ENTRY:
                call = self._inside[pid] = (stop.arch, stop.number)
                is_looked_at = call in self._numbers and not process.is_starting
                if is_looked_at and not process.is_stuck and self._enters(pid, process, call):
                    return
                if is_looked_at and _PRCTL[call[0]] == call[1] and stop.arguments[0] == linux.CALLFENCE_ENTER:
                    self._answer(pid, call, -errno.EINVAL)  # as without a phase of that name, whatever the filters say
                    return
                if stop.number == _CLONE3:  # another thread could change its flags after a look at them
                    self._answer(pid, call, -errno.ENOSYS)
                    return
                if call in _STARTING:
                    self._starting[pid] = call
                if stop.number == _CLONE.get(stop.arch):
                    self._show_child(pid, call)
                if self._key.is_in(call, stop.arguments):
                    self._kill(process)
                    return
                if self._is_judged(process) and self._reported(pid, process, call):
                    return
        inject.resume(linux.PTRACE_SYSCALL, pid)

    def _show_child(self, pid: int, call: tuple[int, int]) -> None:
        """Have what a task clones be traced, whatever its flags."""
        flags = self._flags[pid] = self._stop.arguments[0]
        if flags & _CLONE_UNTRACED:
            register = linux.RDI if call[0] == linux.AUDIT_ARCH_X86_64 else linux.RBX
            kernel.poke_user(pid, 8 * register, flags & ~_CLONE_UNTRACED)

    def _adopt(self, pid: int, parent: _Process | None = None) -> _Process:
        """Add a task; its process if that is new."""
        fields = status_of(pid)
        tgid = int(fields.get("Tgid", pid))
        process = self._processes.get(tgid)
        if process is None:
            parent = parent or self._processes.get(int(fields.get("PPid", 0)))
            shares = bool(parent and parent.shares)
            process = self._processes[tgid] = _Process(tgid, self._reached(fields, parent), shares=shares)
            process.is_left = process.reached == len(self._stages)
        process.threads.add(pid)
        self._tasks[pid] = process
        return process

    def _reached(self, fields: Mapping[str, str], parent: _Process | None) -> int:
        """How many phases a new process has entered: it has the filters of its creator, one for each.

        Where filters of the program's own are among them, it is what the creator had reached before its last one: a filter that
        is put on a process twice does no harm."""
        found = int(fields.get("Seccomp_filters", -1)) - self._had
        if self._had >= 0 and not self._plan.has_own_filters and 0 <= found <= len(self._stages):
            return found
        return parent.reached - parent.is_left if parent else 0

    def _executed(self, pid: int) -> None:
        """A task has executed another program: the other threads are gone, and it has the process's id."""
        self._inside.pop(kernel.event_message(pid), None)
        self._inside[pid] = (0, 0)  # the exit of its execve comes
        process = self._processes[pid]
        process.is_starting = process.is_reported = process.is_stuck = False
        process.shares = False  # its table of descriptors is its own now
        process.memory = _Memory()
        for task in process.threads - {pid}:
            self._tasks.pop(task, None)
            self._inside.pop(task, None)
        process.threads = {pid}
        self._tasks[pid] = process

    def _ended(self, pid: int) -> None:
        self._forget(pid)
        if pid == self._program:
            self._duty.program_ended()

    def _forget(self, pid: int) -> None:
        process = self._tasks.pop(pid, None)
        self._inside.pop(pid, None)
        self._starting.pop(pid, None)
        self._flags.pop(pid, None)
        if process is not None:
            process.threads.discard(pid)
            if not process.threads:
                self._processes.pop(process.pid, None)

    def _forget_replaced(self) -> None:
        """Forget the tasks that are gone without a word: a thread that was let go before them has executed a program."""
        for process in [process for process in self._processes.values() if process.is_left]:
            for task in [task for task in process.threads if status_of(task).get("TracerPid") in (None, "0")]:
                self._forget(task)

    def _let_go(self, pid: int, signal: int = 0) -> None:
        self._forget(pid)
        kernel.ptrace(linux.PTRACE_DETACH, pid, 0, signal)

    # Phases

    def _enters(self, pid: int, process: _Process, call: tuple[int, int]) -> bool:
        """Put the filter of the phase on the process that this call leads to, if any; whether the task has been resumed."""
        said = self._said(pid, process) if _PRCTL.get(call[0]) == call[1] else 0
        number = said or self._triggers.get(call, 0)
        if number <= process.reached < self._notified and call in _SENDS and self._is_ready(pid, process, call):
            number = self._notified
        if not said and number <= process.reached:
            return False
        surgery = None
        try:
            surgery = Detour(pid, call[0], self._key, self._stops)
            for each in range(process.reached + 1, number + 1):  # also those that it passes over: `_reached` counts filters
                self._put(surgery, process, each)
        except (ProcessLookupError, GoneError):  # it is dying
            raise
        except (ArmError, OSError, KernelError) as error:
            is_lost = isinstance(error, HeldUpError) or bool(surgery and surgery.is_confined)
            self._failed(process, _reason(error), is_confined=is_lost)
            process.is_stuck = True
            if surgery is None:
                return False
        if not said:
            surgery.close()
        else:
            surgery.finish(-errno.EINVAL if process.is_stuck else 0)
        self._inside.pop(pid, None)
        if process.is_left:
            self._let_go(pid)
        else:
            inject.resume(linux.PTRACE_SYSCALL, pid)
        return True

    def _said(self, pid: int, process: _Process) -> int:
        """The number of the phase that a program says it enters; 0 for another prctl or another phase."""
        if self._stop.arguments[0] != linux.CALLFENCE_ENTER:
            return 0
        try:
            name = kernel.peek_string(pid, self._stop.arguments[1])
        except ProcessLookupError:
            raise
        except OSError:
            self._failed(process, _UNREADABLE)
            return 0
        named = {os.fsencode(stage.name): number for number, stage in enumerate(self._stages, 1) if stage.is_entered}
        return named.get(name, 0)

    def _is_ready(self, pid: int, process: _Process, call: tuple[int, int]) -> bool:
        """Whether the call tells a service manager that the program is ready."""
        from enforcer.reporting.caller import Caller  # with tables, which most programs do without
        from tracer.abi.waits import is_ready

        caller = Caller(pid, process.pid)
        if not caller.can_be_read:
            self._failed(process, _UNREADABLE)
        try:
            return is_ready(self._stop.arguments, caller.read, pointer=_SENDS[call], is_sendmsg=call in _SENDMSG)
        finally:
            caller.close()

    def _put(self, surgery: Detour, process: _Process, number: int) -> None:
        """Put the filter of a phase on a process.  Raises KernelError, OSError or GoneError."""
        if process.memory.is_free:
            raise ArmError("a process that is in its last phase has the same memory")
        stage = self._stages[number - 1]
        is_last = number == len(self._stages)
        surgery.is_confined = False  # by this filter: those of phases that were passed over need no listener
        if is_last and not self._plan.is_quiet:
            if why := self._put_listening(surgery, process, stage):
                install.unmap(surgery, self._stages[process.reached - 1].filter if process.reached else self._plan.start)
                program = self._key.passing(stage.silent, installs=False)
                install.install(surgery, self._key, program, -1, threads=True)
                self._say_unreported(process, stage, why)
        else:
            program = stage.filter if is_last else self._plan.installed_in(stage)
            program = self._key.passing(program, installs=not is_last)
            install.install(surgery, self._key, program, -1, threads=True)
        install.unmap(surgery, stage.filter)
        process.reached = number
        process.is_left = is_last
        if is_last:
            process.memory.is_free = True
            self._call_back(process, surgery.pid)

    def _put_listening(self, surgery: Detour, process: _Process, stage: Stage) -> str:
        """Put the filter of the last phase on a process, and answer its calls from now on; "", or why that is not possible."""
        if process.shares:
            return "another process has the same table of descriptors"
        self._settle(process, surgery.pid)
        pidfd = -1
        try:
            pidfd = kernel.pidfd_of_thread(surgery.pid, process.pid)
            try:
                install.probe_listener(pidfd)
            except ProcessLookupError:
                return "its first thread has ended"
            program = self._key.passing(stage.filter, installs=False)
            self._listen(install.install(surgery, self._key, program, pidfd, threads=True), stage.name)
        except OSError as error:
            if surgery.is_confined or error.errno not in (errno.EMFILE, errno.ENFILE):
                raise
            return "the helper may open no more descriptors"
        except KernelError as error:
            if surgery.is_confined or error.errno not in _UNHEARD:
                raise
            return _UNHEARD[error.errno]
        finally:
            if pidfd >= 0:
                os.close(pidfd)
        return ""

    def _say_unreported(self, process: _Process, stage: Stage, why: str) -> None:
        """Say once for each reason that the kernel alone answers the calls of a process."""
        if why not in self._unreported:
            self._unreported.add(why)
            self._say(f"what process {process.pid}, or a later one like it, is denied in {stage.name} is not reported: {why}")

    def _settle(self, process: _Process, but: int) -> None:
        """Wait until each other thread has come to the end of its call, where it stops, or waits in it.

        One that copies a descriptor at this moment would otherwise get the listener, though it could not use it."""
        end = time.monotonic() + _SETTLES
        for task in process.threads - {but}:
            while task in self._inside and _computes(task) and time.monotonic() < end:
                time.sleep(_PAUSE)

    def _call_back(self, process: _Process, but: int) -> None:
        """Have the other threads stop, to be let go, where that goes unnoticed.  The rest stop at their next call."""
        for task in process.threads - {but}:
            arch, number = self._inside.get(task, (0, 0))
            if number in _RESTARTED.get(arch, ()):
                try:
                    kernel.ptrace(linux.PTRACE_INTERRUPT, task)
                except ProcessLookupError:
                    continue

    def _listen(self, listener: int, phase: str) -> None:
        """Answer the calls that this listener asks about from now on."""
        if self._epoll is None:
            self._children = kernel.signal_descriptor(kernel.SIGCHLD)
            self._epoll = select.epoll()
            self._epoll.register(self._children, select.EPOLLIN)
            self._epoll.register(self._duty.program, select.EPOLLIN)
        self._epoll.register(listener, select.EPOLLIN)
        self._duty.listen(listener, phase)

    def _failed(self, process: _Process, why: str, *, is_confined: bool = False) -> None:
        """A process cannot enter a phase: kill it, unless the policy lets it go on.  One whose calls nobody would answer is
        killed anyway."""
        goes_on = (self._plan.is_optional or self._plan.is_audit) and not is_confined
        if not process.is_reported:
            process.is_reported = True
            rest = "keeps its start-up permissions" if goes_on else "is killed"
            self._say(f"process {process.pid} cannot enter its phase and {rest}: {why}")
        if not goes_on:
            self._kill(process)
            raise GoneError

    def _say(self, text: str) -> None:
        helper.write(self._stderr, f"enforce: {text}\n".encode(errors="replace"))

    # Calls that are denied before the last phase

    def _is_judged(self, process: _Process) -> bool:
        return not (self._plan.is_quiet or process.is_starting)

    def _reported(self, pid: int, process: _Process, call: tuple[int, int]) -> bool:
        """Report the call at whose entry a task is, if its filters fail it for want of a listener; end the process, or have the
        call fail as the policy says.  Whether the task has been resumed.

        What a task does with another errno, or alive, it does without the call: the kernel has denied that."""
        stop = self._stop
        answer = self._filters[process.reached].answer(*call, stop.ip, stop.arguments)
        is_denied = answer & linux.SECCOMP_RET_ACTION_FULL == linux.SECCOMP_RET_USER_NOTIF
        if not is_denied and call not in self._plan.asked:
            return False
        phase = self._stages[process.reached - 1].name if process.reached else ""
        asked = Notification(0, pid, 0, stop.number, stop.arch, stop.ip, stop.arguments)
        if not is_denied and (result := self._duty.listened(asked, phase)) is not None:
            self._answer(pid, call, -result)
            return True
        action = self._duty.judged(asked, phase)
        if not is_denied or self._plan.is_audit:
            return False
        if action and action.kind == "errno":
            self._answer(pid, call, -action.errno)
            return True
        process.doomed = pid
        try:
            if _dies_of_sigsys(pid):
                # It makes its call once more, and stops there, if SIGSYS is lost: the call never returns.
                Detour(pid, call[0], self._key, self._stops).close()
                kernel.kill_thread(process.pid, pid, kernel.SIGSYS)
                self._inside.pop(pid, None)
                inject.resume(linux.PTRACE_SYSCALL, pid)
                return True
        except (ArmError, OSError):
            pass
        self._kill(process)
        return False

    def _answer(self, pid: int, call: tuple[int, int], result: int) -> None:
        """Have a call fail, at whose entry a task is, and resume the task."""
        Detour(pid, call[0], self._key, self._stops, calls=False).finish(result)
        self._inside.pop(pid, None)
        inject.resume(linux.PTRACE_SYSCALL, pid)

    def _kill(self, process: _Process) -> None:
        if process.pid == 1:  # of this pid namespace: it ignores even SIGKILL from inside, but not the end of its tracer
            os._exit(0)
        os.kill(process.pid, kernel.SIGKILL)


def _reason(error: Exception) -> str:
    """Why a process could not be given a filter."""
    if not isinstance(error, OSError):
        return str(error)
    if error.errno == errno.EIO or str(error.filename).endswith("/mem"):
        return _UNREADABLE
    return f"{error.filename}: {error.strerror}"


def _dies_of_sigsys(pid: int) -> bool:
    fields = status_of(pid)
    bit = 1 << (kernel.SIGSYS - 1)
    return bool(fields) and not any(int(fields[mask], 16) & bit for mask in ("SigBlk", "SigIgn", "SigCgt"))


def _computes(task: int) -> bool:
    """Whether a thread runs, and neither waits nor is stopped (proc(5), state R)."""
    return inject.state(task) == b"R"
