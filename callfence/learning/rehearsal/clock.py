"""The end of a rehearsed run that does not end by itself, or not in time."""

from __future__ import annotations

import shutil
import tempfile
import time
from typing import TYPE_CHECKING, Final

from tracer import session
from tracer.task import is_caught

if TYPE_CHECKING:
    from collections.abc import Callable

    from tracer.loop import Loop

MULTIPLE: Final = 3
"""A run is ended after this many times as long as the plain run took,"""
SHORTEST: Final = 3.0
"""but not before it has had so many seconds;"""
IDLE: Final = (2.0, 5.0)
"""and when it has made no call for as long as the plain run took, but not sooner and not later than this."""
GRACE: Final = 1.0
"""Seconds that a run gets for ending on SIGTERM, and processes that outlive their program for ending by themselves."""
SIGTERM: Final = 15


class Clock:
    """Ends a run that hangs, leaves daemons, fills the disk, or that the user does not want any more."""

    def __init__(self, plain: float, left: float, floor: int, start: Callable[[], None]) -> None:
        """`plain`: the seconds of the plain run; `left`: those of the budget; `floor`: free bytes below which the run is
        ended.  `start` is called once the program runs."""
        self.is_ended = False
        """Whether the run was ended from here."""
        self._start: Callable[[], None] | None = start
        self._began = self._called = time.monotonic()
        self._limit = min(max(MULTIPLE * plain, SHORTEST), left)
        self._idle = min(max(IDLE[0], plain), IDLE[1])
        self._calls = 0
        self._ending = 0.0
        self._floor = floor

    def tick(self, loop: Loop) -> None:
        now = time.monotonic()
        if self._start is not None:
            self._start()
            self._start = None
        if loop.family.calls != self._calls:
            self._calls, self._called = loop.family.calls, now
        if self._ending:
            if now - self._ending > GRACE or loop.asked:
                session.kill(loop)
        elif loop.asked or free_space() < self._floor:
            self.is_ended = True
            self._ending = now - GRACE
            session.kill(loop)
        elif loop.status is not None:
            if now - loop.ended > GRACE:
                self._end(loop, now)
        elif now - self._began > self._limit or now - self._called > self._idle:
            self._end(loop, now)

    def _end(self, loop: Loop, now: float) -> None:
        """Ask for the end, as an operator would, before killing."""
        self.is_ended, self._ending = True, now
        task = loop.tasks.get(loop.initial)
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
