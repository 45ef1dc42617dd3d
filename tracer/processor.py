"""One processor for the tracer and the tasks that stop often, which the program cannot see.

A ptrace stop costs about 3 us when tracer and tracee share a processor, and 50-100 us when the kernel must wake
another, idle one.  So a task that stops often is moved to the tracer's processor.  It gets its own affinity back when
it stops rarely, so that it computes in parallel, and before it can read its affinity.  Processes outside the program
can see the change.
"""

from __future__ import annotations

import ctypes
import os
import threading
from typing import TYPE_CHECKING, Final

from tracer.proc import state_of

if TYPE_CHECKING:
    from tracer.task import Task

TICK: Final = 0.02
"""Seconds between two checks which tasks still stop often."""
FEW_STOPS: Final = 20
"""Stops in a tick below which a single task gets its own affinity back: waking another processor costs it under 5 %."""
FEW_STOPS_OF_MANY: Final = 100
"""The same where several tasks share the processor, and so wait for each other too."""

CROWD: Final = 16
"""Number of tasks above which none is checked for waiting: that takes 15 us each."""


class _Sharer:
    """A task on the tracer's processor."""

    def __init__(self, task: Task, maker: int) -> None:
        self.task = task
        self.maker = maker
        """The tid of the task that made it; 0 if it was pinned later."""
        self.before = task.stops
        """Its stops at the last tick, minus those of its children since."""


class SharedProcessor:
    """The tasks that share the tracer's processor.  `tick` is called by another thread than the rest."""

    def __init__(self) -> None:
        self._tracer = threading.get_native_id()
        self._own = os.sched_getaffinity(0)
        self._processor = {_current_processor()} & self._own or {min(self._own)}
        self._pinned: dict[int, _Sharer] = {}
        """By tid."""
        self.enabled = len(self._own) > 1
        """False for the rest of the run once the program may read affinities where they cannot be restored in time."""
        self._lock = threading.Lock()
        """Held so that a task does not read its affinity while the other thread is restoring it."""

    @property
    def in_use(self) -> bool:
        return bool(self._pinned)

    def pin(self, task: Task) -> None:
        """Move `task` to the tracer's processor, if it may run there and has not chosen its processors itself."""
        if task.tid in self._pinned or task.own_affinity or task.apart or not self.enabled:
            return
        with self._lock:
            affinity = _affinity(task.tid)
            if self._processor <= affinity and _set_affinity(task.tid, self._processor):
                task.affinity = affinity
                self._add(task)

    def inherit(self, parent: Task, child: Task) -> None:
        """Take over a new task, which starts with its creator's affinity: ours, if the creator was pinned at that time."""
        if parent.affinity is None or parent.own_affinity or parent.apart:
            return
        with self._lock:
            child.affinity = parent.affinity
            if _affinity(child.tid) == self._processor:
                self._add(child, parent.tid)
                if not self.enabled:
                    self._release(child.tid)

    def follow(self, former: int, task: Task) -> None:
        """After an execve by thread `former`, which goes on as `task`, take over the affinity of `former`."""
        with self._lock:
            self._pinned.pop(task.tid, None)
            if sharer := self._pinned.pop(former, None):
                sharer.task = task
                self._pinned[task.tid] = sharer
            self._restore_own()

    def release(self, tid: int) -> None:
        """Give a task its own affinity back."""
        with self._lock:
            self._release(tid)

    def set_apart(self, task: Task) -> None:
        """Do not share with a task, nor with those that it will make, until they execute something: they may read affinities in
        calls that do not stop."""
        self.release(task.tid)
        task.apart = True

    def executed(self, task: Task) -> None:
        """Share again with a task that has executed something: all of its calls stop."""
        if task.apart:
            task.apart = False
            self.pin(task)

    def forget(self, tid: int) -> None:
        """Remove a task that has ended.  Its stops count as its maker's, so that one that starts many short tasks stays."""
        if tid in self._pinned:
            with self._lock:
                ended = self._pinned.pop(tid, None)
                if ended and (maker := self._pinned.get(ended.maker)):
                    maker.before -= ended.task.stops - ended.before
                self._restore_own()

    def disable(self) -> None:
        """Stop sharing for the rest of the run."""
        with self._lock:
            self.enabled = False
            for tid in list(self._pinned):
                self._release(tid)

    def tick(self) -> None:
        """Release the tasks that compute: they run, and have stopped rarely since the last tick.

        A task that waits loses nothing here, and what it starts next is faster if it starts here."""
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
    """Return the processors that a task may use; none when it has ended."""
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
