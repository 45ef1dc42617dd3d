"""The recording file, `.callfence/NAME.rec`.

ASCII text, a JSON value a line: a header, the runs, the observations, each in ascending order.

    {"callfence recording": 1, "runs": 2, "observations": 1}
    {"id": "9f2c", "started": 1700000000000000000, "command": ["./app"], "status": 0, "complete": true, "gaps": [],
     "warm": false}
    {"id": "b01d", "started": 1700000060000000000, "command": ["./app"], "status": 0, "complete": true, "gaps": [],
     "warm": false}
    {"arch": 3221225534, "number": 3, "arguments": [3], "executable": "/bin/app", "counts": [1, 4],
     "site": "libc.so.6+0x11b2c4", "example": [3, 0, 0, 0, 0, 0]}

(a run and an observation are one line each in the file).
"""

from __future__ import annotations

import json
import reprlib
from typing import TYPE_CHECKING, Any

from policygen import atomic
from policygen.observation import Observation
from policygen.recording import Recording, Run, first_wrong_observation, first_wrong_run

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

FORMAT = 1
_MAGIC = "callfence recording"


class RecordingError(Exception):
    """A file that is not a recording, or no longer one.  `str()` is `file:line: message`."""

    def __init__(self, filename: str, line: int, message: str) -> None:
        super().__init__(f"{filename}:{line}: {message}")
        self.filename = filename
        self.line = line
        self.message = message


def load(path: Path) -> Recording:
    """The recording in a file.  Raises RecordingError, or OSError if it cannot be read."""
    return parse(path.read_bytes(), str(path))


def save(path: Path, recording: Recording) -> None:
    """Writes the file atomically (see `atomic.write`); raises OSError with the old one whole."""
    atomic.write(path, text(recording).encode("ascii"))


def update(path: Path, change: Callable[[Recording], Recording]) -> Recording:
    """Replaces the recording in the file (an empty one, if there is none) by what `change` makes of it.

    Whoever else updates it meanwhile waits, so nothing is lost.  Creates the folder.
    """
    path.parent.mkdir(exist_ok=True)
    with atomic.locked(path):
        recording = change(load(path) if path.exists() else Recording())
        save(path, recording)
    return recording


def text(recording: Recording) -> str:
    """The file's content."""
    runs, observations = recording.runs, recording.observations
    lines: list[dict[str, object]] = [{_MAGIC: FORMAT, "runs": len(runs), "observations": len(observations)}]
    lines += [{name: getattr(run, name) for name in _RUN} for run in runs]
    lines += [{name: getattr(observation, name) for name in _OBSERVATION} for observation in observations]
    return "".join(json.dumps(line) + "\n" for line in lines)


def parse(data: bytes, filename: str) -> Recording:
    """The inverse of `text`.  Raises RecordingError, which names `filename` and the line."""
    lines = data.decode("ascii", errors="replace").split("\n")
    runs, observations = _header(lines[0], filename)
    if lines.pop() or len(lines) <= runs + observations:
        message = f"truncated: the header promises {runs + observations + 1} lines; take a whole copy, or delete it"
        raise RecordingError(filename, len(lines) + 1, message)
    if len(lines) > runs + observations + 1:
        raise RecordingError(filename, runs + observations + 2, "more lines than the header promises")
    found = [Run(*_row(lines, index, filename, _RUN)) for index in range(1, 1 + runs)]
    seen = [Observation(*_row(lines, index, filename, _OBSERVATION)) for index in range(1 + runs, len(lines))]
    for start, wrong in ((1, first_wrong_run(found)), (1 + runs, first_wrong_observation(seen, runs))):
        if wrong is not None:
            message = "corrupt: out of order, given twice, or not counted for each run"
            raise RecordingError(filename, start + wrong + 1, message)
    return Recording(tuple(found), tuple(seen))


def _header(line: str, filename: str) -> tuple[int, int]:
    """How many runs and observations follow."""
    try:
        header = json.loads(line)
        version = header[_MAGIC]
    except (ValueError, RecursionError, TypeError, LookupError):
        raise RecordingError(filename, 1, "not a callfence recording") from None
    if version != FORMAT:
        message = f"format {version!r}, but this callfence reads format {FORMAT}: it was written by another version"
        raise RecordingError(filename, 1, message)
    runs, observations = header.get("runs"), header.get("observations")
    if not (_is_integer(runs, 0) and _is_integer(observations, 0)):
        raise RecordingError(filename, 1, "corrupt: no number of runs and observations")
    return runs, observations


def _row(lines: Sequence[str], index: int, filename: str, shape: Mapping[str, Callable[[Any], bool]]) -> list[Any]:
    """The values of a line, in the order of `shape`, whose fields it must have and no others."""
    try:
        row = json.loads(lines[index])
    except (ValueError, RecursionError):
        raise RecordingError(filename, index + 1, "corrupt: not JSON") from None
    if not isinstance(row, dict) or row.keys() != shape.keys():
        raise RecordingError(filename, index + 1, f"corrupt: not an object of {', '.join(shape)}")
    for name, is_valid in shape.items():
        if not is_valid(row[name]):
            raise RecordingError(filename, index + 1, f"corrupt: {name} is {reprlib.repr(row[name])}")
    return [tuple(value) if isinstance(value, list) else value for value in (row[name] for name in shape)]


def _is_integer(value: Any, low: int, high: int = 1 << 64) -> bool:
    return type(value) is int and low <= value < high  # bool is an int, but not here


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


def _is_u32(value: Any) -> bool:
    return _is_integer(value, 0, 1 << 32)


def _is_status(value: Any) -> bool:
    return value is None or _is_integer(value, -64, 256)


def _is_arguments(value: Any) -> bool:
    return isinstance(value, list) and len(value) <= 6 and all(v is None or _is_integer(v, -1 << 63) for v in value)


def _is_counts(value: Any) -> bool:
    return isinstance(value, list) and set(map(type, value)) == {int} and min(value) >= 0


def _is_registers(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 6 and all(_is_integer(register, 0) for register in value)


# Fields in the order of the classes.
_RUN: Mapping[str, Callable[[Any], bool]] = {
    "id": _is_text,
    "started": lambda value: _is_integer(value, 0),
    "command": _is_texts,
    "status": _is_status,
    "complete": lambda value: isinstance(value, bool),
    "gaps": _is_texts,
    "warm": lambda value: isinstance(value, bool),
}
_OBSERVATION: Mapping[str, Callable[[Any], bool]] = {
    "arch": _is_u32,
    "number": _is_u32,
    "arguments": _is_arguments,
    "executable": _is_text,
    "counts": _is_counts,
    "site": _is_text,
    "example": _is_registers,
}
