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
from policygen.recording.fields import FORMAT, OBSERVATION, are_integers
from policygen.recording.folding import Folding, Rest
from policygen.recording.recording_file import RecordingError, columns_of, hashable
from policygen.recording.runs import WrongPlaceError, check_runs

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from policygen.recording.fields import Shape
    from policygen.recording.folding import Counted, Folded
    from policygen.recording.runs import Run

_COUNTS = ', "counts": ['
"""As `recording_file.written` puts it.  No text has it: a quotation mark in a text has a backslash before it."""
_BEFORE: Shape = {name: OBSERVATION[name] for name in ("arch", "number", "arguments", "executable")}
_AFTER: Shape = {name: are for name, are in OBSERVATION.items() if name not in (*_BEFORE, "counts")}
_REMEMBERED = 100_000
"""Different lines, and different ends of lines, that are remembered: 50 MB each.  Registers differ in each run where addresses
do."""


class _Unusual(Exception):
    """A file that is not as we write it, or wrong: `recording_file.parse` finds out which."""


def merge(output: Path, paths: Sequence[Path]) -> None:
    """Write what `folding.merge` makes of the recordings in these files into a file, which may be one of them.

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
