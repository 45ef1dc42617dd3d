"""Logs that are followed through rotation, as `tail -F` does, from the position that was saved."""

from __future__ import annotations

import math
import os
import re
import stat
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from hashlib import sha256
from typing import Any, Final, Protocol

from callfence.policygen.recording.log_records import MAX_LINE
from callfence.shared.inputs import print_error
from callfence.tracer.errors import UserError
from callfence.tracer.named import NamedTuple

_CHUNK: Final = 1 << 20
_HEAD: Final = 256
"""How many bytes at the beginning of a file tell it from another one that has its inode."""
_QUIET: Final = 600.0
"""Seconds for which a moved log is still read after its last line: another program may not have begun the new one."""
_MAX_MOVED: Final = 16
"""The most moved logs that are read at a time."""
_MAX_FOUND: Final = 100
"""The most moved logs that are looked at, the newest: who may write to the folder may make any number."""
_TICK: Final = 0.1
"""Seconds by which the time of a file may be behind the clock, at most: a kernel's tick is less."""
_ROTATED: Final = re.compile(r"[.-]\d[\dT:_.-]*")
"""What logrotate(8) appends to the name of a log: `.1`, or with `dateext` `-20260101`."""


class Line(NamedTuple):
    """A line of a source, without its newline."""

    text: bytes
    where: str
    """The source, and the line's place in it: `app.log:12`."""


class Source(Protocol):
    """What lines are read from, at a position that can be saved."""

    name: str

    def read(self) -> Sequence[Line]:
        """Return the lines that came since the last call, at most about 1 MiB of them; () if none did.  Raises OSError."""

    def position(self) -> Any:
        """Return the position after the lines that were read, as JSON has it."""

    def close(self) -> None:
        """Release what is open."""


class LogFile:
    """A log, and the files to which it was moved while they are written to."""

    def __init__(self, path: str, position: Any = None, *, is_spool: bool = False) -> None:
        """`position`: what an earlier `position` returned.  `is_spool`: the log is the shipper's own: a moved file is complete,
        and is read from the first time on.  Raises UserError if the path is that of something else than a file."""
        self.name = path
        self._is_spool = is_spool
        self._files: list[_File] = []
        """The oldest first; the last one is, or was, that of the name."""
        self._is_missed = False
        self._since = 0.0 if is_spool else time.time() - _TICK
        """When moved files were last written to that are read if there is no file yet."""
        if os.path.exists(path) and not stat.S_ISREG(os.stat(path).st_mode):
            raise UserError(f"{path} is not a regular file: read a FIFO by `- < FIFO`, and a socket by --listen")
        if position is None:
            self._begin([], 0.0 if is_spool else math.inf)
        else:
            places = [_Place(*place) for place in position["files"]]
            self._begin(places, math.inf if is_spool else position["saved"] - _TICK)
            for place in places:
                text = "(removed, compressed or truncated): what was added to it since counts as lost where records are missing"
                print_error(f"callfence ship: {path}: the file that was read up to line {place.line} has gone {text}")

    def read(self) -> list[Line]:
        """Return the next lines: of the oldest file first."""
        self._follow()
        for file in [*self._files]:
            lines = [*file.read(self.name)]
            is_quiet = self._is_spool or time.monotonic() - file.changed >= _QUIET or len(self._files) > _MAX_MOVED
            if not lines and is_quiet and file is not self._files[-1]:
                lines = [*file.rest(self.name)]
                file.close()
                self._files.remove(file)
            if lines:
                return lines
        return []

    def position(self) -> dict[str, Any]:
        return {"saved": time.time(), "files": [[*file.place()] for file in self._files]}

    def close(self) -> None:
        for file in self._files:
            file.close()

    def _follow(self) -> None:
        """Open the file that has the name now, if it is not open, and what had it in between."""
        try:
            status = os.stat(self.name)
        except FileNotFoundError:
            if not self._is_missed and not self._files:
                print_error(f"callfence ship: {self.name} does not exist yet; it is read once it does")
            self._is_missed = True
            return
        if not self._files:
            self._begin([], self._since)
        elif self._files[-1].identity != (status.st_dev, status.st_ino):
            self._begin([], math.inf if self._is_spool else self._files[-1].modified())

    def _begin(self, places: list[_Place], since: float) -> None:
        """Open the file of the name, those of `places` wherever they are now, and moved ones that were written after `since`,
        in seconds since 1970.  Remove from `places` what was found."""
        known = {file.identity for file in self._files}
        opened = [(path, _File(descriptor)) for path in self._candidates() if (descriptor := self._opened(path)) >= 0]
        fresh = [(path, file) for path, file in opened if file.identity not in known]
        for is_same in (_Place.is_file, _Place.is_content):
            for _, file in fresh:
                place = next((place for place in places if is_same(place, file)), None)
                if place and not file.is_placed and place.fits(file):
                    places.remove(place)
                    file.go_to(place)
        taken = [(path, file) for path, file in fresh if file.is_placed or path == self.name or file.modified() >= since]
        taken.sort(key=lambda pair: (pair[0] == self.name, pair[1].modified(), -_rotations(pair[0])))
        self._files += [file for _, file in taken]
        for _, file in opened:
            if file not in self._files:
                file.close()

    def _candidates(self) -> list[str]:
        """Return the paths of the log and of what it was moved to, of that the newest."""
        folder, base = os.path.split(self.name)
        found: list[tuple[bool, float, str]] = []
        with suppress(OSError):
            for entry in os.listdir(folder or "."):
                if entry == base or (entry.startswith(base) and _ROTATED.fullmatch(entry[len(base) :])):
                    with suppress(OSError):  # a link that leads nowhere, or it was removed meanwhile
                        status = os.stat(path := os.path.join(folder, entry))
                        found += [(entry == base, status.st_mtime, path)] if stat.S_ISREG(status.st_mode) else []
        return sorted(path for *_, path in sorted(found)[-_MAX_FOUND - 1 :])

    def _opened(self, path: str) -> int:
        """Return a descriptor of a file; -1 for a moved one that cannot be opened, and for what is no file.  Raises OSError."""
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        except OSError:
            if path == self.name:
                raise
            return -1
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            return descriptor
        os.close(descriptor)  # exchanged since it was looked at
        return -1


def _rotations(path: str) -> int:
    """Return the number of a moved log, of which the higher is the older: of `log.2`, 2; 0 if it has none."""
    number = path.rpartition(".")[2]
    return int(number) if number.isdecimal() else 0


class _Place(NamedTuple):
    """How far a file has been read."""

    device: int
    inode: int
    offset: int
    line: int
    """The number of the line that ends there."""
    head: str
    """The digest of the first bytes of the file: up to `_HEAD`, and not beyond the offset."""

    def is_file(self, file: _File) -> bool:
        """Return whether a file has the same inode."""
        return file.identity == (self.device, self.inode)

    def is_content(self, file: _File) -> bool:
        """Return whether a file may be a copy (logrotate's `copytruncate`)."""
        return self.offset > 0

    def fits(self, file: _File) -> bool:
        """Return whether the file has what was read."""
        return file.size() >= self.offset and file.head(self.offset) == self.head


class _File:
    """An open file that is read line by line."""

    def __init__(self, descriptor: int) -> None:
        status = os.fstat(descriptor)
        self.identity = (status.st_dev, status.st_ino)
        self.changed = time.monotonic()
        """When it last had a new line."""
        self.is_placed = False
        """Whether it is read from a saved place on."""
        self._descriptor = descriptor
        self._offset = self._line = 0
        self._head = self.head(0)

    def size(self) -> int:
        return os.fstat(self._descriptor).st_size

    def modified(self) -> float:
        """Return when it was last written to, in seconds since 1970."""
        return os.fstat(self._descriptor).st_mtime

    def head(self, offset: int) -> str:
        """Return a digest of the beginning, not beyond an offset."""
        return sha256(os.pread(self._descriptor, min(offset, _HEAD), 0)).hexdigest()[:16]

    def go_to(self, place: _Place) -> None:
        """Read on from a place."""
        self.is_placed = True
        self._offset, self._line, self._head = place.offset, place.line, place.head

    def read(self, name: str) -> Iterator[Line]:
        """Return the lines that are complete, of the next MiB."""
        size = self.size()
        if size == self._offset:
            return
        if size < self._offset or self.head(self._offset) != self._head:
            print_error(f"callfence ship: {name}: truncated after line {self._line}: it is read from its beginning")
            self._offset = self._line = 0
        data = os.pread(self._descriptor, _CHUNK, self._offset)
        end = data.rfind(b"\n") + 1
        if not end and len(data) > MAX_LINE:
            end = len(data)  # no record is so long
        yield from self._lines(data[:end], name)

    def rest(self, name: str) -> Iterator[Line]:
        """Return the last line if it has no newline, which nothing will add any more."""
        yield from self._lines(os.pread(self._descriptor, _CHUNK, self._offset), name)

    def place(self) -> _Place:
        return _Place(*self.identity, self._offset, self._line, self._head)

    def close(self) -> None:
        os.close(self._descriptor)

    def _lines(self, data: bytes, name: str) -> Iterator[Line]:
        if not data:
            return
        self.changed = time.monotonic()
        self._offset += len(data)
        self._head = self.head(self._offset)
        for text in data.removesuffix(b"\n").split(b"\n"):
            self._line += 1
            if text:
                yield Line(text, f"{name}:{self._line}")
