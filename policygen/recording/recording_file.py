"""The recording file, `.callfence/NAME.rec`.

ASCII text, a JSON value a line: a header, the runs, the observations, each in ascending order.

    {"callfence recording": 4, "runs": 2, "observations": 1}
    {"id": "9f2c", "started": 1700000000000000000, "command": ["./app"], "status": 0, "complete": true, "gaps": [],
     "warm": false, "executed": [["", "/bin/app"]], "rehearsed": "",
     "circumstances": ["/dev/null", "a pipe", "a pipe", "user", "C.UTF-8"],
     "files": [["/usr/lib/libz.so.1", "read", "/bin/app"], ["tcp connect", "443", "/bin/app"]], "waits": [],
     "signals": "family"}
    {"id": "b01d", "started": 1700000060000000000, "command": ["./app"], "status": 0, "complete": true, "gaps": [],
     "warm": false, "executed": [["", "/bin/app"], ["/bin/app", "/bin/ls"]], "rehearsed": "",
     "circumstances": ["", "", "", "", ""], "files": [], "waits": [0, 9], "signals": ""}
    {"arch": 3221225534, "number": 3, "arguments": [3], "executable": "/bin/app", "counts": [1, 4],
     "site": "/lib/libc.so.6+0x11b2c4 (93f70d1a)", "example": [3, 0, 0, 0, 0, 0], "evidence": [],
     "after": [0, 8]}

(a run and an observation are one line each in the file).  Format 3 is the same without "evidence", "after", "files",
"waits" and "signals", format 2 without "rehearsed" and "circumstances" as well, format 1 without "executed" too; all are read.
"""

from __future__ import annotations

import json
import reprlib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from itertools import chain, islice, pairwise, starmap, takewhile
from operator import itemgetter
from typing import TYPE_CHECKING, Any, get_args

from callfence.policygen import reading
from callfence.policygen.recording import atomic
from callfence.policygen.recording.model import Circumstances, Observation, Recording, Run, Signals, WrongPlaceError
from callfence.policygen.recording.uses import is_use
from callfence.policygen.text import printable
from callfence.policygen.versions import RECORDING, unknown
from callfence.tracer.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path

Check = Callable[[Sequence[Any]], bool]
"""Function that returns whether the values of a field, from one or more lines, are valid."""
Shape = Mapping[str, Check]
"""Field -> its check, in the order of the class's fields."""


def _are_of(kind: type) -> Check:
    return lambda values: set(map(type, values)) <= {kind}  # a bool is an int, but not here


_are_flags, _are_text, _are_lists = map(_are_of, (bool, str, list))


def _flat(rows: Iterable[Iterable[Any]]) -> list[Any]:
    return [*chain.from_iterable(rows)]


def _are_integers(values: Sequence[Any], low: int, high: int = 1 << 64) -> bool:
    return not values or (set(map(type, values)) == {int} and min(values) >= low and max(values) < high)


def _are_ascending(rows: Sequence[Any]) -> bool:
    return all(value < following for row in rows for value, following in pairwise(row))


def _are_texts(rows: Sequence[Any]) -> bool:
    return _are_lists(rows) and _are_text(_flat(rows))


def _are_tuples(width: int) -> Check:
    """Return the check for a list of ascending lists of `width` texts each."""

    def check(rows: Sequence[Any]) -> bool:
        return _are_lists(rows) and _are_texts(_flat(rows)) and set(map(len, _flat(rows))) <= {width} and _are_ascending(rows)

    return check


def _are_uses(rows: Sequence[Any]) -> bool:
    return _are_tuples(3)(rows) and all(is_use(what, value) for what, value, _ in _flat(rows))


def _are_sets(rows: Sequence[Any]) -> bool:
    return _are_lists(rows) and _are_integers(_flat(rows), 0, 1 << 32) and _are_ascending(rows)


def _are_arguments(rows: Sequence[Any]) -> bool:
    if not _are_lists(rows) or max(map(len, rows)) > 6:
        return False
    return _are_integers([value for value in _flat(rows) if value is not None], -1 << 63)


_RUN: Shape = {
    "id": _are_text,
    "started": lambda values: _are_integers(values, 0),
    "command": _are_texts,
    "status": lambda values: _are_integers([value for value in values if value is not None], -64, 256),
    "complete": _are_flags,
    "gaps": _are_texts,
    "warm": _are_flags,
    "executed": _are_tuples(2),
    "rehearsed": _are_text,
    "circumstances": lambda rows: _are_texts(rows) and set(map(len, rows)) == {len(Circumstances._fields)},
    "files": _are_uses,
    "waits": _are_sets,
    "signals": lambda values: _are_text(values) and set(values) <= set(get_args(Signals)),
}
_OBSERVATION: Shape = {
    "arch": lambda values: _are_integers(values, 0, 1 << 32),
    "number": lambda values: _are_integers(values, 0, 1 << 32),
    "arguments": _are_arguments,
    "executable": _are_text,
    "counts": lambda rows: _are_lists(rows) and all(rows) and _are_integers(_flat(rows), 0),
    "site": _are_text,
    "example": lambda rows: _are_lists(rows) and set(map(len, rows)) == {6} and _are_integers(_flat(rows), 0),
    "evidence": _are_texts,
    "after": _are_sets,
}
_SINCE = {"executed": 2, "rehearsed": 3, "circumstances": 3, "files": 4, "waits": 4, "signals": 4, "evidence": 4, "after": 4}
"""Field -> the first format that has it; a field that is missing here is in all formats."""


def _shape(fields: Shape, version: int) -> Shape:
    """Return the fields that a format has."""
    return {name: are_valid for name, are_valid in fields.items() if _SINCE.get(name, 1) <= version}


_MAGIC = "callfence recording"
MAX_SIZE = 16 << 30
"""The most bytes of a recording, against sparse files; a recording of that size would not fit in memory."""
_MAX_LINE = 64 << 20
"""The most bytes of a line that are read without reading the whole file."""
_BATCH = 4096
"""Number of lines that are decoded at once."""


class RecordingError(UserError):
    """The file is not a recording, or is corrupt.  `str()` is `file:line: message`."""

    def __init__(self, filename: str, line: int, message: str) -> None:
        super().__init__(f"{printable(f'{filename}:{line}')}: {message}")


def is_recording(data: bytes) -> bool:
    """Return whether a file that begins with these bytes is a recording, possibly a corrupt one."""
    return data.startswith(b'{"%s"' % _MAGIC.encode())


def load(path: Path) -> Recording:
    """Return the recording in a regular file.  Raises RecordingError for other or corrupt content, OSError."""
    return _parsed(reading.read(str(path), MAX_SIZE, is_text=True), str(path))


@lru_cache(1)
def _parsed(data: bytes, filename: str) -> Recording:
    """Return what `parse` does, with the last result cached: learn reads its recording before and after the program runs."""
    return parse(data, filename)


def save(path: Path, recording: Recording) -> None:
    """Write a recording to a file, atomically (see `atomic.write`).  Raises OSError; the old file is unchanged then."""
    atomic.write_all(path, written(recording.runs, len(recording.observations), recording.observations))


def update(path: Path, change: Callable[[Recording], Recording]) -> Recording:
    """Replace the recording in a file by the result of `change` for it, and return the new recording.  If there is no file,
    `change` gets an empty recording, and the file is created, with its folder if need be.

    Other processes that update the file wait, so no update is lost.  Raises RecordingError if the file is not a recording or is
    corrupt, and OSError."""
    atomic.make_folder(path.parent)
    with atomic.locked(path):
        recording = change(load(path) if path.exists() else Recording())
        save(path, recording)
    return recording


def written(runs: Sequence[Run], count: int, observations: Iterable[Observation]) -> Iterator[bytes]:
    """Yield the lines of the file of a recording with these runs and observations; `count` is the number of observations."""
    yield header_line(len(runs), count)
    yield from map(run_line, runs)
    yield from map(observation_line, observations)


def header_line(runs: int, observations: int) -> bytes:
    """Return the first line of a file with so many runs and observations."""
    return _line({_MAGIC: RECORDING, "runs": runs, "observations": observations})


def run_line(run: Run) -> bytes:
    """Return the line of a run."""
    return _line({name: getattr(run, name) for name in _RUN})


def observation_line(observation: Observation) -> bytes:
    """Return the line of an observation."""
    return _line({name: getattr(observation, name) for name in _OBSERVATION})


def _line(fields: Mapping[str, object]) -> bytes:
    return json.dumps(fields).encode("ascii") + b"\n"


def text(recording: Recording) -> str:
    """Return a recording as the content of its file."""
    return b"".join(written(recording.runs, len(recording.observations), recording.observations)).decode("ascii")


def parse(data: bytes, filename: str, parsed: dict[str, Observation] | None = None) -> Recording:
    """Return the recording in a file's content.  Raises RecordingError, which names `filename` and the line, if the content is
    not a recording or is corrupt.

    `parsed` is a cache of observations by their lines, which are not decoded again; the observations of this file are added to
    it."""
    lines, count, version = _split(data, filename)
    runs = _runs_of(lines[1 : 1 + count], filename, version)
    by_line = parsed if parsed is not None and version == RECORDING else {}
    observations = lines[1 + count :]
    new = [line for line in observations if line not in by_line]
    try:
        rows = _rows(new, 2 + count, filename, _shape(_OBSERVATION, version))
        by_line.update(zip(new, starmap(Observation, rows), strict=True))
        return Recording(runs, tuple(map(by_line.__getitem__, observations)))
    except RecordingError:
        if parsed:  # some lines were left out, so the number of the line is wrong
            return parse(data, filename)
        raise
    except WrongPlaceError as wrong:
        line = wrong.index + (2 if wrong.is_run else 2 + count)
        raise RecordingError(filename, line, "corrupt: out of order, given twice, or not counted for each run") from None


def _split(data: bytes, filename: str) -> tuple[list[str], int, int]:
    """Return the lines of a file, the number of runs (the lines after the first), and the format.  Raises RecordingError if the
    header is not a recording's, or announces another number of lines."""
    lines = _decoded(data).split("\n")
    runs, observations, version = _header(lines[0], filename)
    if lines.pop() or len(lines) <= runs + observations:
        message = f"truncated: the header announces {runs + observations + 1} lines; restore a complete copy, or delete it"
        raise RecordingError(filename, len(lines) + 1, message)
    if len(lines) > runs + observations + 1:
        raise RecordingError(filename, runs + observations + 2, "more lines than the header announces")
    return lines, runs, version


def runs_in(path: Path) -> tuple[Run, ...]:
    """Return the runs of the recording in a file, without reading its observations.  Raises RecordingError if it is not a
    recording or is corrupt, OSError if it cannot be read."""
    with reading.regular(str(path)) as file:
        count, _, version = _header(_decoded(file.readline(_MAX_LINE)), str(path))
        following = islice(iter(partial(file.readline, _MAX_LINE), b""), min(count, sys.maxsize))
        lines = [_decoded(line).removesuffix("\n") for line in takewhile(lambda line: line.endswith(b"\n"), following)]
    if len(lines) < count:
        return load(path).runs  # which raises the right error
    return _runs_of(lines, str(path), version)


def _runs_of(lines: Sequence[str], filename: str, version: int) -> tuple[Run, ...]:
    """Return the runs in the lines after a file's first.  Raises RecordingError if a line is corrupt."""
    shape = _shape(_RUN, version)
    return tuple(_run(dict(zip(shape, row, strict=True))) for row in _rows(lines, 2, filename, shape))


def _run(fields: dict[str, Any]) -> Run:
    """Return the run with these fields of a line, of which older formats have fewer."""
    if "executed" in fields:
        fields["executed"] = tuple((sys.intern(starter), sys.intern(path)) for starter, path in fields["executed"])
    if "circumstances" in fields:
        fields["circumstances"] = Circumstances(*map(sys.intern, fields["circumstances"]))
    if "files" in fields:
        fields["files"] = tuple((path, rights, sys.intern(executable)) for path, rights, executable in fields["files"])
    return Run(**fields)


def _decoded(data: bytes) -> str:
    return data.decode("ascii", errors="replace")


def _header(line: str, filename: str) -> tuple[int, int, int]:
    """Parse the first line: the number of runs, the number of observations, and the format."""
    try:
        header = json.loads(line)
        version = header[_MAGIC]
    except (ValueError, RecursionError, TypeError, LookupError):
        raise RecordingError(filename, 1, "not a callfence recording") from None
    if type(version) is not int or not 1 <= version <= RECORDING:
        raise RecordingError(filename, 1, f"a recording whose {unknown(version, RECORDING)}")
    runs, observations = header.get("runs"), header.get("observations")
    if not _are_integers((runs, observations), 0):
        raise RecordingError(filename, 1, "corrupt: the header lacks the number of runs or of observations")
    return runs, observations, version


def _rows(lines: Sequence[str], number: int, filename: str, shape: Shape) -> Iterator[tuple[Any, ...]]:
    """Yield the values of lines in the order of `shape`; `number` is that of the first line.  Raises RecordingError unless each
    line has exactly the fields of the shape.  Many lines are decoded as one JSON value, which is several times as fast; they
    are decoded one by one only to find the wrong one."""
    for start in range(0, len(lines), _BATCH):
        several = lines[start : start + _BATCH]
        columns = _columns(several, shape)
        if columns is None:
            rows = [_row(line, place, filename, shape) for place, line in enumerate(several, number + start)]
            columns = [list(column) for column in zip(*rows, strict=True)]
        yield from zip(*map(_hashable, columns), strict=True)


def _columns(lines: Sequence[str], shape: Shape) -> list[list[Any]] | None:
    """Return the values of each field, from lines of one object each; None if any line is wrong.  No value that `shape` accepts
    contains an object, so every `}`, line end, `{` is the border between two lines."""
    whole = ",\n".join(lines)
    if not (whole.startswith("{") and whole.endswith("}") and whole.count("},\n{") == len(lines) - 1):
        return None
    try:
        rows = json.loads(f"[{whole}]")
        columns = [list(map(itemgetter(name), rows)) for name in shape]
    except (ValueError, RecursionError, TypeError, LookupError):
        return None
    if len(rows) != len(lines) or set(map(len, rows)) != {len(shape)}:
        return None
    return columns if all(are_valid(column) for are_valid, column in zip(shape.values(), columns, strict=True)) else None


def _row(line: str, number: int, filename: str, shape: Shape) -> list[Any]:
    """Return the values of one line.  Raises RecordingError if the line is corrupt."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        raise RecordingError(filename, number, "corrupt: not JSON") from None
    if not isinstance(row, dict) or row.keys() != shape.keys():
        raise RecordingError(filename, number, f"corrupt: not an object of {', '.join(shape)}")
    for name, are_valid in shape.items():
        if not are_valid([row[name]]):
            raise RecordingError(filename, number, f"corrupt: {name} is {reprlib.repr(row[name])}")
    return [row[name] for name in shape]


def _hashable(column: Sequence[Any]) -> Iterable[Any]:
    """Return the column with lists as tuples, and equal texts as one object."""
    kind = type(column[0])
    return map(tuple, column) if kind is list else map(sys.intern, column) if kind is str else column
