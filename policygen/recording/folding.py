"""Recordings merged one after another, so that they need not be in memory together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from policygen.recording.observation import Observation, joined, order
from policygen.recording.runs import Recording, completeness
from tracer.named import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from policygen.recording.observation import Key, Registers
    from policygen.recording.runs import Run


def merge(*recordings: Recording) -> Recording:
    """Merge recordings: commutative, associative, idempotent.

    A run in several recordings is taken once (the complete one, if they differ), with the greatest of its counts.
    Call site and example of an observation are those of the earliest run with it, its evidence is that of all.
    """
    folding = Folding(run for recording in recordings for run in recording.runs)
    for recording in recordings:
        folding.add(recording)
    return Recording(folding.runs, tuple(folding.observations()))


class Rest(NamedTuple):
    """What an observation has besides its key and its counts."""

    site: str
    example: Registers
    evidence: tuple[str, ...]
    after: tuple[int, ...]


class Folded:
    """An observation while recordings are merged, with its counts by run."""

    __slots__ = ("after", "columns", "counts", "evidence", "first", "key", "last", "place")

    def __init__(self, key: Key, runs: int) -> None:
        self.key = key
        self.place = order(key)
        self.columns: list[int] = []
        self.counts: list[int] = []
        self.evidence: tuple[str, ...] = ()
        self.after: set[int] = set()
        self.last: Rest | None = None
        """What was added last."""
        self.first: tuple[int, str, Registers] = (runs, "", (0,) * 6)
        """The earliest run with it, and the call site and the example there."""

    def add(self, earliest: int, rest: Rest) -> None:
        """`earliest`: the first run of those that are counted with this."""
        if rest is not self.last:
            self.last = rest
            if rest.evidence != self.evidence:  # else, and of one recording, nothing is to be joined
                self.evidence = joined((*self.evidence, *rest.evidence)) if self.evidence else rest.evidence
            self.after.update(rest.after)
        if earliest <= self.first[0]:
            self.first = min(self.first, (earliest, rest.site, rest.example))

    def observation(self, runs: int) -> Observation:
        row = [0] * runs
        for at, count in zip(self.columns, self.counts, strict=True):
            row[at] = max(row[at], count)
        return Observation(*self.key, tuple(row), *self.first[1:], self.evidence, tuple(sorted(self.after)))


Counted = tuple[Folded, int, Rest]
"""An observation in a recording of one run: which, how often, and the rest."""


class Folding:
    """What `merge` returns, while it grows.  Adding the same recording twice changes nothing."""

    def __init__(self, runs: Iterable[Run]) -> None:
        """`runs` are those of all recordings, in any order."""
        found: dict[str, Run] = {}
        for run in runs:
            found[run.id] = max(run, found.get(run.id, run), key=completeness)
        self.runs = tuple(sorted(found.values(), key=lambda run: run.order))
        self._column = {run.id: index for index, run in enumerate(self.runs)}
        self._folded: dict[Key, Folded] = {}

    def columns(self, runs: Iterable[Run]) -> list[int]:
        """The places of these runs.  Raises KeyError for one that was not given."""
        return [self._column[run.id] for run in runs]

    def slot(self, key: Key) -> Folded:
        """What counts an observation; it is none while nothing is counted."""
        found = self._folded.get(key)
        if found is None:
            found = self._folded[key] = Folded(key, len(self.runs))
        return found

    def add(self, recording: Recording) -> None:
        """Raises KeyError if it has another run."""
        columns = self.columns(recording.runs)
        for seen in recording.observations:
            rest = Rest(seen.site, seen.example, seen.evidence, seen.after)
            self.count(self.slot(seen.key), columns, seen.counts, rest)

    def count(self, slot: Folded, columns: Sequence[int], counts: Sequence[int], rest: Rest) -> None:
        """Count an observation of a recording whose runs have these places."""
        found = [(at, count) for at, count in zip(columns, counts, strict=True) if count]
        for at, count in found:
            slot.columns.append(at)
            slot.counts.append(count)
        slot.add(min(found)[0], rest)

    def count_once(self, column: int, seen: Iterable[Counted]) -> None:
        """The same for all observations of a recording with one run."""
        for slot, count, rest in seen:
            slot.columns.append(column)
            slot.counts.append(count)
            if rest is not slot.last or column <= slot.first[0]:  # else `add` changes nothing
                slot.add(column, rest)

    def __len__(self) -> int:
        return sum(bool(slot.columns) for slot in self._folded.values())

    def observations(self) -> Iterator[Observation]:
        """Take the observations out, ascending: a row of counts for many runs takes more memory than what it is made from."""
        for key in sorted(self._folded, key=order):
            slot = self._folded.pop(key)
            if slot.columns:
                yield slot.observation(len(self.runs))
