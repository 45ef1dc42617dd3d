"""arm64, and AArch32 beside it (arch/arm64/kernel/ptrace.c, entry-common.c, signal.c; linux/elf.h; Arm's DDI 0487, D2.8).

The kernel shows registers by sets.  Of a 64-bit task: x0 to x30, sp, pc and pstate; of a 32-bit one: r0 to r15, cpsr and the
former r0.  The number of a call is a set of its own; here it is put at the end of the registers.

x0 is an argument and the result, and only the entry of a call shows the argument.  At the entry and the exit of a call the
kernel shows 0 and 1 in x7 (r12 of a 32-bit task), and ignores what is written to it; so it is never written.
"""

from __future__ import annotations

from callfence.tracer import TYPE_CHECKING, linux
from callfence.tracer.machine.model import NO_CALL, Convention, Machine, Registers

if TYPE_CHECKING:
    from collections.abc import Sequence
    from ctypes import Array, c_uint32, c_uint64

_GETREGSET, _SETREGSET = 0x4204, 0x4205  # linux/ptrace.h
_PRSTATUS, _HW_BREAK, _SYSTEM_CALL = 1, 0x402, 0x404  # linux/elf.h: NT_PRSTATUS, NT_ARM_HW_BREAK, NT_ARM_SYSTEM_CALL
_WORDS, _WORDS32 = 34, 18
"""How many registers NT_PRSTATUS has, of 64 and of 32 bits."""
_PSTATE, _CPSR = 33, 16
_THUMB, _STEPPING, _BTYPE = 1 << 5, 1 << 21, 3 << 10
"""In cpsr: 16-bit instructions.  In pstate: the program is stepped through (SPSR_EL1.SS); it has jumped here, where a page that
is guarded (PROT_BTI) must have an instruction for jumps."""
_EXECUTE, _HALF = 0x1E5, 0x65
"""Values of a breakpoint's control register: enabled, at EL0, for an instruction of 4 bytes and of 2."""


def _compat(instruction: bytes, breakpoint_: bytes) -> Convention:
    return Convention(0x40000028, 4, instruction, breakpoint_, False, tuple(range(6)), 15, 13, -1, 14, 0, _WORDS32, 7)


_THUMB_MODE = _compat(b"\x00\xdf", b"\x01\xde")  # svc #0; udf #1


class Arm(Machine):
    """See `Machine`."""

    native = Convention(
        0xC00000B7, 8, b"\x01\0\0\xd4", b"\0\0\x20\xd4", False, tuple(range(6)), 32, 31, 29, 30, 0, _WORDS, 8
    )  # svc #0; brk #0
    compat = _compat(b"\0\0\0\xef", b"\xf0\x01\xf0\xe7")  # svc #0; udf #16
    unwinding = (29, 31, 30, (1 << 48) - 1)

    def registers(self, tid: int) -> Registers:
        words = (linux.c_uint64 * _WORDS)()
        size = _register_set(_GETREGSET, tid, _PRSTATUS, words)
        if size == 4 * _WORDS32:
            return [*(linux.c_uint32 * _WORDS32).from_buffer(words), _number(tid)]
        return [*words, _number(tid)]

    def set_registers(self, tid: int, registers: Sequence[int]) -> None:
        narrow = len(registers) == _WORDS32 + 1
        count, type_, untouched = (_WORDS32, linux.c_uint32, 12) if narrow else (_WORDS, linux.c_uint64, 7)
        words = (type_ * count)()
        _register_set(_GETREGSET, tid, _PRSTATUS, words)
        kept = words[untouched]
        words[:] = registers[:count]
        words[untouched] = kept
        _register_set(_SETREGSET, tid, _PRSTATUS, words)
        number = linux.c_uint32(registers[count] & 0xFFFFFFFF)
        _register_set(_SETREGSET, tid, _SYSTEM_CALL, number)

    def register(self, tid: int, index: int) -> int:
        return self.registers(tid)[index]

    def set_register(self, tid: int, index: int, value: int) -> None:
        registers = self.registers(tid)
        registers[index] = value
        self.set_registers(tid, registers)

    def convention(self, registers: Sequence[int]) -> Convention:
        if len(registers) != _WORDS32 + 1:
            return self.native
        return _THUMB_MODE if registers[_CPSR] & _THUMB else self.compat

    def of_call(self, audit: int, registers: Sequence[int]) -> Convention:
        return self.convention(registers)

    def is_stepping(self, registers: Sequence[int]) -> bool:
        return len(registers) == _WORDS + 1 and bool(registers[_PSTATE] & _STEPPING)

    def anywhere(self, registers: Sequence[int]) -> Registers:
        changed = list(registers)
        if len(changed) == _WORDS + 1:
            changed[_PSTATE] &= ~_BTYPE
        return changed

    def after_interrupt(self, registers: Sequence[int]) -> Registers:
        return list(registers)  # the kernel has moved the instruction pointer back before the stop

    def target(self, convention: Convention, address: int) -> tuple[int, Convention]:
        if convention.pointer == 4 and address & 1:
            return address & ~1, _THUMB_MODE
        return address, self.of(convention.audit)

    def set_breakpoint(self, tid: int, address: int, convention: Convention) -> None:
        control = _EXECUTE if len(convention.breakpoint) == 4 else _HALF
        for at, how in ((0, control & ~1), (address, control)):  # the kernel checks an address by the length that it has
            _register_set(_SETREGSET, tid, _HW_BREAK, (linux.c_uint64 * 3)(0, at, how))

    def clear_breakpoint(self, tid: int) -> None:
        _register_set(_SETREGSET, tid, _HW_BREAK, (linux.c_uint64 * 3)(0, 0, 0))


def _number(tid: int) -> int:
    """Return the number of the call that a task is in, 32 bits, or NO_CALL."""
    number = linux.c_uint32(0)
    _register_set(_GETREGSET, tid, _SYSTEM_CALL, number)
    return NO_CALL if number.value == 0xFFFFFFFF else number.value


def _register_set(request: int, tid: int, note: int, content: Array[c_uint64] | Array[c_uint32] | c_uint32) -> int:
    """Read or write a set of registers, and return how many bytes of it there were."""
    vector = (linux.c_uint64 * 2)(linux.addressof(content), linux.sizeof(content))  # struct iovec
    linux.ptrace(request, tid, note, linux.addressof(vector))
    return int(vector[1])
