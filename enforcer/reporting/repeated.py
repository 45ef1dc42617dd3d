"""When it is told how often a violation was met: a burst is one line and then its count."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from enforcer.reporting.violation import Violation
    from policygen.evidence.facts import Union

QUIET = 1.0
"""Seconds without any violation after which counts are told; of one violation, its next count comes after twice as long."""
LONG = 60.0
"""Seconds after which counts are told though there is no such quiet, likewise."""
_MOST = 3600.0
"""Most seconds between two counts of one violation, if it is met in between."""

class Repeated:
    """A violation that has been told, and those that are like it."""

    __slots__ = ("at", "count", "evidence", "first", "process", "wait")

    def __init__(self, first: Violation, evidence: Union, process: int) -> None:
        self.first = first
        self.evidence = evidence
        """Facts about the first ones."""
        self.process = process
        """That of the latest one."""
        self.count = 1
        self.at = time.monotonic()
        """When it was told last."""
        self.wait = QUIET
        """Seconds before it is told again."""


class Counts:
    """What has been told, by what makes violations alike."""

    def __init__(self) -> None:
        self._all: dict[tuple[object, ...], Repeated] = {}
        self._more: dict[tuple[object, ...], Repeated] = {}
        """Those of which there were more than was told."""
        self._looked = time.monotonic()

    def add(self, key: tuple[object, ...], one: Repeated) -> None:
        self._all[key] = one

    def again(self, key: tuple[object, ...], process: int) -> Repeated | None:
        """Count one more violation like one that was told; None if there was none."""
        one = self._all.get(key)
        if one is not None:
            one.count += 1
            one.process = process
            self._more[key] = one
        return one

    def pause(self) -> float | None:
        """Seconds of quiet after which there will be counts to tell; None if there are none."""
        if not self._more:
            return None
        return max(QUIET, min(one.at + one.wait for one in self._more.values()) - time.monotonic())

    def due(self, least: float = 0.0) -> Iterator[Repeated]:
        """What is to be told now, of what was told `least` seconds ago or before; the caller tells it."""
        now = time.monotonic()
        for key, one in [*self._more.items()]:
            if now >= one.at + max(one.wait, least):
                yield self._begin(key, now)

    def due_in_a_burst(self) -> Iterator[Repeated]:
        """The same, at a violation."""
        now = time.monotonic()
        if now >= self._looked + LONG:
            self._looked = now
            yield from self.due(LONG)

    def rest(self) -> Iterator[Repeated]:
        """All that was not told."""
        for key in [*self._more]:
            yield self._begin(key, time.monotonic())

    def _begin(self, key: tuple[object, ...], now: float) -> Repeated:
        one = self._more.pop(key)
        one.at, one.wait = now, min(2 * one.wait, _MOST)
        return one
