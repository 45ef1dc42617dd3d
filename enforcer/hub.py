"""Wait for several descriptors and moments, and call a function for each."""

from __future__ import annotations

import select
import time
from _heapq import heapify, heappop, heappush

from callfence.tracer import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

READABLE, WRITABLE = select.EPOLLIN, select.EPOLLOUT
_MAX_WAIT = 86400.0
"""The most seconds to wait at once: epoll_wait(2) takes 24 days at most, and programs choose their timeouts."""
_SPARE = 64
"""How many moments that are not waited for any more are kept, besides as many as there are others."""


class Hub:
    """Descriptors and moments, with what is to be called.  Its own descriptor is readable when one of them is ready."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._watched: dict[int, Callable[[], None]] = {}
        self._moments: list[tuple[float, int]] = []
        """A heap: when (monotonic seconds), and the number of what is called then, if it still is."""
        self._due: dict[int, Callable[[], None]] = {}
        self._count = 0

    @property
    def descriptor(self) -> int:
        """The descriptor that is readable when `run` has something to call."""
        return self._epoll.fileno()

    def watch(self, descriptor: int, events: int, call: Callable[[], None]) -> None:
        """Call a function each time that a descriptor is READABLE or WRITABLE, or has an error.  Raises OSError."""
        if descriptor in self._watched:
            self._epoll.modify(descriptor, events)
        else:
            self._epoll.register(descriptor, events)
        self._watched[descriptor] = call

    def forget(self, descriptor: int) -> None:
        """Stop watching a descriptor; to be called before it is closed."""
        if self._watched.pop(descriptor, None):
            try:
                self._epoll.unregister(descriptor)
            except OSError:
                return

    def after(self, seconds: float, call: Callable[[], None]) -> int:
        """Call a function once, after so many seconds; return the number by which `cancel` prevents that."""
        self._count += 1
        self._due[self._count] = call
        heappush(self._moments, (time.monotonic() + seconds, self._count))
        return self._count

    def cancel(self, number: int) -> None:
        """Do not call a function for which `after` has returned this number, unless it was called already."""
        self._due.pop(number, None)
        if len(self._moments) > 2 * len(self._due) + _SPARE:
            self._moments = [moment for moment in self._moments if moment[1] in self._due]
            heapify(self._moments)

    def pause(self) -> float | None:
        """Return in how many seconds `run` may have a function to call; None if none is due."""
        return min(_MAX_WAIT, max(0.0, self._moments[0][0] - time.monotonic())) if self._moments else None

    def descriptors(self) -> tuple[int, ...]:
        """Return its own descriptor and those that are watched."""
        return self.descriptor, *self._watched

    def run(self, *, waits: bool = False) -> None:
        """Call what is due, but nothing that this makes due.  `waits`: wait until something is."""
        for descriptor, _ in self._epoll.poll(self.pause() if waits else 0):
            if call := self._watched.get(descriptor):
                call()
        now = time.monotonic()
        while self._moments and self._moments[0][0] <= now:
            if call := self._due.pop(heappop(self._moments)[1], None):
                call()
