"""Make a running program perform system calls of ours instead of one that it is about to make, which it makes afterwards.

The task is at the entry of its call, in a stop of PTRACE_SYSCALL.  The kernel is given another call in its place, and then the
instruction that the program used is executed for each of ours; the program's memory is left as it is, because other threads may
run there.  Its own call has not begun, so there is nothing to restart: arguments, timeouts and masks are as they were.
"""

from __future__ import annotations

import os

from enforcer import kernel
from enforcer.arming.inject import ALL_SIGNALS, COMPAT, LONG, NO_CALL, Surgery
from enforcer.errors import ArmError
from tracer import linux

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_NO_OPERATION = 99
"""No operation of seccomp(2): the call fails with EINVAL."""
_PAGE = 4096
_READABLE_WRITABLE, _PRIVATE_ANONYMOUS, _NO_FILE = 3, 0x22, -1  # asm-generic/mman-common.h


class Detour(Surgery):
    """A task at the entry of a call; `close()` has it make the call, `finish()` has the call done."""

    def __init__(self, pid: int, audit: int, *, unmaps: bool) -> None:
        """`audit`: AUDIT_ARCH_* of the call.  Raises ArmError if it was not made by an instruction that can be used again."""
        self.pid = pid
        self._registers = kernel.get_registers(pid)
        self.convention = LONG if audit == LONG.audit else COMPAT
        self._code = self._registers[linux.RIP] - 2
        if kernel.peek(pid, self._code - 6) >> 48 != self.convention.instruction:
            raise ArmError("its call was made in an unusual way")
        self._unmaps = unmaps
        self.is_confined = False
        self._mask = kernel.swap_signal_mask(pid, ALL_SIGNALS)
        registers = self._for_call(self.convention.seccomp, _NO_OPERATION)
        registers[linux.ORIG_RAX], registers[linux.RIP] = self.convention.seccomp, self._registers[linux.RIP]
        kernel.set_registers(pid, registers)
        self._to_syscall_stop(None)

    def call_with(self, number: int, *arguments: int, data: Callable[[int], bytes]) -> int:
        """As `call`, with `data(address)` in memory of its own: the stack of a task may be small."""
        size = -(-len(data(0)) // _PAGE) * _PAGE
        address = self.call(self.convention.mmap, 0, size, _READABLE_WRITABLE, _PRIVATE_ANONYMOUS, _NO_FILE, 0)
        if -_PAGE < address < 0:
            raise OSError(-address, os.strerror(-address), "mmap")
        address &= (1 << 8 * self.convention.pointer) - 1
        memory = os.open(f"/proc/{self.pid}/mem", os.O_RDWR | os.O_CLOEXEC)
        try:
            os.pwrite(memory, data(address), address)
        finally:
            os.close(memory)
        result = self.call(number, *arguments, address)
        if self._unmaps:
            self.call(self.convention.munmap, address, size)
        return result

    def close(self) -> None:
        """Have the task make its own call next."""
        registers = list(self._registers)
        registers[linux.RIP], registers[linux.RAX] = self._code, registers[linux.ORIG_RAX]
        self._restore(registers)

    def finish(self, result: int) -> None:
        """Have the task go on as if its call had given this result."""
        registers = list(self._registers)
        registers[linux.RAX] = result
        self._restore(registers)

    def _restore(self, registers: kernel.Registers) -> None:
        registers[linux.ORIG_RAX] = NO_CALL
        kernel.set_registers(self.pid, registers)
        kernel.swap_signal_mask(self.pid, self._mask)
