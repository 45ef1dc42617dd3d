"""Merge recordings of many runs and machines into one, with only one of them in memory at a time."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from callfence.policygen import reading
from callfence.policygen.recording import atomic, recording_file
from callfence.policygen.recording.model import Key, Observation, Recording, Run, completeness, joined, order
from callfence.policygen.recording.recording_file import RecordingError

_MANY_LINES = 50_000
"""The most lines of other files whose observations are cached: recordings of the same program have many lines in common."""

_OPENED = {Path("/dev/stdin"), Path("/dev/fd"), Path("/proc/self/fd")}
"""What the shell has opened for us, and the folders of that: pipes there (`<(zcat a.rec.gz)`) are the user's, and cannot be
read again.  Elsewhere a pipe may be another user's, who never writes to it."""


def merge(*recordings: Recording) -> Recording:
    """Merge recordings into one.  Commutative, associative, idempotent.

    A run that is in several recordings is taken once: the more complete record of it, with the greatest of its counts.  The
    call site and example of an observation are those of the earliest run that has it; its evidence is joined."""
    merger = _Merger(run for recording in recordings for run in recording.runs)
    for recording in recordings:
        merger.add(recording)
    return Recording(merger.runs, tuple(merger.observations()))


def merge_files(output: Path, paths: Sequence[Path]) -> None:
    """Merge the recordings in `paths`, and write the result to `output`, which may be one of them.  Raises RecordingError if a
    file is not a recording or is corrupt, and OSError; the file `output` is unchanged then."""
    piped = {path: path.read_bytes() for path in paths if _OPENED & {path, path.parent}}
    merger = _Merger(run for path in paths for run in _runs(path, piped.get(path)))
    parsed: dict[str, Observation] = {}
    for path in paths:
        data = piped[path] if path in piped else reading.read(str(path), recording_file.MAX_SIZE, is_text=True)
        if len(parsed) > _MANY_LINES:
            parsed.clear()
        try:
            merger.add(recording_file.parse(data, str(path), parsed))
        except KeyError:
            raise RecordingError(str(path), 1, "changed while it was read: try again") from None
    atomic.write_all(output, recording_file.written(merger.runs, len(merger), merger.observations()))


def _runs(path: Path, data: bytes | None) -> tuple[Run, ...]:
    return recording_file.runs_in(path) if data is None else recording_file.parse(data, str(path)).runs


class _Merger:
    """A merged recording to which recordings are added; adding the same recording twice changes nothing."""

    def __init__(self, runs: Iterable[Run]) -> None:
        """`runs` are those of all recordings, in any order."""
        by_id: dict[str, Run] = {}
        for run in runs:
            by_id[run.id] = max(run, by_id.get(run.id, run), key=completeness)
        self.runs = tuple(sorted(by_id.values(), key=lambda run: run.order))
        self._columns = {run.id: column for column, run in enumerate(self.runs)}
        self._counters: dict[Key, _Counter] = {}

    def add(self, recording: Recording) -> None:
        """Add a recording.  Raises KeyError if it has a run that `__init__` did not get."""
        columns = [self._columns[run.id] for run in recording.runs]
        counters = self._counters
        for observation in recording.observations:
            key = observation[:4]
            counter = counters.get(key)
            if counter is None:
                counter = counters[key] = _Counter(observation)
            counter.add(observation, columns)

    def __len__(self) -> int:
        return len(self._counters)

    def observations(self) -> Iterator[Observation]:
        """Yield the observations in ascending order, and remove them: the counts of many runs take more memory than the
        counter."""
        for key in sorted(self._counters, key=order):
            yield self._counters.pop(key).observation(key, len(self.runs))


class _Counter:
    """One observation, merged from all recordings that have it."""

    __slots__ = ("after", "columns", "counts", "earliest", "evidence")

    def __init__(self, first: Observation) -> None:
        self.columns: list[int] = []
        self.counts: list[int] = []
        """The counts that are not 0; `columns` has the index of the run of each."""
        self.evidence = first.evidence
        self.after = first.after
        self.earliest = (sys.maxsize, first.site, first.example)
        """The index of the earliest run with the observation, and its call site and example there."""

    def add(self, observation: Observation, columns: Sequence[int]) -> None:
        """Add the counts of an observation; `columns` has the index of the run of each count."""
        for column, count in zip(columns, observation.counts, strict=True):
            if count:
                self.columns.append(column)
                self.counts.append(count)
                if column <= self.earliest[0]:
                    self.earliest = min(self.earliest, (column, observation.site, observation.example))
        if observation.evidence != self.evidence:
            self.evidence = joined((*self.evidence, *observation.evidence))
        if observation.after != self.after:
            self.after = tuple(sorted({*self.after, *observation.after}))

    def observation(self, key: Key, runs: int) -> Observation:
        row = [0] * runs
        for column, count in zip(self.columns, self.counts, strict=True):
            row[column] = max(row[column], count)
        return Observation(*key, tuple(row), *self.earliest[1:], self.evidence, self.after)
