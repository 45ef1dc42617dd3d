"""The event loop: every stop of every task, from the first execve to the last exit."""

from __future__ import annotations

import os
import signal
import struct
import time
from collections import deque
from typing import TYPE_CHECKING, Final

from tracer import kernel
from tracer.abi import Arch
from tracer.calls import Calls
from tracer.kernel import (
    EVENT_CLONE,
    EVENT_EXEC,
    EVENT_FORK,
    EVENT_STOP,
    EVENT_VFORK,
    OP_ENTRY,
    PTRACE_CONT,
    PTRACE_DETACH,
    PTRACE_LISTEN,
    RECORDING_DATUM,
    STATUS_SECCOMP,
    STATUS_SYSCALL,
    WALL,
    PtraceError,
    SyscallInfo,
    resume,
)
from tracer.processor import SharedProcessor
from tracer.tally import Recorder, Tally
from tracer.task import Task, executable_of, kin_of, privilege_lost

if TYPE_CHECKING:
    from collections.abc import Callable

STOP_SIGNALS: Final = frozenset((signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU))
MANY_STOPS: Final = 64
"""So many calls of one task are taken together when its rate is looked at."""
FAST: Final = MANY_STOPS / 2000
"""Seconds for MANY_STOPS calls below which a task is worth having on the tracer's processor: 2,000 calls a second."""

_HEAD = struct.Struct("<4xI16xI52xI")  # struct ptrace_syscall_info: arch, number (low half), datum


class Loop:
    """Follows tasks that have been seized.  `run` belongs to the thread that seized them."""

    def __init__(self, recorder: Recorder, allow_opaque: frozenset[str] = frozenset()) -> None:
        self.tasks: dict[int, Task] = {}
        self.initial = 0
        """The process whose exit status counts."""
        self.status: int | None = None
        """Wait status of the initial process, once it has ended."""
        self.from_entry = False
        """Record from the initial program's ELF entry point on, instead of from its execve."""
        self.on_stop: Callable[[], None] = lambda: None
        """Called when the initial process has gone into a group-stop."""
        self.on_exit: Callable[[], None] = lambda: None
        """Called when the initial process has ended."""
        self.processes = 0
        """Processes seen so far."""
        self.calls_seen = 0
        """Calls of tasks that have ended."""
        self.processor = SharedProcessor()
        self.calls = Calls(self, allow_opaque, recorder.gap)
        self.strangers: frozenset[int] = frozenset()
        """Children that this process already had when it started: not part of the program."""
        self._recorder = recorder
        self._tally = Tally(recorder)
        self._info = SyscallInfo()
        self._unresumed: dict[int, tuple[int, int]] = {}
        """Tasks that could not be resumed (request, signal): they are dying, or it was a passing fault."""
        self._early: set[int] = set()
        """Tasks whose first stop came before their parent's event: they wait for it."""
        self._breakpoint: tuple[int, int] | None = None
        """Address and original word, while `from_entry` waits."""
        self._queue: deque[tuple[int, int]] = deque()

    @property
    def calls_counted(self) -> int:
        return self.calls_seen + sum(task.stops for task in list(self.tasks.values()))

    # -- tasks

    def add(self, tid: int, tgid: int) -> Task:
        """A task that has been seized by us."""
        task = self.tasks[tid] = Task(tid, tgid)
        self._set_executable(task)
        self.processes += tid == tgid
        return task

    def _set_executable(self, task: Task) -> None:
        task.executable = executable_of(task.tgid)
        task.hot = self._tally.hot(task.executable)

    def _born(self, tid: int, parent: Task, *, is_thread: bool) -> None:
        """A task that the kernel has attached for us has been announced by its parent's event."""
        self._early.discard(tid)
        task = self.tasks[tid] = parent.child(tid, parent.tgid if is_thread else tid)
        self.processes += not is_thread
        self.processor.inherit(parent, task)

    def _adopt(self) -> None:
        """Take in those that have stopped but whose parent died before it could announce them."""
        for tid in self._early:
            tgid, ppid = kin_of(tid)
            parent = self.tasks.get(tgid if tgid != tid else ppid)
            if parent:
                self._born(tid, parent, is_thread=tgid != tid)
            else:
                self.add(tid, tgid)
            self._resume(self.tasks[tid])
        self._early.clear()

    def release(self) -> None:
        """Let go of every task at its next stop, running on as if nothing had been (only where no filter was installed)."""
        for task in self.tasks.values():
            task.request = PTRACE_DETACH
            try:
                kernel.interrupt(task.tid)
            except PtraceError:
                continue  # it is ending

    # -- the loop

    def run(self) -> None:
        """Until no task is left."""
        info, tasks, tally, calls = self._info, self.tasks, self._tally, self.calls
        read, buffer, head, from_bytes, now = info.read, info.bytes, _HEAD.unpack_from, int.from_bytes, time.monotonic
        masks, special, x86_64 = tally.masks, calls.special, Arch.X86_64.audit
        while (stop := self._next()) is not None:
            tid, status = stop
            task = tasks.get(tid)
            if status != STATUS_SECCOMP or task is None:
                self._other(tid, status, task)
                continue
            if read(tid) or read(tid):  # a second try tells a passing fault from a dying task
                arch, number, datum = head(buffer)
                if task.request != PTRACE_CONT:
                    self._filtered_call(task, datum)
                elif not task.recorded:
                    pass
                elif arch == x86_64:
                    key = from_bytes(buffer[24:80], "little") & (masks.get(number) or tally.mask(number))
                    (task.hot.get(key) or tally.slot(task, key, buffer))[0] += 1
                    if number in special:
                        calls.handle(task, buffer)
                else:
                    tally.count(task, buffer)
                    calls.handle(task, buffer)
                task.stops = stops = task.stops + 1
                if not stops % MANY_STOPS:
                    if now() - task.checked < FAST:
                        self.processor.pin(task)
                    task.checked = now()
            if not resume(task.request, tid):
                self._unresumed[tid] = (task.request, 0)

    def _next(self) -> tuple[int, int] | None:
        """The next wait status, or None when there is nobody left to wait for."""
        if self._queue:
            return self._queue.popleft()
        try:
            if self._unresumed or (not self.tasks and self.strangers):
                return self._poll()
            stop = os.waitpid(-1, WALL)
            if len(self.tasks) > 1:
                # waitpid favours the first in its list: take all that have stopped, so that a busy one starves nobody.
                while (more := os.waitpid(-1, WALL | os.WNOHANG))[0]:
                    self._queue.append(more)
        except ChildProcessError:
            return self._queue.popleft() if self._queue else None
        return stop

    def _poll(self) -> tuple[int, int] | None:
        """`_next` without blocking: resumes what could not be resumed, and ends when only strangers are left."""
        for _ in range(50):
            stop = os.waitpid(-1, WALL | os.WNOHANG)
            if stop[0]:
                return stop
            for tid, (request, signum) in list(self._unresumed.items()):
                if tid not in self.tasks or resume(request, tid, signum):
                    del self._unresumed[tid]
            time.sleep(0.001)
        return (0, 0) if self.tasks or not self.strangers else None

    def _resume(self, task: Task, signum: int = 0, request: int = 0) -> None:
        request = request or task.request
        if not resume(request, task.tid, signum):
            self._unresumed[task.tid] = (request, signum)

    # -- stops that are not calls

    def _other(self, tid: int, status: int, task: Task | None) -> None:
        self._unresumed.pop(tid, None)
        if not os.WIFSTOPPED(status):
            if tid:
                self._ended(tid, status)
            return
        event, signum = status >> 16, os.WSTOPSIG(status)
        if task is None:
            if event == EVENT_STOP:
                self._early.add(tid)
            else:
                resume(PTRACE_CONT, tid)  # the last stop of a thread that an exec has ended
            return
        if status == STATUS_SYSCALL:
            self._entry_or_exit(task)
        elif event == EVENT_STOP:
            task.stopped = signum in STOP_SIGNALS
            if task.stopped and task.request != PTRACE_DETACH:
                self._resume(task, request=PTRACE_LISTEN)
                if tid == self.initial:
                    self.on_stop()
            else:
                self._resume(task)
        elif event == 0:
            if signum == signal.SIGTRAP and self._reached_entry(task):
                signum = 0
            self._resume(task, signum)
        else:
            try:
                self._event(task, event)
            except (PtraceError, OSError):
                pass  # the task is dying, or its files may not be read: its status follows
            self._resume(task)

    def _event(self, task: Task, event: int) -> None:
        if event in (EVENT_FORK, EVENT_VFORK, EVENT_CLONE):
            child = kernel.event_message(task.tid)
            early = child in self._early
            self._born(child, task, is_thread=event == EVENT_CLONE and os.path.exists(f"/proc/{task.tgid}/task/{child}"))
            if early:
                self._resume(self.tasks[child])
        elif event == EVENT_EXEC:
            self._exec(task)

    def _exec(self, task: Task) -> None:
        """The threads of the process are one now, with the process's id, whichever of them called execve."""
        former = kernel.event_message(task.tid)
        for tid, other in list(self.tasks.items()):
            if other.tgid == task.tgid and other is not task:
                if tid == former:
                    task.recorded, task.request, task.filtered = other.recorded, other.request, other.filtered
                self._drop(tid)
        self._set_executable(task)
        task.stopped = False
        if not task.recorded and task.tid == self.initial and self._breakpoint is None:
            if self.from_entry:
                address = kernel.entry_point(task.tid)
                self._breakpoint = (address, kernel.set_breakpoint(task.tid, address))
            else:
                task.recorded = True
        if kind := privilege_lost(task.tid):
            self._recorder.gap(f"{task.executable} ran without its {kind} privilege, as it does when enforced")
        self._adopt()

    def _reached_entry(self, task: Task) -> bool:
        if self._breakpoint is None or task.recorded or task.tid != self.initial:
            return False
        try:
            task.recorded = kernel.clear_breakpoint(task.tid, *self._breakpoint)
        except PtraceError:
            return False
        return task.recorded

    def _drop(self, tid: int) -> None:
        task = self.tasks.pop(tid, None)
        if task is not None:
            self.calls_seen += task.stops
            self.processor.forget(tid)

    def _ended(self, tid: int, status: int) -> None:
        self._drop(tid)
        self._early.discard(tid)
        self._adopt()
        if tid == self.initial:
            self.status = status
            self.on_exit()

    # -- calls under PTRACE_SYSCALL: of programs with filters of their own, and of those that we attached to

    def _entry_or_exit(self, task: Task) -> None:
        info = self._info
        if info.read(task.tid) and info.bytes[0] == OP_ENTRY and task.recorded:
            task.stops += 1
            self._tally.count(task, info.bytes)
            if not task.filtered:
                self.calls.handle(task, info.bytes)
        self._resume(task)

    def _filtered_call(self, task: Task, datum: int) -> None:
        """A seccomp stop of a call that was counted at its entry stop."""
        if datum == RECORDING_DATUM:
            self.calls.handle(task, self._info.bytes)
        else:
            # A RET_TRACE of the program's own filter: without a tracer the kernel fails the call.
            try:
                kernel.skip_call(task.tid, 38)
            except PtraceError:
                return
