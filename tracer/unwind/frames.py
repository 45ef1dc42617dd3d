"""The caller of a function, by the unwind tables of the file that it is in (.eh_frame; x86_64).

The instruction of a call is nearly always in libc's wrapper, which says nothing; who called the wrapper does.  pyelftools
reads whole tables and takes tens of milliseconds to be imported; here the one entry of an address is found by the index that
linkers write (.eh_frame_hdr), and is read for what three registers need.  What is not understood ends the walk.

The tables are read where the program has them mapped, so no file is opened: the helper of `enforce` must not have one mapped
that the program could cut short.  All addresses are counted from where the file is mapped.

Formats: Linux Standard Base Core 5.0, 10.6 (Exception Frames); DWARF 5, 6.4 (Call Frame Information); x86-64 psABI, 3.6.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from tracer.named import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Read = Callable[[int, int], bytes]
    """Bytes within one page, by address; fewer, or none, where they cannot be read."""

_LOAD, _EH_FRAME = 1, 0x6474E550  # PT_LOAD, PT_GNU_EH_FRAME, elf.h
_INDEX = bytes((1, 0x1B, 0x03, 0x3B))
"""The head of an index as all linkers write it: version 1, offsets of 32 bits."""
_OFFSET = 0x1B  # DW_EH_PE_pcrel | DW_EH_PE_sdata4
_BP, _SP, _RA = 6, 7, 16
"""DWARF's numbers of rbp, rsp and the return address."""
_MOST: Final = 512
"""Instructions of one entry that are followed; real ones have some dozens."""
_LONGEST: Final = 1 << 15
"""Bytes of an entry that are read."""
_PAGE: Final = 4096
_MANY_PAGES: Final = 64
"""Pages of one file that are kept at once."""


class Row(NamedTuple):
    """How the registers of the caller are found at an address."""

    on_stack: bool
    """Whether `offset` is added to rsp, else to rbp, for the frame's address, which is also the caller's rsp."""
    offset: int
    bp: int | None
    """Where, from the frame's address, the caller's rbp is; None where it is the same."""
    ra: int
    """Where the return address is."""


class _Walk:
    """The state while the instructions of an entry are followed."""

    def __init__(self, code: int, factor: int, begin: int) -> None:
        self._code, self._factor = code, factor
        self.cfa = (0, 0)
        self.saved: dict[int, int] = {}
        self.first: dict[int, int] = {}
        """What `DW_CFA_restore` goes back to."""
        self._kept: list[tuple[tuple[int, int], dict[int, int]]] = []
        self._place = begin

    def follow(self, data: bytes, at: int, until: int) -> None:
        """Follow the instructions from there on, up to a place.  Raises ValueError, LookupError for what is not understood."""
        for _ in range(_MOST):
            if at >= len(data):
                return
            operation, low = data[at] & 0xC0, data[at] & 0x3F
            at += 1
            if operation == 0x40:  # DW_CFA_advance_loc
                self._place += low * self._code
            elif operation == 0x80:  # DW_CFA_offset
                value, at = _unsigned(data, at)
                self.saved[low] = value * self._factor
            elif operation == 0xC0:  # DW_CFA_restore
                self._restore(low)
            else:
                at = self._other(data, low, at)
            if self._place > until:
                return
        raise ValueError

    def _restore(self, register: int) -> None:
        self.saved.pop(register, None)
        if register in self.first:
            self.saved[register] = self.first[register]

    def _other(self, data: bytes, operation: int, at: int) -> int:
        """Follow an instruction without an operand of its own; where the next one is."""
        if operation in (2, 3, 4):  # DW_CFA_advance_loc1, 2, 4
            size = 1 << operation - 2
            self._place += int.from_bytes(data[at : at + size], "little") * self._code
            return at + size
        if operation == 0x0A:  # DW_CFA_remember_state
            self._kept.append((self.cfa, dict(self.saved)))
        elif operation == 0x0B:  # DW_CFA_restore_state
            if not self._kept:
                raise ValueError
            self.cfa, self.saved = self._kept.pop()
        elif operation in (0x0C, 0x0D, 0x0E, 6, 7, 8, 0x2E):
            first, at = _unsigned(data, at)
            if operation == 0x0C:  # DW_CFA_def_cfa
                second, at = _unsigned(data, at)
                self.cfa = (first, second)
            elif operation == 0x0D:  # DW_CFA_def_cfa_register
                self.cfa = (first, self.cfa[1])
            elif operation == 0x0E:  # DW_CFA_def_cfa_offset
                self.cfa = (self.cfa[0], first)
            elif operation == 6:  # DW_CFA_restore_extended
                self._restore(first)
            elif operation in (7, 8):  # DW_CFA_undefined: of the return address, there is no caller; DW_CFA_same_value
                self.saved.pop(first, None)
        elif operation == 0x10:  # DW_CFA_expression
            register, at = _unsigned(data, at)
            length, at = _unsigned(data, at)
            if register in (_BP, _RA):
                raise ValueError
            return at + length
        elif operation:  # not DW_CFA_nop
            raise ValueError
        return at


class Tables:
    """The unwind tables of one ELF file."""

    def __init__(self, read: Read) -> None:
        """`read` is only used here.  Raises ValueError, LookupError, StopIteration, struct.error where it has none that are
        understood."""
        self._read = read
        self._pages: dict[int, bytes] = {}
        self._rows: dict[int, Row | None] = {}
        if self._bytes(0, 5) != b"\x7fELF\x02":
            raise ValueError
        segments = list(self._segments())
        start = next(address for kind, offset, address in segments if (kind, offset) == (_LOAD, 0))
        self._index = next(address for kind, _, address in segments if kind == _EH_FRAME) - start
        head = self._bytes(self._index, 12)
        if head[:4] != _INDEX:
            raise ValueError
        self._count = int.from_bytes(head[8:], "little")

    def row(self, place: int, read: Read) -> Row | None:
        """How to find the caller of the code at a place; None where that is not known."""
        if place not in self._rows:
            self._read = read
            try:
                self._rows[place] = self._row(place)
            except (ValueError, LookupError, struct.error):
                self._rows[place] = None
        return self._rows[place]

    def _bytes(self, at: int, length: int) -> bytes:
        """Raises ValueError where they cannot be read."""
        end, found = at + length, b""
        while at < end:
            start = at & -_PAGE
            page = self._pages.get(start)
            if page is None:
                if len(self._pages) >= _MANY_PAGES:
                    self._pages.clear()
                page = self._pages[start] = self._read(start, _PAGE)
                if len(page) < _PAGE:
                    raise ValueError
            found += page[at - start : end - start]
            at = start + _PAGE
        return found

    def _segments(self) -> Iterator[tuple[int, int, int]]:
        """Kind, offset in the file and address of each."""
        table, size, count = struct.unpack_from("<32xQ14xHH", self._bytes(0, 64))
        for index in range(min(count, 64)):
            yield struct.unpack("<I4xQQ", self._bytes(table + index * size, 24))

    def _row(self, place: int) -> Row | None:
        entry = self._entry(place)
        data = self._data(entry)
        back, offset, size = struct.unpack_from("<IiI", data, 4)
        begin = entry + 8 + offset
        if not begin <= place < begin + size:
            raise ValueError
        walk = self._shared(entry + 4 - back, begin, place)
        skipped, at = _unsigned(data, 16)
        walk.follow(data, at + skipped, place)
        base, distance = walk.cfa
        if base not in (_BP, _SP) or _RA not in walk.saved:
            return None
        return Row(base == _SP, distance, walk.saved.get(_BP), walk.saved[_RA])

    def _entry(self, place: int) -> int:
        """Where the entry begins that a place may be in."""
        low, high = 0, self._count
        while low < high:
            middle = (low + high) // 2
            if self._index + self._number(self._index + 12 + 8 * middle) <= place:
                low = middle + 1
            else:
                high = middle
        if not low:
            raise ValueError
        return self._index + self._number(self._index + 12 + 8 * low - 4)

    def _number(self, at: int) -> int:
        return int.from_bytes(self._bytes(at, 4), "little", signed=True)

    def _data(self, at: int) -> bytes:
        """An entry, with its length."""
        length = int.from_bytes(self._bytes(at, 4), "little")
        if not length or length > _LONGEST:
            raise ValueError
        return self._bytes(at, 4 + length)

    def _shared(self, at: int, begin: int, place: int) -> _Walk:
        """A walk that has followed what entries have in common."""
        data = self._data(at)
        zero, version = struct.unpack_from("<IB", data, 4)
        augmentation = data[9 : data.find(b"\0", 9)]
        if zero or version != 1 or augmentation[:1] != b"z" or b"S" in augmentation:
            raise ValueError
        code, at = _unsigned(data, 10 + len(augmentation))
        factor, at = _unsigned(data, at)
        register, at = _unsigned(data, at)
        size, at = _unsigned(data, at)
        first = at + size
        for letter in augmentation[1:].decode():
            if letter == "R" and data[at] != _OFFSET:
                raise ValueError
            at += {"R": 1, "L": 1, "P": 5}[letter]
        if register != _RA or factor != 0x78:  # -8, as SLEB128
            raise ValueError
        walk = _Walk(code, -8, begin)
        walk.follow(data, first, place)
        walk.first = dict(walk.saved)
        return walk


def _unsigned(data: bytes, at: int) -> tuple[int, int]:
    """An unsigned LEB128 number, and what comes after it."""
    value = shift = 0
    while shift < 64:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise ValueError
