"""The event loop: takes every stop of every task, from the first execve to the last exit, and resumes the task.

A stop is a value (`tracer.stops`).  A handler processes it, and `_resume` resumes the task: as `Task.way` says, unless the
handler returns another order.
"""

from __future__ import annotations

import contextlib
import os
import signal
import struct
import time
from collections import deque
from typing import TYPE_CHECKING, Final

from callfence.tracer import kernel
from callfence.tracer.calls import ENOSYS, Calls
from callfence.tracer.errors import PtraceError, TracerError
from callfence.tracer.family import TaskFamily
from callfence.tracer.kernel import RECORDING_DATUM, WATCHING_DATUM, EntryPoint, SyscallInfo
from callfence.tracer.late.late import FILTERING, Late
from callfence.tracer.linux import (
    INFO_IS_ERROR,
    PTRACE_SYSCALL_INFO_ENTRY,
    PTRACE_SYSCALL_INFO_EXIT,
    PTRACE_SYSCALL_INFO_SECCOMP,
    WALL,
)
from callfence.tracer.named import NamedTuple
from callfence.tracer.proc import children, dies_only_untraced, privilege_lost
from callfence.tracer.processor import SharedProcessor
from callfence.tracer.stops import CREATED, ENDED, EXECUTED, GROUP, SIGNAL, STATUS_SECCOMP, STATUS_SYSCALL, TRAP, Stop, stop_of
from callfence.tracer.tally import Recorder, Tally
from callfence.tracer.task import Task, Way

if TYPE_CHECKING:
    from collections.abc import Callable

    from callfence.tracer.faults import Injector

    Order = tuple[Way, int] | None
    """The way to resume a task, and the signal to deliver; None if it is not to be resumed now."""

FAULTS: Final = frozenset((signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE))
BATCH: Final = 16
"""Number of stops that are taken one by one, before those of all stopped tasks are taken at once; 0.1 ms in all."""
SPEED_WINDOW: Final = 64
"""Calls of one task over which its rate is measured."""
FAST: Final = SPEED_WINDOW / 2000
"""Seconds for SPEED_WINDOW calls below which a task is moved to the tracer's processor: 2,000 calls a second."""
TIMEOUT: Final = 0.05
"""Seconds that an early task waits for its parent's event, and for which resuming a task is tried again."""

_HEAD = struct.Struct("<BxxxI16xI52xI")  # struct ptrace_syscall_info: op, arch, number (low half), datum


class Settings(NamedTuple):
    """The settings of a run: which calls of the program are recorded, and how."""

    allow_opaque: frozenset[str] = frozenset()
    """Names of OPAQUE calls that are allowed."""
    from_entry: bool = False
    """Whether to record from the initial program's ELF entry point on, instead of from its execve."""
    filter: bytes = b""
    """A seccomp filter that allows the calls of a policy and returns kernel.RET_RECORD for others; b"" to record all."""
    waits: bool = False
    """Whether to record after which waits of its process an observation was made (`session.Waits`)."""
    late: bool = False
    """Whether recorded calls may run without a stop after a while, so that counts are lower bounds (`tracer.late`)."""
    late_after: int | None = None
    """For tests: after how many calls of a process `late` begins."""


PLAIN: Final = Settings()


class Initial:
    """The program's first process, whose wait status `learn` returns.  Mutable: the event loop keeps its state here."""

    def __init__(self, pid: int, *, started: bool) -> None:
        self.pid = pid
        self.started = started
        """Whether the process has executed the program; True, too, if the tracer attached to a running process."""
        self.status: int | None = None
        """The wait status of the process; None until it has ended."""
        self.ended = 0.0
        """When it ended, in seconds of time.monotonic; 0 before."""
        self.delivered: dict[int, tuple[int, float]] = {}
        """By signal except SIGCHLD: the pid that last sent it, and when, in seconds of time.monotonic."""


class Loop:
    """The event loop for tasks that have been seized.  The thread that seized them must call `run`, since the kernel accepts
    ptrace requests only from that thread."""

    def __init__(self, recorder: Recorder, settings: Settings = PLAIN, injector: Injector | None = None) -> None:
        """`injector` makes calls fail, once a process has reached its program's entry point."""
        self.initial = Initial(0, started=False)
        self.ended_by = 0
        """The signal that this process got to end the run; 0 for none."""
        self.processor = SharedProcessor()
        self.tally = Tally(recorder)
        self.family = TaskFamily(self.tally, self.processor)
        self.tasks = self.family.tasks
        self.calls = Calls(self.tasks, self.processor, settings.allow_opaque, recorder.gap)
        self._recorder = recorder
        self._settings = settings
        self._injector = injector
        self._strangers = children()
        """Children that this process had before it started the program; they are not traced."""
        self._info = SyscallInfo()
        self._unresumed: dict[int, tuple[Way, int]] = {}
        """By tid: how to resume a task that could not be (`kernel.resume`), and the signal; most are dying."""
        self._entries: dict[int, EntryPoint | None] = {}
        """By pid: the breakpoint at the entry point of its program, until it is reached; None if there can be none."""
        self._queue: deque[tuple[int, int]] = deque()
        self._taken_singly = 0
        """How many wait statuses were taken one by one."""
        self._late: Late | None = None
        """Installs filters in the program that allow recorded calls; None if each call must stop."""
        self._queued = 0
        """The tid whose next status was put into the queue while a filter was installed in the task; 0 for none."""
        self._on_stop: Callable[[], None] = lambda: None
        if injector is not None:
            injector.attach(self.calls, self.is_loading)

    def begin(self, pid: int, *, is_free: bool) -> None:
        """Add the seized process that will execute the program.  `is_free`: it is under no filter except the tracer's."""
        self.initial = Initial(pid, started=False)
        task = self.family.add(pid, pid)
        task.recorded = False
        if self._settings.late:
            self._late = Late(self.tasks, self.tally, self.calls, self.processor, self, self._settings.late_after)
            self._late.begin(task)
        elif not is_free:
            # Ours does not see what a filter in force refuses: stop before both, which costs two more stops a call.
            task.other_filter = True
        self.processor.pin(task)

    def next_of(self, tid: int, flags: int = 0) -> int:
        """Return the next wait status of a task, as `late.inject.Stops` describes."""
        while (stop := os.waitpid(-1, WALL | flags))[0] not in (tid, 0):
            self._queue.append(stop)
        return stop[1]

    def put_back(self, tid: int, status: int) -> None:
        """Have a wait status handled later, as `late.inject.Stops` describes."""
        self._queue.append((tid, status))
        self._queued = tid

    def release(self) -> None:
        """Detach from every task at its next stop.  Valid only without an installed filter, which would fail calls then."""
        for task in list(self.tasks.values()):
            task.leaving = True
            with contextlib.suppress(PtraceError):  # it is ending
                kernel.interrupt(task.tid)

    # -- the loop

    def run(self, on_stop: Callable[[], None] = lambda: None) -> None:
        """Handle the stops of all tasks until none is left.  `on_stop` is called at each group-stop of the initial process."""
        self._on_stop = on_stop
        while (taken := self._next()) is not None:
            tid, status = taken
            task = self.tasks.get(tid)
            if task is None or (status != STATUS_SECCOMP and status != STATUS_SYSCALL):
                if order := self._handle(tid, status, stop_of(status), task):
                    self._resume(tid, *order)
            elif not (self._info.read(tid) or self._info.read_again(tid)) or self._called(task, status):
                self._resume(tid, task.way)

    def _called(self, task: Task, status: int) -> bool:
        """At a call, which `_info` has: count it, and do what it needs.  Return whether the task is to be resumed."""
        op, arch, number, datum = _HEAD.unpack_from(self._info.bytes)
        if op == PTRACE_SYSCALL_INFO_EXIT and status == STATUS_SYSCALL:
            self._returned(task)
            return True
        if op != PTRACE_SYSCALL_INFO_SECCOMP and status == STATUS_SECCOMP:
            return False  # another thread's execve has taken over this tid: its own status follows
        runs = task.way is Way.RUN
        if op == PTRACE_SYSCALL_INFO_ENTRY and (runs or self._make_other_first(task, number)):
            # Not counted here: either another thread has just put our filter into this task, which stops it if the call is new;
            # or the task makes a call of ours first, and then this one again.
            if task.tid == self._queued:
                self._queued = 0
                return False
        elif op == PTRACE_SYSCALL_INFO_SECCOMP and not runs:
            self._filtered_call(task, arch, number, datum)
        elif task.watched and op == PTRACE_SYSCALL_INFO_ENTRY and task.is_only_watched:
            task.counted = False  # if the call is new, a filter's stop follows
            self.calls.enter(task, self._info.bytes)
        elif not task.recorded:
            task.counted = False
        else:
            if op != PTRACE_SYSCALL_INFO_SECCOMP or datum != WATCHING_DATUM:
                self.tally.count(task, arch, number, self._info.bytes)
            task.counted = True
            if task.watched and op == PTRACE_SYSCALL_INFO_ENTRY:
                self.calls.enter(task, self._info.bytes)
            if (op == PTRACE_SYSCALL_INFO_SECCOMP or not task.filtered) and (arch, number) in self.calls.handlers:
                self.calls.handle(task, self._info.bytes)
        task.stops += 1
        if not task.stops % SPEED_WINDOW:
            self._measure_rate(task)
        return True

    def _measure_rate(self, task: Task) -> None:
        """Move a task that stops often to the tracer's processor."""
        if time.monotonic() - task.checked < FAST:
            self.processor.pin(task)
        task.checked = time.monotonic()

    def _resume(self, tid: int, way: Way, signum: int = 0) -> None:
        """Resume a task, or note it to be resumed later if that fails."""
        if not kernel.resume(way, tid, signum):
            self._unresumed[tid] = way, signum

    def _next(self) -> tuple[int, int] | None:
        """Wait for a task to stop or end, and return its tid and wait status; None if no task is left."""
        if self._queue:
            return self._queue.popleft()
        try:
            if self._unresumed or self.family.early or not self.tasks:
                return self._poll()
            stop = os.waitpid(-1, WALL)
        except ChildProcessError:
            return None
        self._taken_singly += 1
        if not self._taken_singly % BATCH and len(self.tasks) > 1:
            # waitpid favours the first in its list: take all that have stopped, so that a busy task starves none.
            with contextlib.suppress(ChildProcessError):  # `stop` is among the last ones
                while (more := os.waitpid(-1, WALL | os.WNOHANG))[0]:
                    self._queue.append(more)
        return stop

    def _poll(self) -> tuple[int, int] | None:
        """Do the same as `_next`, and also try to resume the tasks in `_unresumed` again.  If no task stops within TIMEOUT,
        adopt the early tasks, and return (0, 0), or None if all tasks have ended."""
        pause, end = 0.0001, time.monotonic() + TIMEOUT
        while True:
            stop = os.waitpid(-1, WALL | os.WNOHANG)
            if stop[0]:
                return stop
            for tid, order in list(self._unresumed.items()):
                del self._unresumed[tid]
                if tid in self.tasks:
                    self._resume(tid, *order)
            if time.monotonic() > end:
                break
            time.sleep(pause)
            pause = min(2 * pause, 0.01)
        for task, signum in self.family.adopt():
            if self._late is not None:
                self._late.adopted(task)
            self._go_on(task, signum)
        return (0, 0) if self.tasks or not self._strangers else None

    # -- stops that are not at a call

    def _handle(self, tid: int, status: int, stop: Stop, task: Task | None) -> Order:
        """Process a stop or the end of a task; return how to resume the task, or None if it is not to be resumed now."""
        self._unresumed.pop(tid, None)
        kind = stop.kind
        if kind == ENDED:
            self._ended(tid, status)
            return None
        if task is None:
            if kind not in (GROUP, TRAP):
                return Way.RUN, 0  # the last stop of a thread that an execve has ended
            self.family.early[tid] = stop.signal
            return None
        if kind in (GROUP, TRAP):
            return self._halted(task, stop.signal)
        if kind == SIGNAL:
            return self._signalled(task, stop.signal)
        # It fails if the task is dying, or its files may not be read.
        with contextlib.suppress(PtraceError, OSError):
            if kind == CREATED:
                self._created(task, stop.event)
            elif kind == EXECUTED:
                self._executed(task)
        return task.way, 0

    def _halted(self, task: Task, signum: int) -> Order:
        """Keep a task in its group-stop by `signum`; if that is 0, the task is at a trap and is resumed."""
        with contextlib.suppress(PtraceError):
            self.calls.restore(task)
        task.stopped = signum
        if not signum or task.leaving:
            return task.way, 0
        self._resume(task.tid, Way.LISTEN)
        if task.tid == self.initial.pid:
            self._on_stop()
        return None

    def _go_on(self, task: Task, signum: int) -> None:
        """Resume a new task whose first stop came before it was known, or keep it in that stop if it is a group-stop."""
        if order := self._halted(task, signum):
            self._resume(task.tid, *order)

    def _signalled(self, task: Task, signum: int) -> Order:
        """At a signal-delivery stop: deliver the signal, unless the tracer's breakpoint caused it."""
        if signum == signal.SIGTRAP and (entry := self._entries.get(task.tid)) and entry.remove_if_reached(task.tid):
            del self._entries[task.tid]
            task.recorded = True
            if self._injector is not None:
                self._injector.entered(task)
            return task.way, 0
        with contextlib.suppress(PtraceError):
            if task.tgid == self.initial.pid and signum != signal.SIGCHLD:  # which no process sends to us
                self.initial.delivered[signum] = (kernel.sender(task.tid), time.monotonic())
            if signum in FAULTS and kernel.sender(task.tid) == 0 and dies_only_untraced(task.tid, signum):
                # The kernel does not kill it while it is traced (signal.c, force_sig_info_to_task), and the fault repeats.
                self.family.drop(task.tid)
                return Way.LEAVE, 0
        return task.way, signum

    def _created(self, task: Task, event: int) -> None:
        tid = kernel.event_message(task.tid)
        signum = self.family.early.get(tid)
        # The event does not say so: of CLONE_THREAD with SIGCHLD or CLONE_VFORK it is that of a fork (kernel/fork.c).
        child = self.family.born(tid, task, is_thread=kernel.is_thread_of(tid, task.tgid))
        if self._late is not None:
            self._late.born(task, child, event)
        self.calls.announced(task, child)
        if signum is not None:
            self._go_on(child, signum)

    def _executed(self, task: Task) -> None:
        former = task.executable
        before = former if self.initial.started else ""
        self.family.executed(task, former=kernel.event_message(task.tid))
        self._recorder.executed(before, task.executable)
        task.stopped = 0
        if self._late is not None:
            self._late.executed(task, former)
        is_initial = task.tid == self.initial.pid
        self.initial.started |= is_initial
        if kind := privilege_lost(task.tid):
            self._recorder.gap(f"{task.executable} ran without its {kind} privilege, as it also does under enforce")
        task.recorded |= not self._settings.from_entry and is_initial
        if self._injector is not None or (is_initial and not task.recorded):
            self._entries[task.tid] = None
            try:
                self._entries[task.tid] = EntryPoint(task.tid)
            except TracerError:  # it has none
                if not task.recorded:
                    raise

    def is_loading(self, pid: int) -> bool:
        """Return whether a process has not yet reached its program's entry point.  Valid only in a run with an `injector`."""
        return pid in self._entries

    def _ended(self, tid: int, status: int) -> None:
        if self._late is not None and (task := self.tasks.get(tid)):
            self._late.dropped(task)
        self.family.drop(tid)
        self.family.early.pop(tid, None)
        self._entries.pop(tid, None)
        if tid and tid == self.initial.pid:
            self.initial.status, self.initial.ended = status, time.monotonic()

    # -- calls under PTRACE_SYSCALL: without a filter of ours, or where another one may answer before it

    def _make_other_first(self, task: Task, number: int) -> bool:
        """At a syscall-entry stop: if a late filter is due, have the task make a call for it first (`Late.step`); return
        whether it does."""
        task.image.budget -= 1
        if self._late is None or (task.image.budget >= 0 and (number not in FILTERING or task.filtered)):
            return False
        task.counted = False
        return self._late.step(task, self._info.bytes)

    def _returned(self, task: Task) -> None:
        """At a syscall-exit stop: finish what was changed for the call."""
        task.counted = False
        if task.call is not None:
            self.calls.leave(task, int.from_bytes(self._info.bytes[24:32], "little", signed=True))
        if self._injector is None and not task.installing:
            return
        with contextlib.suppress(PtraceError):
            if self._injector is not None:
                self._injector.returned(task)
            if task.installing:
                self.calls.installed(task, failed=bool(self._info.bytes[INFO_IS_ERROR]))

    def _filtered_call(self, task: Task, arch: int, number: int, datum: int) -> None:
        """Handle a seccomp stop of a task under PTRACE_SYSCALL; count the call if it had no syscall-entry stop (a vsyscall).
        `datum` is that of the filter's RET_TRACE."""
        is_new = task.recorded and not task.counted and datum != WATCHING_DATUM
        if is_new:
            self.tally.count(task, arch, number, self._info.bytes)
        if datum in (RECORDING_DATUM, WATCHING_DATUM):
            if is_new or task.filtered:
                self.calls.handle(task, self._info.bytes)
        else:
            # This is a RET_TRACE of the program's own filter: without a tracer the kernel fails the call.
            with contextlib.suppress(PtraceError):
                kernel.skip_call(task.tid, ENOSYS)
