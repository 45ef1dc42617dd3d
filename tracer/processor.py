"""One processor for the tracer and the tasks that stop often, unseen by the program.

A ptrace stop costs about 3 us when tracer and tracee share a processor, and 50-100 us when the kernel must wake
another, idle one.  So a task that stops often is moved to the tracer's processor, and moved back when it stops rarely
(its computing must keep its parallelism) or before it could look.  Somebody outside of the program could see it.
"""

from __future__ import annotations

import ctypes
import os
import threading
from typing import TYPE_CHECKING, Final

from tracer.task import proc

if TYPE_CHECKING:
    from tracer.task import Task

TICK: Final = 0.02
"""Seconds between two looks at who still stops often."""
FEW_STOPS: Final = 20
"""Stops in a tick below which a lone task gets its own affinity back: the detour costs it less than 5 %."""
FEW_STOPS_OF_MANY: Final = 100
"""The same where several tasks share the processor, and so also wait for each other."""

CROWD: Final = 16
"""Tasks above which none is asked whether it waits: that takes 15 us each."""


class _Sharer:
    """A task on the tracer's processor."""

    __slots__ = ("before", "maker", "task")

    def __init__(self, task: Task, maker: int) -> None:
        self.task = task
        self.maker = maker
        """Who made it, by tid; 0 if it came here later."""
        self.before = task.stops
        """How many stops it had at the last tick, less those that its children have had since."""


class SharedProcessor:
    """Which tasks share the tracer's processor.  `tick` belongs to another thread than the rest."""

    def __init__(self) -> None:
        self._tracer = threading.get_native_id()
        self._own = os.sched_getaffinity(0)
        self._processor = {_current_processor()} & self._own or {min(self._own)}
        self._pinned: dict[int, _Sharer] = {}
        """By tid."""
        self._enabled = len(self._own) > 1
        """Off for good once the program may see affinities where we can't be in time to restore them."""
        self._lock = threading.Lock()
        """A task must not go on and look while the other thread is about to give it its affinity back."""

    @property
    def in_use(self) -> bool:
        return bool(self._pinned)

    def pin(self, task: Task) -> None:
        """Have `task` share the tracer's processor, if it may use it and has not chosen its processors itself."""
        if task.tid in self._pinned or task.own_affinity or not self._enabled:
            return
        with self._lock:
            affinity = _affinity(task.tid)
            if self._processor <= affinity and _set_affinity(task.tid, self._processor):
                task.affinity = affinity
                self._add(task)

    def inherit(self, parent: Task, child: Task) -> None:
        """A new task starts with its creator's affinity: ours, if that one was pinned then; it need not be now."""
        if parent.affinity is None or parent.own_affinity:
            return
        with self._lock:
            child.affinity = parent.affinity
            if _affinity(child.tid) == self._processor:
                self._add(child, parent.tid)
                if not self._enabled:
                    self._release(child.tid)

    def follow(self, former: int, task: Task) -> None:
        """`task`, in whose place thread `former` is now, after an execve, has that one's affinity."""
        with self._lock:
            self._pinned.pop(task.tid, None)
            if sharer := self._pinned.pop(former, None):
                sharer.task = task
                self._pinned[task.tid] = sharer
            self._rest()

    def release(self, tid: int) -> None:
        """Give a task its own affinity back."""
        with self._lock:
            self._release(tid)

    def forget(self, tid: int) -> None:
        """The task has ended.  Who starts one short-lived task after the other stops as often as they do."""
        if tid in self._pinned:
            with self._lock:
                ended = self._pinned.pop(tid, None)
                if ended and (maker := self._pinned.get(ended.maker)):
                    maker.before -= ended.task.stops - ended.before
                self._rest()

    def disable(self) -> None:
        """Share no more in this run."""
        with self._lock:
            self._enabled = False
            for tid in list(self._pinned):
                self._release(tid)

    def tick(self) -> None:
        """Release those that compute: they run, and have stopped rarely since the last tick.

        One that waits loses nothing by where it does, and what it starts next is better off here from its birth."""
        with self._lock:
            is_crowd = len(self._pinned) > CROWD
            few = FEW_STOPS if len(self._pinned) == 1 else FEW_STOPS_OF_MANY
            for tid, sharer in list(self._pinned.items()):
                if sharer.task.stops - sharer.before < few and (is_crowd or _runs(tid)):
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
            self._rest()

    def _rest(self) -> None:
        if not self._pinned:
            _set_affinity(self._tracer, self._own)


def _runs(tid: int) -> bool:
    """Whether a task is running or ready to; also if that can't be known."""
    try:
        with open(f"{proc()}/{tid}/stat", "rb") as file:
            return file.read().rpartition(b") ")[2][:1] == b"R"
    except OSError:
        return True


def _affinity(tid: int) -> set[int]:
    """The processors that a task may use; none when it is gone."""
    try:
        return os.sched_getaffinity(tid)
    except OSError:
        return set()


def _set_affinity(tid: int, processors: set[int]) -> bool:
    try:
        os.sched_setaffinity(tid, processors)
    except OSError:
        return False  # it is gone
    return True


def _current_processor() -> int:
    return int(ctypes.CDLL(None).sched_getcpu())
