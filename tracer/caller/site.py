"""Where a call came from: the file that its instruction is mapped from, the offset in it, and the build of that file."""

from __future__ import annotations

import os
import stat
import struct
from bisect import bisect_right
from typing import TYPE_CHECKING, NamedTuple

from tracer.caller.frames import Tables
from tracer.task import proc

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import BinaryIO

_NOTE_SEGMENT = 4  # PT_NOTE, elf.h
_BUILD_ID = 3  # NT_GNU_BUILD_ID, elf.h
_LONGEST = 4096
"""Most bytes of a note segment, and most segments, that are read: real ones have a few dozen."""
_LOADER = ("ld-linux", "ld-2.")
"""How names of the dynamic loader begin.  What it does at a start has no caller."""
_LIBC = (*_LOADER, "libc.so", "libc-2.", "libc.musl-", "libpthread", "ld-musl-")
"""How names of files begin whose functions are not what a call is for: of the C library, too."""
_DEEPEST = 32
"""Most callers that are followed."""
_tables: dict[tuple[str, str, str], Tables | None] = {}
"""Unwind tables, likewise by device, inode and path."""
_builds: dict[tuple[str, str, str], str] = {}
"""Build ids by device, inode and path, since each new observation needs its site."""


class Registers(NamedTuple):
    """What a walk from a call to its callers begins with."""

    ip: int
    sp: int
    bp: int


class _Mapped(NamedTuple):
    """A line of /proc/PID/maps."""

    end: int
    shift: int
    """What is taken from an address for the offset in the file."""
    file: tuple[str, str, str]
    """Device, inode and path."""


class _Maps:
    """What a task has mapped; lines are parsed when they are asked for, since few of many are."""

    def __init__(self, tid: int) -> None:
        """Raises OSError, ValueError."""
        with open(f"{proc()}/{tid}/maps", encoding="utf-8", errors="surrogateescape") as maps:
            self._lines = maps.read().split("\n")[:-1]
        self._starts = [int(line[: line.index("-")], 16) for line in self._lines]  # ascending

    def at(self, address: int) -> _Mapped | None:
        """What an address is in.  Raises ValueError."""
        index = bisect_right(self._starts, address) - 1
        if index < 0:
            return None
        fields = self._lines[index].split(None, 5)
        file = (fields[3], fields[4], fields[5] if len(fields) > 5 else "[anonymous]")
        mapped = _Mapped(int(fields[0].partition("-")[2], 16), self._starts[index] - int(fields[2], 16), file)
        return mapped if address < mapped.end else None


def call_site(tid: int, at: Registers, read: Callable[[int, int], bytes] | None = None) -> str:
    """`/path/library+0xoffset (build id)` of where a call came from, the offset being that in the file.

    That is the first caller outside of libc and the dynamic loader, if `read`, which gives the task's memory, leads there;
    else the call's own instruction.  Without the parentheses if the file has no build id; `[anonymous]+0x...` outside any
    file.  '?' if the maps cannot be read: that is no error, since the call itself was seen.
    """
    try:
        maps = _Maps(tid)
        return _named(tid, maps, (_outside(tid, maps, at, read) if read else 0) or at.ip)
    except (OSError, ValueError):
        return "?"


def _named(tid: int, maps: _Maps, address: int) -> str:
    mapped = maps.at(address - 1)  # the instruction before, which made the call
    if mapped is None:
        return "?"
    file, name = mapped.file, mapped.file[2]
    if name[0] == "/" and file not in _builds:
        _builds[file] = _build_id(f"{proc()}/{tid}/root{name}")
    site = f"{name}+{address - mapped.shift:#x}"
    return f"{site} ({_builds[file]})" if _builds.get(file) else site


def _outside(tid: int, maps: _Maps, at: Registers, read: Callable[[int, int], bytes]) -> int:
    """The return address in the first caller outside of libc and the loader; 0 where it cannot be found."""
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
        tables = _unwound(tid, mapped.file)
        row = tables.row(ip - 1 - mapped.shift) if tables else None
        if row is None:
            return 0
        frame = (sp if row.on_stack else bp) + row.offset
        if frame <= sp:
            return 0
        ip = _word(read, frame + row.ra)
        bp = bp if row.bp is None else _word(read, frame + row.bp)
        sp = frame
    return 0


def _word(read: Callable[[int, int], bytes], address: int) -> int:
    return int.from_bytes(read(address, 8), "little") if address % 8 == 0 else 0


def _unwound(tid: int, file: tuple[str, str, str]) -> Tables | None:
    """The unwind tables of a file; None if it has none that are understood."""
    if file not in _tables:
        try:
            _tables[file] = Tables(f"{proc()}/{tid}/root{file[2]}")
        except (OSError, ValueError, StopIteration, struct.error):
            _tables[file] = None
    return _tables[file]


def _build_id(path: str) -> str:
    """The GNU build id of a file, in hexadecimal; '' if it has none."""
    try:
        with open(path, "rb", opener=_regular) as file:
            return next((note.hex() for note in _build_notes(file)), "")
    except (OSError, ValueError, struct.error):
        return ""


def _regular(path: str, flags: int) -> int:
    """Open a regular file; opening a device can have effects."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError(f"{path}: no regular file")
    return os.open(path, flags | os.O_NONBLOCK)


def _build_notes(file: BinaryIO) -> Iterator[bytes]:
    """The contents of an ELF file's build id notes (elf(5)), of either class, little-endian."""
    head = file.read(64)
    if head[:4] != b"\x7fELF":
        return
    wide = head[4] == 2
    table, size, count = struct.unpack_from("<32xQ14xHH" if wide else "<28xI10xHH", head)
    for index in range(min(count, _LONGEST)):
        file.seek(table + index * size)
        segment = file.read(size)
        kind, offset, length = struct.unpack_from("<I4xQ16xQ" if wide else "<II8xI", segment)
        if kind == _NOTE_SEGMENT:
            file.seek(offset)
            yield from _notes(file.read(min(length, _LONGEST)))


def _notes(data: bytes) -> Iterator[bytes]:
    """The contents of the build id notes in a segment; names and contents are padded to 4 bytes."""
    at = 0
    while at + 12 <= len(data):
        named, length, kind = struct.unpack_from("<III", data, at)
        start = at + 12 + (named + 3) // 4 * 4
        if (data[at + 12 : at + 12 + named], kind) == (b"GNU\0", _BUILD_ID):
            yield data[start : start + length]
        at = start + (length + 3) // 4 * 4
