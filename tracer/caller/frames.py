"""The caller of a function, by the unwind tables of the file that it is in (.eh_frame; x86_64).

The instruction of a call is nearly always in libc's wrapper, which says nothing; who called the wrapper does.  pyelftools
reads whole tables and takes tens of milliseconds to be imported; here the one entry of an address is found by the index that
linkers write (.eh_frame_hdr), and is read for what three registers need.  What is not understood ends the walk.

Formats: Linux Standard Base Core 5.0, 10.6 (Exception Frames); DWARF 5, 6.4 (Call Frame Information); x86-64 psABI, 3.6.
"""

from __future__ import annotations

import mmap
import os
import struct
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

_LOAD, _EH_FRAME = 1, 0x6474E550  # PT_LOAD, PT_GNU_EH_FRAME, elf.h
_INDEX = bytes((1, 0x1B, 0x03, 0x3B))
"""The head of an index as all linkers write it: version 1, offsets of 32 bits."""
_OFFSET = 0x1B  # DW_EH_PE_pcrel | DW_EH_PE_sdata4
_BP, _SP, _RA = 6, 7, 16
"""DWARF's numbers of rbp, rsp and the return address."""
_MOST: Final = 512
"""Instructions of one entry that are followed; real ones have some dozens."""


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

    def __init__(self, data: mmap.mmap, code: int, factor: int) -> None:
        self._data = data
        self._code, self._factor = code, factor
        self.cfa = (0, 0)
        self.saved: dict[int, int] = {}
        self.first: dict[int, int] = {}
        """What `DW_CFA_restore` goes back to."""
        self._kept: list[tuple[tuple[int, int], dict[int, int]]] = []
        self.place = 0

    def follow(self, at: int, end: int, until: int) -> None:
        """Follow the instructions up to an address.  Raises ValueError for what is not understood."""
        for _ in range(_MOST):
            if at >= end:
                return
            operation, low = self._data[at] & 0xC0, self._data[at] & 0x3F
            at += 1
            if operation == 0x40:  # DW_CFA_advance_loc
                self.place += low * self._code
            elif operation == 0x80:  # DW_CFA_offset
                value, at = _unsigned(self._data, at)
                self.saved[low] = value * self._factor
            elif operation == 0xC0:  # DW_CFA_restore
                self._restore(low)
            else:
                at = self._other(low, at)
            if self.place > until:
                return
        raise ValueError

    def _restore(self, register: int) -> None:
        self.saved.pop(register, None)
        if register in self.first:
            self.saved[register] = self.first[register]

    def _other(self, operation: int, at: int) -> int:
        """Follow an instruction without an operand of its own; where the next one is."""
        data = self._data
        if operation in (2, 3, 4):  # DW_CFA_advance_loc1, 2, 4
            size = 1 << operation - 2
            self.place += int.from_bytes(data[at : at + size], "little") * self._code
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

    def __init__(self, path: str) -> None:
        """Raises OSError, ValueError, StopIteration, struct.error where the file has none that are understood."""
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._data = mmap.mmap(descriptor, 0, mmap.MAP_PRIVATE, mmap.PROT_READ)
        finally:
            os.close(descriptor)
        if self._data[:5] != b"\x7fELF\x02":
            raise ValueError
        segments = list(self._segments())
        self._loads = [segment[1:] for segment in segments if segment[0] == _LOAD]
        self._index = next(address for kind, _, address, _ in segments if kind == _EH_FRAME)
        head = self._at(self._index)
        if self._data[head : head + 4] != _INDEX:
            raise ValueError
        self._count = struct.unpack_from("<I", self._data, head + 8)[0]
        self._entries = head + 12
        self._rows: dict[int, Row | None] = {}

    def row(self, offset: int) -> Row | None:
        """How to find the caller of the code at an offset in the file; None where that is not known."""
        if offset not in self._rows:
            try:
                self._rows[offset] = self._row(offset)
            except (ValueError, LookupError, StopIteration, struct.error):
                self._rows[offset] = None
        return self._rows[offset]

    def _segments(self) -> Iterator[tuple[int, int, int, int]]:
        """Kind, offset, address and size in the file of each."""
        table, size, count = struct.unpack_from("<32xQ14xHH", self._data)
        for index in range(min(count, 64)):
            kind, offset, address, length = struct.unpack_from("<I4xQQ8xQ", self._data, table + index * size)
            yield kind, offset, address, length

    def _at(self, address: int) -> int:
        """Where in the file the byte of an address is."""
        return next(address - start + offset for offset, start, size in self._loads if start <= address < start + size)

    def _row(self, offset: int) -> Row | None:
        address = next(offset - begin + start for begin, start, size in self._loads if begin <= offset < begin + size)
        entry = self._entry(address)
        length, back = struct.unpack_from("<II", self._data, entry)
        end = entry + 4 + length
        shared = entry + 4 - back
        begin, size, at = self._covered(entry + 8)
        if not length or length == 0xFFFFFFFF or not begin <= address < begin + size:
            raise ValueError
        walk, first, last = self._shared(shared)
        walk.place = begin
        walk.follow(first, last, address)
        walk.first = dict(walk.saved)
        skipped, at = _unsigned(self._data, at)
        walk.follow(at + skipped, end, address)
        base, distance = walk.cfa
        if base not in (_BP, _SP) or _RA not in walk.saved:
            return None
        return Row(base == _SP, distance, walk.saved.get(_BP), walk.saved[_RA])

    def _entry(self, address: int) -> int:
        """Where the entry begins that an address may be in."""
        low, high = 0, self._count
        while low < high:
            middle = (low + high) // 2
            if self._index + struct.unpack_from("<i", self._data, self._entries + 8 * middle)[0] <= address:
                low = middle + 1
            else:
                high = middle
        if not low:
            raise ValueError
        return self._at(self._index + struct.unpack_from("<i", self._data, self._entries + 8 * low - 4)[0])

    def _covered(self, at: int) -> tuple[int, int, int]:
        """The first address of an entry, how many there are, and what comes after them."""
        offset, size = struct.unpack_from("<iI", self._data, at)
        here = next(at - begin + start for begin, start, length in self._loads if begin <= at < begin + length)
        return here + offset, size, at + 8

    def _shared(self, at: int) -> tuple[_Walk, int, int]:
        """What entries have in common: a walk, and its first instructions."""
        data = self._data
        length, zero, version = struct.unpack_from("<IIB", data, at)
        end = at + 4 + length
        augmentation = data[at + 9 : data.find(b"\0", at + 9, end)]
        if zero or version != 1 or augmentation[:1] != b"z" or b"S" in augmentation:
            raise ValueError
        at += 10 + len(augmentation)
        code, at = _unsigned(data, at)
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
        return _Walk(data, code, -8), first, end


def _unsigned(data: mmap.mmap, at: int) -> tuple[int, int]:
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
