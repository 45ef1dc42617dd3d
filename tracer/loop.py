"""The event loop: takes every stop of every task, from the first execve to the last exit."""

from __future__ import annotations

import contextlib
import os
import signal
import struct
import time
from collections import deque
from typing import TYPE_CHECKING, Final

from tracer import kernel
from tracer.abi import Arch
from tracer.calls import ENOSYS, Calls
from tracer.errors import PtraceError, TracerError
from tracer.family import TaskFamily
from tracer.kernel import RECORDING_DATUM, STATUS_SECCOMP, STATUS_SYSCALL, EntryPoint, SyscallInfo, resume
from tracer.late.late import FILTERING, Late
from tracer.linux import (
    INFO_IS_ERROR,
    PTRACE_CONT,
    PTRACE_DETACH,
    PTRACE_EVENT_CLONE,
    PTRACE_EVENT_EXEC,
    PTRACE_EVENT_FORK,
    PTRACE_EVENT_STOP,
    PTRACE_EVENT_VFORK,
    PTRACE_LISTEN,
    PTRACE_SYSCALL_INFO_ENTRY,
    PTRACE_SYSCALL_INFO_EXIT,
    PTRACE_SYSCALL_INFO_SECCOMP,
    WALL,
)
from tracer.processor import SharedProcessor
from tracer.tally import Recorder, Tally
from tracer.task import Task, dies_only_untraced, privilege_lost

if TYPE_CHECKING:
    from collections.abc import Callable

    from tracer.faults import Injector

STOP_SIGNALS: Final = frozenset((signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU))
FAULTS: Final = frozenset((signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE))
TURNS: Final = 16
"""Stops that are taken one by one before all tasks that have stopped get their turn: a tenth of a millisecond."""
MANY_STOPS: Final = 64
"""Calls of one task over which its rate is measured."""
FAST: Final = MANY_STOPS / 2000
"""Seconds for MANY_STOPS calls below which a task is moved to the tracer's processor: 2,000 calls a second."""
PATIENCE: Final = 0.05
"""Seconds that an early task waits for its parent's event, and that a task that could not be resumed is tried again."""

_HEAD = struct.Struct("<BxxxI16xI52xI")  # struct ptrace_syscall_info: op, arch, number (low half), datum


class Loop:
    """Follows tasks that have been seized.  `run` must be called by the thread that seized them."""

    def __init__(self, recorder: Recorder, allow_opaque: frozenset[str] = frozenset()) -> None:
        self.initial = 0
        """The process whose exit status counts."""
        self.status: int | None = None
        """Wait status of the initial process, once it has ended."""
        self.ended = 0.0
        """When that was (time.monotonic)."""
        self.started = False
        """Whether the initial process has made its first execve, or had when we attached to it."""
        self.from_entry = False
        """Whether to record from the initial program's ELF entry point on, instead of from its execve."""
        self.on_stop: Callable[[], None] = lambda: None
        """Called when the initial process has entered a group-stop."""
        self.delivered: dict[int, tuple[int, float]] = {}
        """By signal but SIGCHLD: the pid that sent the initial process the last one, and when that was (time.monotonic)."""
        self.strangers: frozenset[int] = frozenset()
        """Children that this process had before it started the program: they are not part of it."""
        self.processor = SharedProcessor()
        self._recorder = recorder
        self.tally = Tally(recorder)
        self.family = TaskFamily(self.tally, self.processor)
        self.tasks = self.family.tasks
        self.calls = Calls(self.tasks, self.processor, allow_opaque, recorder.gap)
        self._info = SyscallInfo()
        self._unresumed: dict[int, tuple[int, int]] = {}
        """Tasks that could not be resumed (`kernel.resume`), with (request, signal): most are dying."""
        self.injector: Injector | None = None
        """Makes calls fail, once a process has reached its program's entry point."""
        self.asked = 0
        """The signal by which the user asked for the run's end, if it was sent to this process; 0 for none."""
        self._entries: dict[int, EntryPoint | None] = {}
        """By process, where its program begins, until it gets there; None where that cannot be known."""
        self._queue: deque[tuple[int, int]] = deque()
        self._turns = 0
        self.late: Late | None = None
        """Gives the program filters that let known calls run; None if each call is to stop."""
        self._taken = 0
        """The task whose next status was taken while it was given a filter: it is in the queue."""

    def filter_late(self, after: int | None) -> None:
        """See `Late`."""
        self.late = Late(self.tasks, self.tally, self.calls, self.processor, self, after)

    def next_of(self, tid: int, flags: int = 0) -> int:
        """See `Stops`."""
        while (stop := os.waitpid(-1, WALL | flags))[0] not in (tid, 0):
            self._queue.append(stop)
        return stop[1]

    def put_back(self, tid: int, status: int) -> None:
        """See `Stops`."""
        self._queue.append((tid, status))
        self._taken = tid

    def release(self) -> None:
        """Detach from every task at its next stop; only where no filter was installed."""
        for task in list(self.tasks.values()):
            task.request = PTRACE_DETACH
            with contextlib.suppress(PtraceError):  # it is ending
                kernel.interrupt(task.tid)

    # -- the loop

    def run(self) -> None:
        """Follow all tasks until none is left."""
        info, tasks, tally, calls = self._info, self.tasks, self.tally, self.calls
        read, buffer, head, from_bytes, now = info.read, info.bytes, _HEAD.unpack_from, int.from_bytes, time.monotonic
        masks, special, x86_64 = tally.masks, calls.special, Arch.X86_64.audit
        while (stop := self._next()) is not None:
            tid, status = stop
            task = tasks.get(tid)
            if task is None or (status != STATUS_SECCOMP and status != STATUS_SYSCALL):
                self._other(tid, status, task)
                continue
            if read(tid) or info.read_again(tid):
                op, arch, number, datum = head(buffer)
                if op != PTRACE_SYSCALL_INFO_SECCOMP and status == STATUS_SECCOMP:
                    continue  # another thread's execve has taken over this tid: its own status follows
                if op == PTRACE_SYSCALL_INFO_EXIT:
                    self._left(task)
                    self._resume(task)
                    continue
                if op == PTRACE_SYSCALL_INFO_ENTRY and (task.request == PTRACE_CONT or self._other_first(task, number)):
                    # Another thread has put a late filter into it, which stops it if need be; or it makes this call again.
                    if tid == self._taken:
                        self._taken = 0
                        continue
                elif op == PTRACE_SYSCALL_INFO_SECCOMP and task.request != PTRACE_CONT:
                    self._filtered_call(task, datum)
                elif not task.recorded:
                    task.counted = False
                elif arch == x86_64:
                    key = from_bytes(buffer[24:80], "little") & (masks.get(number) or tally.mask(number))
                    (task.hot.get(key) or tally.slot(task, key, buffer))[0] += 1
                    task.counted = True
                    if number in special and (op == PTRACE_SYSCALL_INFO_SECCOMP or not task.filtered):
                        calls.handle(task, buffer)
                else:
                    tally.count(task, buffer)
                    task.counted = True
                    if op == PTRACE_SYSCALL_INFO_SECCOMP or not task.filtered:
                        calls.handle(task, buffer)
                task.stops = stops = task.stops + 1
                if not stops % MANY_STOPS:
                    if now() - task.checked < FAST:
                        self.processor.pin(task)
                    task.checked = now()
            if not resume(task.request, tid):
                self._unresumed[tid] = (task.request, 0)

    def _next(self) -> tuple[int, int] | None:
        """The next wait status, or None when there is no task left to wait for."""
        if self._queue:
            return self._queue.popleft()
        try:
            if self._unresumed or self.family.early or not self.tasks:
                return self._poll()
            stop = os.waitpid(-1, WALL)
        except ChildProcessError:
            return None
        self._turns += 1
        if not self._turns % TURNS and len(self.tasks) > 1:
            # waitpid favours the first in its list: take all that have stopped, so that a busy task starves none.
            with contextlib.suppress(ChildProcessError):  # `stop` is among the last ones
                while (more := os.waitpid(-1, WALL | os.WNOHANG))[0]:
                    self._queue.append(more)
        return stop

    def _poll(self) -> tuple[int, int] | None:
        """Like `_next`, where tasks must be resumed or adopted, or all has ended, if no status comes for a while."""
        pause, end = 0.0001, time.monotonic() + PATIENCE
        while True:
            stop = os.waitpid(-1, WALL | os.WNOHANG)
            if stop[0]:
                return stop
            for tid, (request, signum) in list(self._unresumed.items()):
                if tid not in self.tasks or resume(request, tid, signum):
                    del self._unresumed[tid]
            if time.monotonic() > end:
                break
            time.sleep(pause)
            pause = min(2 * pause, 0.01)
        for task in self.family.adopt():
            if self.late is not None:
                self.late.adopted(task)
            self._resume(task)
        return (0, 0) if self.tasks or not self.strangers else None

    def _resume(self, task: Task, signum: int = 0, request: int = 0) -> None:
        request = request or task.request
        if not resume(request, task.tid, signum):
            self._unresumed[task.tid] = (request, signum)

    # -- stops that are not seccomp's

    def _other(self, tid: int, status: int, task: Task | None) -> None:
        self._unresumed.pop(tid, None)
        if not os.WIFSTOPPED(status):
            self._ended(tid, status)
            return
        event, signum = status >> 16, os.WSTOPSIG(status)
        if task is None:
            if event == PTRACE_EVENT_STOP:
                self.family.early.add(tid)
            else:
                resume(PTRACE_CONT, tid)  # the last stop of a thread that an execve has ended
        elif event == PTRACE_EVENT_STOP:
            self._group_stop_or_trap(task, signum)
        elif event == 0:
            if (delivered := self._signal(task, signum)) is not None:
                self._resume(task, delivered)
        else:
            # It fails if the task is dying, or its files may not be read.
            with contextlib.suppress(PtraceError, OSError):
                self._event(task, event)
            self._resume(task)

    def _group_stop_or_trap(self, task: Task, signum: int) -> None:
        with contextlib.suppress(PtraceError):
            self.calls.restore(task)
        task.stopped = signum if signum in STOP_SIGNALS else 0
        if not task.stopped or task.request == PTRACE_DETACH:
            self._resume(task)
            return
        self._resume(task, request=PTRACE_LISTEN)
        if task.tid == self.initial:
            self.on_stop()

    def _signal(self, task: Task, signum: int) -> int | None:
        """Return what to deliver at a signal-delivery stop: the signal, or 0 for a trap that is ours.

        None: we have detached from the task, which dies of the signal.
        """
        if signum == signal.SIGTRAP and (entry := self._entries.get(task.tid)) and entry.reached(task.tid):
            del self._entries[task.tid]
            task.recorded = True
            if self.injector is not None:
                self.injector.entered(task)
            return 0
        with contextlib.suppress(PtraceError):
            if task.tgid == self.initial and signum != signal.SIGCHLD:  # which nobody sends to us
                self.delivered[signum] = (kernel.sender(task.tid), time.monotonic())
            if signum in FAULTS and kernel.sender(task.tid) == 0 and dies_only_untraced(task.tid, signum):
                # The kernel does not kill it while it is traced (signal.c, force_sig_info_to_task), and the fault repeats.
                self.family.drop(task.tid)
                resume(PTRACE_DETACH, task.tid)
                return None
        return signum

    def _event(self, task: Task, event: int) -> None:
        if event in (PTRACE_EVENT_FORK, PTRACE_EVENT_VFORK, PTRACE_EVENT_CLONE):
            tid = kernel.event_message(task.tid)
            is_waiting = tid in self.family.early
            is_thread = event == PTRACE_EVENT_CLONE and kernel.is_thread_of(tid, task.tgid)
            child = self.family.born(tid, task, is_thread=is_thread)
            if self.late is not None:
                self.late.born(task, child, event)
            self.calls.announced(task, child)
            if is_waiting:
                self.calls.restore(child)
                self._resume(child)
        elif event == PTRACE_EVENT_EXEC:
            self._exec(task)

    def _exec(self, task: Task) -> None:
        former = task.executable
        before = former if self.started else ""
        self.family.executed(task, former=kernel.event_message(task.tid))
        self._recorder.executed(before, task.executable)
        task.stopped = 0
        if self.late is not None:
            self.late.executed(task, former)
        self.started |= task.tid == self.initial
        if kind := privilege_lost(task.tid):
            self._recorder.gap(f"{task.executable} ran without its {kind} privilege, as it does when enforced")
        task.recorded |= not self.from_entry and task.tid == self.initial
        if self.injector is not None or (task.tid == self.initial and not task.recorded):
            self._entries[task.tid] = None
            try:
                self._entries[task.tid] = EntryPoint(task.tid)
            except TracerError:  # it has none
                if not task.recorded:
                    raise

    def is_loading(self, pid: int) -> bool:
        """Whether a process has yet to reach its program's entry point; only with an `injector`."""
        return pid in self._entries

    def _ended(self, tid: int, status: int) -> None:
        if self.late is not None and (task := self.tasks.get(tid)):
            self.late.dropped(task)
        self.family.drop(tid)
        self.family.early.discard(tid)
        self._entries.pop(tid, None)
        if tid and tid == self.initial:
            self.status, self.ended = status, time.monotonic()

    # -- calls under PTRACE_SYSCALL: without a filter of ours, or where another one may answer before it

    def _other_first(self, task: Task, number: int) -> bool:
        """At a call's entry: whether the task was made to make another call first (`Late.entered`)."""
        task.image.left -= 1
        if self.late is None or (task.image.left >= 0 and (number not in FILTERING or task.filtered)):
            return False
        task.counted = False
        return self.late.entered(task, self._info.bytes)

    def _left(self, task: Task) -> None:
        """At a call's exit."""
        task.counted = False
        if self.injector is None and not task.installing:
            return
        with contextlib.suppress(PtraceError):
            if self.injector is not None:
                self.injector.left(task)
            if task.installing:
                self.calls.installed(task, failed=bool(self._info.bytes[INFO_IS_ERROR]))

    def _filtered_call(self, task: Task, datum: int) -> None:
        """At a seccomp stop of a task under PTRACE_SYSCALL: the call was counted at its entry stop, which vsyscalls lack."""
        is_new = task.recorded and not task.counted
        if is_new:
            self.tally.count(task, self._info.bytes)
        if datum == RECORDING_DATUM:
            if is_new or task.filtered:
                self.calls.handle(task, self._info.bytes)
        else:
            # This is a RET_TRACE of the program's own filter: without a tracer the kernel fails the call.
            with contextlib.suppress(PtraceError):
                kernel.skip_call(task.tid, ENOSYS)
