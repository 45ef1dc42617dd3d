"""Moves the tasks that stop often to the tracer's processor, without the program being able to read that.

A ptrace stop costs about 3 us when tracer and tracee share a processor, and 50-100 us when the kernel must wake another, idle
one.  So a task that stops often is moved to the tracer's processor.  It gets its own affinity back when it stops rarely, so
that it computes in parallel, and before it can read its affinity.  Processes outside the program can see the change.
"""

from __future__ import annotations

import ctypes
import os
import threading
from typing import Final

from callfence.tracer.proc import state_of
from callfence.tracer.task import Task

TICK: Final = 0.02
"""Seconds between two checks of which tasks still stop often."""
FEW_STOPS: Final = 20
"""Stops in a tick below which a single task gets its own affinity back: waking another processor costs it under 5 %."""
FEW_STOPS_OF_MANY: Final = 100
"""The same limit if several tasks share the processor, so that they also wait for each other."""

CROWD: Final = 16
"""If more tasks than this share the processor, `tick` does not read their states, which takes 15 us each."""


class _Sharer:
    """A task on the tracer's processor."""

    def __init__(self, task: Task, maker: int) -> None:
        self.task = task
        self.maker = maker
        """The tid of the task that created it; 0 if it was not pinned at its creation."""
        self.before = task.stops
        """The number of its stops at the last tick, minus the stops of its children that have ended since."""


class SharedProcessor:
    """The tasks that share the tracer's processor.  The tracer's thread calls all methods but `tick`, which another calls."""

    def __init__(self) -> None:
        self._tracer = threading.get_native_id()
        self._own = os.sched_getaffinity(0)
        self._processor = {_current_processor()} & self._own or {min(self._own)}
        self._pinned: dict[int, _Sharer] = {}
        """The tasks on the tracer's processor, by tid."""
        self.enabled = len(self._own) > 1
        """False for the rest of the run once the program may read affinities where they cannot be restored in time."""
        self._lock = threading.Lock()
        """Held while affinities are changed, so that `tick` and the tracer's thread do not change them at the same time."""

    @property
    def in_use(self) -> bool:
        return bool(self._pinned)

    def pin(self, task: Task) -> None:
        """Move `task` to the tracer's processor, unless its affinity forbids that, or was set by the program itself."""
        if task.tid in self._pinned or task.own_affinity or task.apart or not self.enabled:
            return
        with self._lock:
            affinity = _affinity(task.tid)
            if self._processor <= affinity and _set_affinity(task.tid, self._processor):
                task.affinity = affinity
                self._add(task)

    def inherit(self, parent: Task, child: Task) -> None:
        """Register a new task.  With its creator's affinity, it is on the tracer's processor if `parent` was pinned then."""
        if parent.affinity is None or parent.own_affinity or parent.apart:
            return
        with self._lock:
            child.affinity = parent.affinity
            if _affinity(child.tid) == self._processor:
                self._add(child, parent.tid)
                if not self.enabled:
                    self._release(child.tid)

    def follow(self, former: int, task: Task) -> None:
        """After an execve of the thread `former`, which has taken over the tid of `task`: register `task` on the processor in
        place of `former`."""
        with self._lock:
            self._pinned.pop(task.tid, None)
            if sharer := self._pinned.pop(former, None):
                sharer.task = task
                self._pinned[task.tid] = sharer
            self._restore_own()

    def release(self, tid: int) -> None:
        """Restore a task's own affinity, so that it no longer shares the tracer's processor, if it does."""
        with self._lock:
            self._release(tid)

    def set_apart(self, task: Task) -> None:
        """Restore a task's own affinity, and pin neither this task nor tasks that it creates until they execute a file: until
        then they may read affinities in calls that do not stop."""
        self.release(task.tid)
        task.apart = True

    def executed(self, task: Task) -> None:
        """Pin a task again that was set apart and has executed a file, since all of its calls stop now."""
        if task.apart:
            task.apart = False
            self.pin(task)

    def forget(self, tid: int) -> None:
        """Remove a task that has ended, and count its stops as its creator's: a creator of many short tasks stays pinned to the
        tracer's processor."""
        if tid in self._pinned:
            with self._lock:
                ended = self._pinned.pop(tid, None)
                if ended and (maker := self._pinned.get(ended.maker)):
                    maker.before -= ended.task.stops - ended.before
                self._restore_own()

    def disable(self) -> None:
        """Restore the own affinities of all tasks, and pin no task for the rest of the run."""
        with self._lock:
            self.enabled = False
            for tid in list(self._pinned):
                self._release(tid)

    def tick(self) -> None:
        """Release the tasks that are running but have stopped rarely since the last tick: they compute, and can do so on
        another processor.

        A waiting task stays pinned: it loses nothing here, and the tasks that it starts next are faster on this processor."""
        with self._lock:
            is_crowd = len(self._pinned) > CROWD
            few = FEW_STOPS if len(self._pinned) == 1 else FEW_STOPS_OF_MANY
            for tid, sharer in list(self._pinned.items()):
                if sharer.task.stops - sharer.before < few and (is_crowd or state_of(tid) == "R"):
                    self._release(tid)
                else:
                    sharer.before = sharer.task.stops

    def _add(self, task: Task, maker: int = 0) -> None:
        if not self._pinned:
            _set_affinity(self._tracer, self._processor)
        self._pinned[task.tid] = _Sharer(task, maker)

    def _release(self, tid: int) -> None:
        if sharer := self._pinned.pop(tid, None):
            _set_affinity(tid, sharer.task.affinity or self._own)
            self._restore_own()

    def _restore_own(self) -> None:
        if not self._pinned:
            _set_affinity(self._tracer, self._own)


def _affinity(tid: int) -> set[int]:
    """Return the processors that a task may use; an empty set if it has ended."""
    try:
        return os.sched_getaffinity(tid)
    except OSError:
        return set()


def _set_affinity(tid: int, processors: set[int]) -> bool:
    try:
        os.sched_setaffinity(tid, processors)
    except OSError:
        return False  # it has ended
    return True


def _current_processor() -> int:
    return int(ctypes.CDLL(None).sched_getcpu())
