"""Many recordings merged into one file.

What recordings of the same program say is much the same from one to the next, so what is known byte for byte is not decoded
again: whole lines, and of a line what comes before the counts (which call), and what comes after them (from where, with which
values).
"""

from __future__ import annotations

import json
from contextlib import suppress
from itertools import starmap
from operator import eq, lt
from typing import TYPE_CHECKING, Any

from policygen import reading
from policygen.recording import atomic, recording_file
from policygen.recording.model import Observation, Recording, WrongPlaceError, check_runs, completeness, joined, order
from policygen.recording.recording_file import FORMAT, OBSERVATION, RecordingError, are_integers, columns_of, hashable
from tracer.named import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from policygen.recording.model import Key, Registers, Run
    from policygen.recording.recording_file import Shape


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


_COUNTS = ', "counts": ['
"""As `recording_file.written` puts it.  No text has it: a quotation mark in a text has a backslash before it."""
_BEFORE: Shape = {name: OBSERVATION[name] for name in ("arch", "number", "arguments", "executable")}
_AFTER: Shape = {name: are for name, are in OBSERVATION.items() if name not in (*_BEFORE, "counts")}
_REMEMBERED = 100_000
"""Different lines, and different ends of lines, that are remembered: 50 MB each.  Registers differ in each run where addresses
do."""


class _Unusual(Exception):
    """A file that is not as we write it, or wrong: `recording_file.parse` finds out which."""


def merge_files(output: Path, paths: Sequence[Path]) -> None:
    """Write what `merge` makes of the recordings in these files into a file, which may be one of them.

    Raises the errors of `recording_file.load`, and OSError; then the old file is unchanged."""
    # A pipe (`<(zcat a.rec.gz)`) cannot be read again, and merging is the one thing that takes one.
    once = {path: path.read_bytes() for path in paths if not path.is_file()}
    runs = {path: _runs(path, once.get(path)) for path in paths}
    reader = _Reader(Folding(run for some in runs.values() for run in some))
    for path in paths:
        reader.add(once[path] if path in once else reading.read(str(path), recording_file.MAX_SIZE), str(path))
    folding = reader.folding
    atomic.write_all(output, recording_file.written(folding.runs, len(folding), folding.observations()))


def _runs(path: Path, data: bytes | None) -> tuple[Run, ...]:
    if data is None:
        return recording_file.runs_in(path)
    lines, runs, version = recording_file.split(data, str(path))
    return recording_file.runs_of(lines, runs, str(path), version)


class _Reader:
    """Adds files to a folding."""

    def __init__(self, folding: Folding) -> None:
        self.folding = folding
        self._lines: dict[str, Counted] = {}
        """By the line of a recording of a single run."""
        self._slots: dict[str, Folded] = {}
        """By what comes before the counts."""
        self._rests: dict[str, Rest] = {}
        """By what comes after the counts."""

    def add(self, data: bytes, filename: str) -> None:
        """Raises RecordingError."""
        try:
            try:
                self._add(data, filename)
            except _Unusual:
                self.folding.add(recording_file.parse(data, filename))
        except KeyError:
            raise RecordingError(filename, 1, "changed while it was read: try again") from None

    def _add(self, data: bytes, filename: str) -> None:
        lines, count, version = recording_file.split(data, filename)
        if version != FORMAT:
            raise _Unusual
        runs = recording_file.runs_of(lines, count, filename, version)
        try:
            check_runs(runs)
        except WrongPlaceError:
            raise _Unusual from None
        columns = self.folding.columns(runs)
        if len(lines) == 1 + count:
            return
        if count == 1:
            seen = self._of_one_run(lines[2:])
            _require_order([slot.place for slot, _, _ in seen])
            self.folding.count_once(columns[0], seen)
        else:
            slots, counts, rests = self._decoded(lines[1 + count :])
            _require_order([slot.place for slot in slots])
            numbers = [_row(text, count) for text in counts]
            for slot, row, rest in zip(slots, numbers, rests, strict=True):
                self.folding.count(slot, columns, row, rest)

    def _of_one_run(self, lines: Sequence[str]) -> list[Counted]:
        if len(self._lines) > _REMEMBERED:
            self._lines.clear()
        with suppress(KeyError):
            return list(map(self._lines.__getitem__, lines))
        news = [line for line in lines if line not in self._lines]
        slots, counts, rests = self._decoded(news)
        self._lines.update(zip(news, zip(slots, _numbers(counts), rests, strict=True), strict=True))
        return list(map(self._lines.__getitem__, lines))

    def _decoded(self, lines: Sequence[str]) -> tuple[list[Folded], Sequence[str], list[Rest]]:
        """Which observations lines are of, the texts of their counts, and what else they say."""
        befores, counts, afters = zip(*map(_parts, lines), strict=True)
        self._read(befores, afters)
        return [self._slots[before] for before in befores], counts, [self._rests[after] for after in afters]

    def _read(self, before: Sequence[str], after: Sequence[str]) -> None:
        """Decode what is not known."""
        if len(self._rests) > _REMEMBERED:
            self._rests.clear()
        news = [*{*before}.difference(self._slots)]
        for text, row in zip(news, _rows([f"{text}}}" for text in news], _BEFORE), strict=True):
            self._slots[text] = self.folding.slot(row)
        news = [*{*after}.difference(self._rests)]
        self._rests.update(zip(news, starmap(Rest, _rows([f"{{{text[2:]}" for text in news], _AFTER)), strict=True))


def _require_order(places: Sequence[tuple[Any, ...]]) -> None:
    if not all(map(lt, places, places[1:])):
        raise _Unusual


def _parts(line: str) -> tuple[str, str, str]:
    """What comes before the counts, the counts, and what comes after them."""
    before, _, rest = line.partition(_COUNTS)
    counts, _, after = rest.partition("]")
    if after[:2] != ", ":
        raise _Unusual
    return before, counts, after


def _rows(lines: list[str], shape: Shape) -> Iterator[tuple[Any, ...]]:
    """The values of lines that are not those of the file, so that no error may name them."""
    if not lines:
        return iter(())
    columns = columns_of(lines, shape)
    if columns is None:
        raise _Unusual
    return zip(*map(hashable, columns), strict=True)


def _numbers(counts: Sequence[str]) -> list[int]:
    """The counts of a single run: none of them 0."""
    try:
        numbers = list(map(int, counts))
    except ValueError:
        raise _Unusual from None
    if min(numbers) < 1 or not all(map(eq, map(str, numbers), counts)):  # `int` reads more than JSON has
        raise _Unusual
    return numbers


def _row(counts: str, runs: int) -> list[int]:
    """A count for each run, not all of them 0."""
    try:
        numbers: list[int] = json.loads(f"[{counts}]")
    except (ValueError, RecursionError):
        raise _Unusual from None
    if len(numbers) != runs or not are_integers(numbers, 0) or not any(numbers):
        raise _Unusual
    return numbers
