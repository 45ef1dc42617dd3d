"""The end of a rehearsed run that does not end by itself, or not in time."""

from __future__ import annotations

import shutil
import tempfile
import time
from typing import TYPE_CHECKING, Final

from tracer import session
from tracer.proc import is_caught, state_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from tracer.loop import Loop

MULTIPLE: Final = 3
"""A run is ended after this many times as long as the plain run took,"""
SHORTEST: Final = 3.0
"""but not before it has had so many seconds;"""
IDLE: Final = 1.5
"""and when it has waited for so many seconds: nobody will connect to a server, or type."""
FEW: Final = 100
"""Calls that a program which waits makes in that time at most: some wake up now and then."""
BUSY: Final = ("R", "D", "t")
"""States of a task that does more than wait: it runs, it waits for a disk, or its tracer has yet to take its stop."""
CROWD: Final = 16
"""Tasks above which none is asked what it does, which takes 15 us each."""
GRACE: Final = 1.0
"""Seconds that a run gets for ending on SIGTERM, and processes that outlive their program for ending by themselves."""
SIGTERM: Final = 15


class Clock:
    """Ends a run that hangs, leaves daemons, fills the disk, or that the user does not want any more."""

    def __init__(self, plain: float, left: float, floor: int, distinct: Callable[[], int], start: Callable[[], None]) -> None:
        """`plain`: the seconds of the plain run; `left`: those of the budget; `floor`: free bytes below which the run is
        ended; `distinct`: how many observations there are.  `start` is called once the program runs."""
        self.is_ended = False
        """Whether the run was ended from here."""
        self._start: Callable[[], None] | None = start
        self._distinct = distinct
        self._began = self._busy = time.monotonic()
        """`_busy`: when it was last known to do more than wait."""
        self._limit = min(max(MULTIPLE * plain, SHORTEST), left)
        self._seen = (0, 0)
        """Calls and distinct ones at that time."""
        self._ending = 0.0
        self._floor = floor

    def tick(self, loop: Loop) -> None:
        now = time.monotonic()
        if self._start is not None:
            self._start()
            self._start = None
        if self._is_busy(loop):
            self._busy, self._seen = now, (loop.family.calls, self._distinct())
        if self._ending:
            if now - self._ending > GRACE or loop.asked:
                session.kill(loop)
        elif loop.asked or free_space() < self._floor:
            self.is_ended = True
            self._ending = now - GRACE
            session.kill(loop)
        elif loop.initial.status is not None:
            if now - loop.initial.ended > GRACE:
                self._end(loop, now)
        elif now - self._began > self._limit or now - self._busy > IDLE:
            self._end(loop, now)

    def _is_busy(self, loop: Loop) -> bool:
        calls, distinct = self._seen
        if self._distinct() > distinct or loop.family.calls > calls + FEW:
            return True
        tasks = [task for task in list(loop.tasks.values()) if not task.stopped]
        return len(tasks) <= CROWD and any(state_of(task.tid) in BUSY for task in tasks)

    def _end(self, loop: Loop, now: float) -> None:
        """Ask for the end, as an operator would, before killing."""
        self.is_ended, self._ending = True, now
        task = loop.tasks.get(loop.initial.pid)
        if task is not None and is_caught(task.tid, SIGTERM):
            session.send(task.tgid, SIGTERM)
        else:
            self._ending -= GRACE
            session.kill(loop)


def free_space() -> int:
    """Free bytes where the program most likely writes."""
    try:
        return min(shutil.disk_usage(folder).free for folder in (".", tempfile.gettempdir()))
    except OSError:  # the current folder was removed
        return 0
