"""The unwind tables of a file (.eh_frame), which say where the caller of each of its functions is.

pyelftools reads whole tables and takes tens of milliseconds to be imported; here the entry of an address is looked up in the
index that linkers write (.eh_frame_hdr), and is read only for the four registers that are needed.  An entry that cannot be
decoded ends the walk.

The tables are read where the program has them mapped, so no file is opened: the helper of `enforce` must not map a file
that the program could truncate.  A *place* is an address minus the address at which the file's beginning is mapped.

Formats: Linux Standard Base Core 5.0, 10.6 (Exception Frames); DWARF 5, 6.4 (Call Frame Information); x86-64 psABI, 3.6;
AArch64 DWARF (aadwarf64), 5.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Callable
from typing import Final

from callfence.tracer import linux
from callfence.tracer.machine import MACHINE
from callfence.tracer.named import NamedTuple

Read = Callable[[int, int], bytes]
"""A function of an address and a size, which returns bytes within one page; fewer or none if they cannot be read."""

_INDEX: Final = bytes((1, 0x1B, 0x03, 0x3B))
"""The first bytes of .eh_frame_hdr as all linkers write it: version 1, offsets of 32 bits."""
_OFFSET: Final = 0x1B  # DW_EH_PE_pcrel | DW_EH_PE_sdata4
_BP, _SP, _RA, _ = MACHINE.unwinding
"""DWARF's numbers of the frame pointer, the stack pointer and the return address."""
_DATA_FACTOR: Final = -8
"""The factor of the offsets of saved registers (data alignment factor); all compilers for 64-bit machines use this one."""
_MAX_INSTRUCTIONS: Final = 512
"""The most instructions of one entry that are followed; real entries have some dozens."""
_MAX_ENTRY: Final = 1 << 15
"""The most bytes of an entry that are read."""
_PAGE: Final = 4096
_MAX_PAGES: Final = 64
"""The most pages of one file that are cached."""
_MAX_ROWS = 1 << 14
"""The most rules of one file that are cached: a program chooses from where it makes its calls."""
UNREADABLE = (ValueError, LookupError, StopIteration, struct.error)
"""The exceptions that reading a file's tables raises if they are damaged, missing or of an unknown format."""


class Row(NamedTuple):
    """A rule to compute the caller's registers from those at an address.  The frame's address is that in the stack pointer or
    the frame pointer, plus `offset`."""

    on_stack: bool
    """Whether `offset` is added to the stack pointer.  The sum, the frame's address, is also the caller's stack pointer."""
    offset: int
    bp: int | None
    """The offset from the frame's address at which the caller's frame pointer is saved; None if it is unchanged."""
    ra: int | None
    """The offset from the frame's address at which the return address is; None if it is in the link register."""


class Tables:
    """The unwind tables of one ELF file."""

    def __init__(self, read: Read) -> None:
        """Read the head of the index.  `read` takes a place and a size.  Raises one of UNREADABLE."""
        self._read = read
        self._pages: dict[int, bytes] = {}
        self._rows: dict[int, Row | None] = {}
        if linux.elf_bits(self._bytes(0, 5)) != 64:
            raise ValueError
        segments = list(linux.elf_segments(self._bytes))
        start = next(address for kind, offset, address, _ in segments if (kind, offset) == (linux.PT_LOAD, 0))
        self._index = next(address for kind, _, address, _ in segments if kind == linux.PT_GNU_EH_FRAME) - start
        head = self._bytes(self._index, 12)
        if head[:4] != _INDEX:
            raise ValueError
        self._count = int.from_bytes(head[8:], "little")

    def row(self, place: int, read: Read) -> Row | None:
        """Return the rule to compute the caller's registers for the code at a place; None if the tables have none to decode."""
        if place not in self._rows:
            self._read = read
            if len(self._rows) >= _MAX_ROWS:
                self._rows.clear()
            try:
                self._rows[place] = self._read_row(place)
            except UNREADABLE:
                self._rows[place] = None
        return self._rows[place]

    def _bytes(self, place: int, size: int) -> bytes:
        """Return `size` bytes at a place.  Raises ValueError if they cannot be read."""
        end, content = place + size, b""
        while place < end:
            start = place & -_PAGE
            page = self._pages.get(start)
            if page is None:
                if len(self._pages) >= _MAX_PAGES:
                    self._pages.clear()
                page = self._read(start, _PAGE)
                if len(page) < _PAGE:
                    raise ValueError
                self._pages[start] = page
            content += page[place - start : end - start]
            place = start + _PAGE
        return content

    def _read_row(self, place: int) -> Row | None:
        entry = self._entry(place)
        data = self._entry_bytes(entry)
        back, offset, size = struct.unpack_from("<IiI", data, 4)
        begin = entry + 8 + offset
        if not begin <= place < begin + size:
            raise ValueError
        state = self._common_state(entry + 4 - back, begin, place)
        augmentation_size, at = _unsigned(data, 16)
        state.follow(data, at + augmentation_size, place)
        base, distance = state.cfa
        if base not in (_BP, _SP) or (_RA not in state.saved and MACHINE.native.link < 0):
            return None
        return Row(base == _SP, distance, state.saved.get(_BP), state.saved.get(_RA))

    def _entry(self, place: int) -> int:
        """Return the place of the entry whose function may contain `place`, by binary search.  Raises ValueError for none."""
        rows = self._index + 12
        number = bisect_right(range(self._count), place, key=lambda row: self._index + self._number(rows + 8 * row))
        if not number:
            raise ValueError
        return self._index + self._number(rows + 8 * number - 4)

    def _number(self, place: int) -> int:
        return int.from_bytes(self._bytes(place, 4), "little", signed=True)

    def _entry_bytes(self, place: int) -> bytes:
        """Return the bytes of the call-frame entry at a place, including its 4-byte length field.  Raises ValueError if the
        length is 0 or too large."""
        length = int.from_bytes(self._bytes(place, 4), "little")
        if not length or length > _MAX_ENTRY:
            raise ValueError
        return self._bytes(place, 4 + length)

    def _common_state(self, entry: int, begin: int, place: int) -> _State:
        """Return the unwinding rules after the instructions of a Common Information Entry, with which its entries begin.
        `entry` is its place, and `begin` that of the function.  Raises ValueError for an unknown format."""
        data = self._entry_bytes(entry)
        zero, version = struct.unpack_from("<IB", data, 4)
        augmentation = data[9 : data.find(b"\0", 9)]
        if zero or version != 1 or augmentation[:1] != b"z" or b"S" in augmentation:
            raise ValueError
        code_factor, at = _unsigned(data, 10 + len(augmentation))
        data_factor, at = _unsigned(data, at)
        register, at = _unsigned(data, at)
        size, at = _unsigned(data, at)
        first = at + size
        for letter in augmentation[1:].decode():
            if letter == "R" and data[at] != _OFFSET:
                raise ValueError
            at += {"R": 1, "L": 1, "P": 5, "B": 0}[letter]
        if register != _RA or data_factor != _DATA_FACTOR & 0x7F:  # a byte of SLEB128
            raise ValueError
        state = _State(code_factor, begin)
        state.follow(data, first, place)
        state.initial = dict(state.saved)
        return state


class _State:
    """The unwinding rules at one place of a function (the frame's address, and where each register was saved), computed by
    following the instructions of a call-frame entry (CIE, FDE)."""

    def __init__(self, code_factor: int, begin: int) -> None:
        self._code_factor = code_factor
        self.cfa = (0, 0)
        """A register (_BP, _SP) and an offset, whose sum is the frame's address."""
        self.saved: dict[int, int] = {}
        """By register: the offset from the frame's address at which the caller's value is saved."""
        self.initial: dict[int, int] = {}
        """The value of `saved` after the CIE, which `DW_CFA_restore` restores."""
        self._remembered: list[tuple[tuple[int, int], dict[int, int]]] = []
        self._place = begin

    def follow(self, data: bytes, at: int, until: int) -> None:
        """Follow the instructions in `data` from index `at` on, up to the place `until`.  Raises ValueError or LookupError for
        an unknown instruction."""
        for _ in range(_MAX_INSTRUCTIONS):
            if at >= len(data):
                return
            operation, low = data[at] & 0xC0, data[at] & 0x3F
            at += 1
            if operation == 0x40:  # DW_CFA_advance_loc
                self._place += low * self._code_factor
            elif operation == 0x80:  # DW_CFA_offset
                value, at = _unsigned(data, at)
                self.saved[low] = value * _DATA_FACTOR
            elif operation == 0xC0:  # DW_CFA_restore
                self._restore(low)
            else:
                at = self._follow_other(data, low, at)
            if self._place > until:
                return
        raise ValueError

    def _restore(self, register: int) -> None:
        self.saved.pop(register, None)
        if register in self.initial:
            self.saved[register] = self.initial[register]

    def _follow_other(self, data: bytes, operation: int, at: int) -> int:
        """Follow an instruction whose operands begin at index `at`; return the index of the next instruction."""
        if operation in (0, 0x0A, 0x2D):  # DW_CFA_nop, _remember_state, _AARCH64_negate_ra_state: `_ADDRESS` does that
            self._remembered += [(self.cfa, dict(self.saved))] * (operation == 0x0A)
            return at
        if operation in (2, 3, 4):  # DW_CFA_advance_loc1, 2, 4
            size = 1 << operation - 2
            self._place += int.from_bytes(data[at : at + size], "little") * self._code_factor
            return at + size
        if operation == 0x0B:  # DW_CFA_restore_state
            self.cfa, self.saved = self._remembered.pop()
            return at
        operand, at = _unsigned(data, at)
        match operation:
            case 0x0C:  # DW_CFA_def_cfa
                offset, at = _unsigned(data, at)
                self.cfa = (operand, offset)
            case 0x0D:  # DW_CFA_def_cfa_register
                self.cfa = (operand, self.cfa[1])
            case 0x0E:  # DW_CFA_def_cfa_offset
                self.cfa = (self.cfa[0], operand)
            case 0x05:  # DW_CFA_offset_extended
                value, at = _unsigned(data, at)
                self.saved[operand] = value * _DATA_FACTOR
            case 0x06:  # DW_CFA_restore_extended
                self._restore(operand)
            case 0x07 | 0x08:  # DW_CFA_undefined: of the return address, there is no caller; DW_CFA_same_value
                self.saved.pop(operand, None)
            case 0x2E:  # DW_CFA_GNU_args_size
                pass
            case 0x10 if operand not in (_BP, _RA):  # DW_CFA_expression
                size, at = _unsigned(data, at)
                at += size
            case _:
                raise ValueError
        return at


def _unsigned(data: bytes, at: int) -> tuple[int, int]:
    """Return the unsigned LEB128 number at index `at`, and the index after it.  Raises ValueError if it has over 64 bits."""
    value = 0
    for shift in range(0, 64, 7):
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError
