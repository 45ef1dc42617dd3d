"""Add files to a lake: find them, say whose they are, read them, write their rows."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Iterator, Sequence
from hashlib import file_digest, sha256
from io import BufferedReader
from pathlib import Path

from callfence.lake import keys, logs, parquet
from callfence.lake.identity import Identity, policy_name
from callfence.lake.recordings import Calls, identity_row, observation_rows, run_row
from callfence.policygen import reading
from callfence.policygen.recording import recording_file
from callfence.policygen.recording.log_records import MAX_LINE, lines
from callfence.policygen.recording.model import Observation, Recording
from callfence.policygen.text import printable
from callfence.tracer.errors import UserError
from callfence.tracer.named import NamedTuple

Print = Callable[[str], None]

PART = 4_000_000
"""The observations and events after which a part is complete: so much is added anew after a crash."""
_LOG = re.compile(r".*\.log(\.\d+)?")
_BEGINNING = MAX_LINE
"""The bytes of a file that say what it is: a line of a log may have as many."""
_MANY_LINES = 50_000
"""The most lines of recordings whose observations are cached, as in `recording.many`."""


class Source(NamedTuple):
    """A file to be added."""

    path: Path
    below: str
    """The path below the folder that was given, or the path as it was given."""
    is_named: bool
    """Whether the file itself was given, and not a folder."""


class Added(NamedTuple):
    """How many files were added, and how many were not, by the reason."""

    added: int = 0
    known: int = 0
    """Their content is in the lake."""
    other: int = 0
    """Files of folders that are neither recordings nor logs of enforce."""
    damaged: int = 0
    skipped: int = 0
    """Lines of logs that could not be used."""
    hostless: int = 0
    """Added files whose host is unknown."""

    def plus(self, **more: int) -> Added:
        return self._replace(**{name: getattr(self, name) + count for name, count in more.items()})


def sources(paths: Sequence[Path]) -> Iterator[Source]:
    """Yield the files, and those in the folders: recordings and logs by their names, in all folders below."""
    for path in paths:
        if not path.is_dir():
            yield Source(path, str(path), True)
            continue
        for folder, folders, names in os.walk(path, onerror=_raise):
            folders.sort()
            for name in sorted(names):
                if name.endswith(".rec") or _LOG.fullmatch(name):
                    file = Path(folder, name)
                    yield Source(file, str(file.relative_to(path)), False)


def _raise(error: OSError) -> None:
    raise error


def add(lake: Path, files: Iterator[Source], identity: Callable[[Source], Identity], print_error: Print) -> Added:
    """Add files to a lake, and return the counts.  A file that cannot be read or is damaged is printed, and the others are
    added.  Raises UserError or OSError if the lake cannot be written to; what was added before then stays."""
    known = parquet.digests(lake)
    whole = Added()
    remaining = _Files(files, identity, known, print_error)
    while remaining.has_more:
        with parquet.Part(lake) as part:
            whole = remaining.add(part, whole)
    return whole


class _Files:
    """The files that have not been added yet."""

    def __init__(
        self, files: Iterator[Source], identity: Callable[[Source], Identity], known: set[bytes], print_error: Print
    ) -> None:
        self._files, self._identity, self._known, self._print = files, identity, known, print_error
        self.has_more = True

    def add(self, part: parquet.Part, counts: Added) -> Added:
        """Add files until the part is full or no file is left."""
        calls = Calls()
        parsed: dict[str, Observation] = {}
        for source in self._files:
            try:
                counts = self._add(source, part, calls, parsed, counts)
            except (UserError, OSError) as error:
                counts = counts.plus(damaged=1)
                self._print(str(error) if isinstance(error, UserError) else f"{source.path}: {error.strerror}")
            if len(parsed) > _MANY_LINES:
                parsed.clear()
            if part.size >= PART:
                break
        else:
            self.has_more = False
        part.add("calls", calls.new())
        return counts

    def _add(self, source: Source, part: parquet.Part, calls: Calls, parsed: dict[str, Observation], counts: Added) -> Added:
        name = str(source.path)
        with reading.regular(name) as file:
            beginning = file.read(_BEGINNING)
            is_recording = recording_file.is_recording(beginning) or source.path.suffix == ".rec"
            if not is_recording and not logs.is_log(beginning):
                if source.is_named:
                    raise UserError(f"{printable(name)}: neither a recording nor a log that `enforce --log` wrote")
                return counts.plus(other=1)
            file.seek(0)
            whose = self._identity(source)
            if is_recording:
                data = reading.beginning(file, recording_file.MAX_SIZE + 1, is_text=True)
                digest = sha256(data)
                if len(data) > recording_file.MAX_SIZE:
                    raise OSError(errno.EFBIG, f"more than {recording_file.MAX_SIZE >> 30} GiB", name)
            else:
                digest = file_digest(file, "sha256")
                file.seek(0)
            if digest.digest() in self._known:
                return counts.plus(known=1)
            if is_recording:
                whose = whose.over(Identity("", "", policy_name(name)))
                numbers = _add_recording(part, recording_file.parse(data, name, parsed), whose, calls)
            else:
                numbers = _add_log(part, file, whose, name, self._print)
        kind = "recording" if is_recording else "log"
        part.finish_file(digest.hexdigest(), (digest.hexdigest(), keys.text(name), kind, *identity_row(whose), *numbers))
        self._known.add(digest.digest())
        return counts.plus(added=1, skipped=numbers.skipped, hostless=is_recording and not whose.host)


class _Numbers(NamedTuple):
    """What a file had: the last columns of `files`."""

    runs: int
    observations: int
    events: int
    skipped: int


def _add_recording(part: parquet.Part, recording: Recording, whose: Identity, calls: Calls) -> _Numbers:
    identity = identity_row(whose)
    part.add("runs", (run_row(run, identity) for run in recording.runs))
    part.add("observations", observation_rows(recording, identity, calls))
    return _Numbers(len(recording.runs), len(recording.observations), 0, 0)


def _add_log(part: parquet.Part, file: BufferedReader, whose: Identity, name: str, print_error: Print) -> _Numbers:
    """Add the events of a log.  If reading fails, what was read stays: each line is a whole, and may be added again."""
    events, unusable = 0, []
    for number, line in lines(file):
        try:
            part.add("events", [*logs.rows(line, whose)])
            events += 1
        except logs.BadLineError as error:
            unusable.append(number)
            if len(unusable) == 1:
                print_error(printable(f"{name}:{number}: {error}"))
    if len(unusable) > 1:
        print_error(printable(f"{name}: {len(unusable) - 1} more lines cannot be used"))
    return _Numbers(0, 0, events, len(unusable))
