"""From a call to the first of its callers outside of the C library.

The instruction of a system call is nearly always in a wrapper of libc, so the caller of the wrapper is what identifies it.
"""

from __future__ import annotations

from typing import Final

from callfence.tracer.machine import MACHINE
from callfence.tracer.named import NamedTuple
from callfence.tracer.unwinding.maps import Mapped, Maps
from callfence.tracer.unwinding.tables import UNREADABLE, Read, Row, Tables

_LOADER: Final = ("ld-linux", "ld-2.")
"""The first letters of the dynamic loader's file names.  Its calls at a start have no caller."""
_LIBC: Final = (*_LOADER, "libc.so", "libc-2.", "libc.musl-", "libpthread", "ld-musl-")
"""The first letters of the names of the files that are not a call site: the dynamic loader and the C library."""
_MAX_CALLERS: Final = 32
_MAX_FILES: Final = 16
"""The most files whose unwind tables are cached."""
_ADDRESS: Final = MACHINE.unwinding[3]
"""The bits of a return address that are an address."""


class Registers(NamedTuple):
    """The registers at a call from which its callers are found."""

    ip: int
    sp: int
    bp: int = 0
    """The frame pointer; 0 if it is not known."""
    link: int = 0
    """The link register, which has the return address of a function that calls no other; 0 if it is not known, or there is
    none."""


_tables: dict[tuple[str, str, str], Tables | None] = {}
"""A cache of unwind tables, by device, inode and path; None for a file without tables that can be decoded."""


def outside(maps: Maps, at: Registers, read: Read) -> int:
    """Return the address to which the innermost call by code outside of libc and the dynamic loader returns; 0 if it cannot be
    found.  Raises ValueError for a malformed line of the mappings."""
    ip, sp, bp, link = at
    for depth in range(_MAX_CALLERS):
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
        if frame < sp or (frame == sp and row.ra is not None):
            return 0
        ip = (link if row.ra is None else _word(read, frame + row.ra)) & _ADDRESS
        link = 0  # a function that has called another has put its own on the stack
        if not ip:
            return 0
        bp = bp if row.bp is None else _word(read, frame + row.bp)
        sp = frame
    return 0


def _word(read: Read, address: int) -> int:
    return int.from_bytes(read(address, 8), "little") if address % 8 == 0 else 0


def _row(maps: Maps, mapped: Mapped, ip: int, read: Read) -> Row | None:
    begin = maps.begin(mapped)

    def read_file(place: int, size: int) -> bytes:
        return read(begin + place, size)

    if mapped.file not in _tables:
        if len(_tables) >= _MAX_FILES:
            _tables.clear()
        try:
            _tables[mapped.file] = Tables(read_file) if begin else None
        except UNREADABLE:
            _tables[mapped.file] = None
    tables = _tables[mapped.file]
    return tables.row(ip - begin, read_file) if tables else None
