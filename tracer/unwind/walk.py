"""From a call to the first caller outside of the C library, by what is mapped and what is on the stack (x86_64)."""

from __future__ import annotations

import struct
from bisect import bisect_right
from typing import TYPE_CHECKING

from tracer.named import NamedTuple
from tracer.unwind.frames import Tables

if TYPE_CHECKING:
    from tracer.unwind.frames import Read, Row

_LOADER = ("ld-linux", "ld-2.")
"""How names of the dynamic loader begin.  What it does at a start has no caller."""
_LIBC = (*_LOADER, "libc.so", "libc-2.", "libc.musl-", "libpthread", "ld-musl-")
"""How names of files begin whose functions are not what a call is for: of the C library, too."""
_DEEPEST = 32
"""Most callers that are followed."""
_NEAR = 16
"""Lines between that of a file's code and that of its beginning."""
_MANY = 16
"""Files whose tables are kept at once."""
_tables: dict[tuple[str, str, str], Tables | None] = {}
"""Unwind tables by device, inode and path; None where there are none that are understood."""


class Registers(NamedTuple):
    """What a walk from a call to its callers begins with; `bp` is 0 if it is not known."""

    ip: int
    sp: int
    bp: int


class Mapped(NamedTuple):
    """A line of /proc/PID/maps."""

    start: int
    end: int
    permissions: str
    offset: int
    file: tuple[str, str, str]
    """Device, inode and path."""

    @property
    def shift(self) -> int:
        """What is taken from an address for the offset in the file."""
        return self.start - self.offset


class Maps:
    """What a task has mapped; lines are parsed when they are asked for, since few of many are."""

    def __init__(self, text: str) -> None:
        self._lines = text.split("\n")[:-1]  # ascending

    def at(self, address: int) -> Mapped | None:
        """What an address is in.  Raises ValueError."""
        index = self._index(address)
        mapped = _parsed(self._lines[index]) if index >= 0 else None
        return mapped if mapped and address < mapped.end else None

    def all(self) -> list[Mapped]:
        """All that is mapped, ascending.  Raises ValueError."""
        return [_parsed(line) for line in self._lines]

    def begin(self, mapped: Mapped) -> int:
        """Where the beginning of the same file is mapped, before it; 0 if it is not there.  Raises ValueError."""
        index = self._index(mapped.start)
        for line in reversed(self._lines[max(index - _NEAR, 0) : index + 1]):
            other = _parsed(line)
            if other.file == mapped.file and not other.offset:
                return other.start
        return 0

    def _index(self, address: int) -> int:
        return bisect_right(self._lines, address, key=lambda line: int(line[: line.index("-")], 16)) - 1


def _parsed(line: str) -> Mapped:
    fields = line.split(None, 5)
    start, _, end = fields[0].partition("-")
    file = (fields[3], fields[4], fields[5] if len(fields) > 5 else "[anonymous]")
    return Mapped(int(start, 16), int(end, 16), fields[1], int(fields[2], 16), file)


def outside(maps: Maps, at: Registers, read: Read) -> int:
    """The return address in the first caller outside of libc and the loader; 0 where it cannot be found.  Raises ValueError."""
    ip, sp, bp = at
    for depth in range(_DEEPEST):
        mapped = maps.at(ip - 1)
        if mapped is None or not mapped.file[2].startswith("/"):
            return 0
        name = mapped.file[2].rpartition("/")[2]
        if not name.startswith(_LIBC):
            return ip
        if not depth and name.startswith(_LOADER):
            return 0
        row = _row(maps, mapped, ip - 1, read)
        if row is None:
            return 0
        frame = (sp if row.on_stack else bp) + row.offset
        if frame <= sp:
            return 0
        ip = _word(read, frame + row.ra)
        bp = bp if row.bp is None else _word(read, frame + row.bp)
        sp = frame
    return 0


def _word(read: Read, address: int) -> int:
    return int.from_bytes(read(address, 8), "little") if address % 8 == 0 else 0


def _row(maps: Maps, mapped: Mapped, ip: int, read: Read) -> Row | None:
    begin = maps.begin(mapped)

    def within(at: int, length: int) -> bytes:
        return read(begin + at, length)

    if mapped.file not in _tables:
        if len(_tables) >= _MANY:
            _tables.clear()
        try:
            _tables[mapped.file] = Tables(within) if begin else None
        except (ValueError, LookupError, StopIteration, struct.error):
            _tables[mapped.file] = None
    tables = _tables[mapped.file]
    return tables.row(ip - begin, within) if tables else None
