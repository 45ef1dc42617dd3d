"""One processor for the tracer and the tasks that stop often, unseen by the program.

A ptrace stop costs about 3 us when tracer and tracee share a processor, and 50-100 us when the kernel must wake another,
idle one.  So a task that stops often is moved to the tracer's processor, and moved back when it stops rarely (its
computing must keep its parallelism) or before it could look.
"""

from __future__ import annotations

import ctypes
import os
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tracer.task import Task

TICK: Final = 0.02
"""Seconds between two looks at who still stops often."""
FEW_STOPS: Final = 20
"""Stops in a tick below which a lone task gets its own affinity back: the detour costs it less than 5 %."""
FEW_STOPS_OF_MANY: Final = 100
"""The same where several tasks share the processor, and so also wait for each other."""


class SharedProcessor:
    """Which tasks share the tracer's processor.  `tick` may be called from another thread than the rest."""

    def __init__(self) -> None:
        self._own = os.sched_getaffinity(0)
        self._processor = {_current_processor()} & self._own or {min(self._own)}
        self._pinned: dict[int, tuple[Task, set[int]]] = {}
        self._stops: dict[int, int] = {}
        self._enabled = len(self._own) > 1
        """Off for good once the program reads its affinity where we can't be in time to restore it."""
        self._alone = False

    @property
    def in_use(self) -> bool:
        return bool(self._pinned)

    def pin(self, task: Task) -> None:
        """Have `task` share the tracer's processor, if it may use it and has not chosen its processors itself."""
        if not self._enabled or task.own_affinity or task.tid in self._pinned:
            return
        try:
            affinity = os.sched_getaffinity(task.tid)
            if not self._processor <= affinity:
                return
            os.sched_setaffinity(task.tid, self._processor)
        except OSError:
            return
        self._add(task, affinity)

    def inherit(self, parent: Task, child: Task) -> None:
        """A new task starts with its creator's affinity, ours included."""
        if entry := self._pinned.get(parent.tid):
            self._add(child, entry[1])

    def _add(self, task: Task, affinity: set[int]) -> None:
        self._pinned[task.tid] = (task, affinity)
        self._stops[task.tid] = task.stops
        if not self._alone:
            self._alone = True
            os.sched_setaffinity(0, self._processor)

    def release(self, tid: int) -> None:
        """Give a task its own affinity back."""
        entry = self._pinned.pop(tid, None)
        if entry is None:
            return
        self._stops.pop(tid, None)
        try:
            os.sched_setaffinity(tid, entry[1])
        except OSError:
            pass  # it is gone
        self._rest()

    def forget(self, tid: int) -> None:
        """The task has ended."""
        if self._pinned.pop(tid, None) is not None:
            self._stops.pop(tid, None)
            self._rest()

    def _rest(self) -> None:
        if not self._pinned and self._alone:
            self._alone = False
            os.sched_setaffinity(0, self._own)

    def release_all(self, tids: Iterable[int] | None = None) -> None:
        for tid in list(self._pinned if tids is None else tids):
            self.release(tid)

    def disable(self) -> None:
        """Share no more in this run."""
        self._enabled = False
        self.release_all()

    def tick(self) -> None:
        """Release those that stopped rarely since the last tick."""
        few = FEW_STOPS if len(self._pinned) == 1 else FEW_STOPS_OF_MANY
        for tid, (task, _) in list(self._pinned.items()):
            stops = task.stops
            if stops - self._stops.get(tid, 0) < few:
                self.release(tid)
            else:
                self._stops[tid] = stops


def _current_processor() -> int:
    return int(ctypes.CDLL(None).sched_getcpu())
