"""x86_64, and i386 beside it (syscall(2); sys/user.h: struct user_regs_struct, struct user; Intel's manual 3B, 17.2)."""

from __future__ import annotations

from callfence.tracer import TYPE_CHECKING, linux
from callfence.tracer.machine.model import NO_CALL, Convention, Machine, Registers

if TYPE_CHECKING:
    from collections.abc import Sequence

_GETREGS, _SETREGS, _PEEKUSER, _POKEUSER = 12, 13, 3, 6  # linux/ptrace.h
_RBP, _RBX, _R10, _R9, _R8, _RAX, _RCX, _RDX, _RSI, _RDI = 4, 5, 7, 8, 9, 10, 11, 12, 13, 14
_ORIG_RAX, _RIP, _CS, _EFLAGS, _RSP = 15, 16, 17, 18, 19
_WORDS = 27
"""How many words struct user_regs_struct has; of a 32-bit task, eax is in RAX, and so on."""
_USER32_CS = 0x23  # asm/segment.h
_TRAP_FLAG = 1 << 8
_DEBUG_REGISTERS = 848
"""The offset of u_debugreg[0] in struct user, in bytes."""
_DEBUG_CONTROL = _DEBUG_REGISTERS + 8 * 7
_EXECUTE_0 = 1
"""In DR7: the address in DR0 stops the task when it is executed."""
_EINTR, _RESTART_BLOCK = 4, 516  # asm-generic/errno-base.h, linux/errno.h: ERESTART_RESTARTBLOCK
_RESTARTED = (512, 513, 514)  # ERESTARTSYS, ERESTARTNOINTR, ERESTARTNOHAND (linux/errno.h)


def _convention(audit: int, pointer: int, instruction: bytes, arguments: tuple[int, ...]) -> Convention:
    int3 = b"\xcc"
    return Convention(audit, pointer, instruction, int3, True, arguments, _RIP, _RSP, _RBP, -1, _RAX, _ORIG_RAX, _RAX)


class X86(Machine):
    """See `Machine`."""

    native = _convention(0xC000003E, 8, b"\x0f\x05", (_RDI, _RSI, _RDX, _R10, _R8, _R9))  # syscall
    compat = _convention(0x40000003, 4, b"\xcd\x80", (_RBX, _RCX, _RDX, _RSI, _RDI, _RBP))  # int 0x80
    foreign_bit = 0x40000000  # __X32_SYSCALL_BIT, asm/unistd.h
    unwinding = (6, 7, 16, NO_CALL)

    def registers(self, tid: int) -> Registers:
        words = (linux.c_uint64 * _WORDS)()
        linux.ptrace(_GETREGS, tid, 0, linux.addressof(words))
        return list(words)

    def set_registers(self, tid: int, registers: Sequence[int]) -> None:
        words = (linux.c_uint64 * _WORDS)(*registers)
        linux.ptrace(_SETREGS, tid, 0, linux.addressof(words))

    def register(self, tid: int, index: int) -> int:
        return linux.peeked(_PEEKUSER, tid, 8 * index)

    def set_register(self, tid: int, index: int, value: int) -> None:
        linux.ptrace(_POKEUSER, tid, 8 * index, value)

    def convention(self, registers: Sequence[int]) -> Convention:
        return self.compat if registers[_CS] == _USER32_CS else self.native

    def is_stepping(self, registers: Sequence[int]) -> bool:
        return bool(registers[_EFLAGS] & _TRAP_FLAG)

    def after_interrupt(self, registers: Sequence[int]) -> Registers:
        changed = list(registers)
        error = -self.native.signed(changed[_RAX])
        if changed[_ORIG_RAX] >> 63 or error not in (*_RESTARTED, _RESTART_BLOCK):
            return changed
        if error == _RESTART_BLOCK:
            changed[_RAX] = -_EINTR & NO_CALL
        else:  # both instructions that make a call have two bytes
            changed[_RIP], changed[_RAX] = changed[_RIP] - 2, changed[_ORIG_RAX]
        changed[_ORIG_RAX] = NO_CALL
        return changed

    def set_breakpoint(self, tid: int, address: int, convention: Convention) -> None:
        linux.ptrace(_POKEUSER, tid, _DEBUG_REGISTERS, address)
        linux.ptrace(_POKEUSER, tid, _DEBUG_CONTROL, _EXECUTE_0)

    def clear_breakpoint(self, tid: int) -> None:
        linux.ptrace(_POKEUSER, tid, _DEBUG_CONTROL, 0)
        linux.ptrace(_POKEUSER, tid, _DEBUG_REGISTERS, 0)
