"""Make a running program perform system calls of ours before a call that it is about to make.

The task is at the entry of its call, in a stop of PTRACE_SYSCALL.  The kernel is given another call in its place, and then the
instruction that the program used is executed for each of ours; the program's memory is left as it is, because other threads may
run there.  Its own call has not begun, so there is nothing to restart: arguments, timeouts and masks are as they were.
"""

from __future__ import annotations

import os

from callfence.enforcer import kernel
from callfence.enforcer.arming.inject import ALL_SIGNALS, Key, Stops, Surgery, go_on, resume
from callfence.enforcer.bpf import Filter
from callfence.enforcer.errors import ArmError
from callfence.tracer import TYPE_CHECKING, linux
from callfence.tracer.machine import MACHINE
from callfence.tracer.machine.model import NO_CALL, Registers
from callfence.tracer.stops import CALL, GROUP

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


_NO_DESCRIPTOR = 0xFFFFFFFF
"""For close_range(2): a range of descriptors that no table has, so the call does nothing."""
_PAGE = os.sysconf("SC_PAGE_SIZE")
_WORD = 8
_ALL = (1 << 64) - 1


class Detour(Surgery):
    """A task that is stopped at the entry of a call and performs calls of ours; then `close()` makes it perform its own call,
    or `finish()` makes that call return a result."""

    def __init__(self, pid: int, audit: int, key: Key, stops: Stops, *, calls: bool = True) -> None:
        """`audit`: AUDIT_ARCH_* of the call; `key`: the secret by which the task's filters recognise our calls.

        With `calls`, raises ArmError if the instruction of the program's call cannot be used again, and OSError if the memory
        cannot be read; the task is unchanged then.  Without `calls`, only `finish` can be used.  Raises GoneError."""
        self.pid = pid
        self._stops = stops
        self._key = key
        self._was_stopped = False
        self.mapped = 0, 0
        """Address and size of the memory of `call_with`."""
        self._registers = MACHINE.registers(pid)
        self.convention = convention = MACHINE.of_call(audit, self._registers)
        after, instruction = self._registers[convention.ip], convention.instruction
        self._code = after - len(instruction)
        if calls and not kernel.peek(pid, after - _WORD).to_bytes(_WORD, "little").endswith(instruction):
            raise ArmError("it made its call by an unusual instruction")
        self.is_confined = False
        self._mask = kernel.swap_signal_mask(pid, ALL_SIGNALS)
        registers = self._for_call("close_range", _NO_DESCRIPTOR, _NO_DESCRIPTOR, 0, *key.spare(self.convention))
        registers[convention.number], registers[convention.ip] = registers[convention.selects], after
        MACHINE.set_registers(pid, registers)
        self._to_syscall_stop()

    def call_with(self, name: str, *arguments: int, data: Callable[[int], bytes], spare: Sequence[int] = ()) -> int:
        """Perform a call as `call` does, with `data(address)` in newly mapped memory, since the stack of a task may be small;
        the memory's address is the next argument, and `spare` follows.

        No process can write to the memory during the call: a shared read-only mapping cannot be written through /proc/PID/mem
        either.  No other task may be in a call that changes what is mapped.  `unmap` unmaps it."""
        size = -(-len(data(0)) // _PAGE) * _PAGE
        word = self._key.spare(self.convention)[0]
        address = self.call("mmap", 0, size, linux.PROT_READ_WRITE, linux.MAP_SHARED_ANONYMOUS, word, 0)
        if -_PAGE < address < 0:
            raise OSError(-address, os.strerror(-address), "mmap")
        address &= (1 << 8 * self.convention.pointer) - 1
        self.mapped = address, size
        content = data(address)
        self.write(address, content)
        result = self.call("mprotect", address, size, linux.PROT_READ, *self._key.spare(self.convention))
        if result or self.read(address, len(content)) != content:
            raise ArmError("the memory of the filter could not be protected from changes")
        result, was_confined = self.call(name, *arguments, address, *spare), self.is_confined
        self.is_confined = True  # perhaps by another filter
        if self.read(address, len(content)) != content:
            raise ArmError("the memory of the filter was changed while the kernel read it")
        self.is_confined = was_confined
        return result

    def unmap(self, filter_: bytes) -> None:
        """Unmap the memory of `call_with`, if there is any and `filter_` allows the munmap."""
        number = self.convention.number_of("munmap")
        if self.mapped[1] and Filter(filter_).allows(self.convention.audit, number, 0, (*self.mapped, 0, 0, 0, 0)):
            self.call("munmap", *self.mapped)

    def close(self) -> None:
        """Make the task perform its own call when it is resumed."""
        self._restore(MACHINE.again(self._registers))

    def finish(self, result: int) -> None:
        """Make the task go on as if its call had returned `result`, which may be a negative errno."""
        registers = list(self._registers)
        registers[self.convention.result] = result & _ALL
        registers[self.convention.number] = NO_CALL
        self._restore(registers)

    def _restore(self, registers: Registers) -> None:
        MACHINE.set_registers(self.pid, registers)
        kernel.swap_signal_mask(self.pid, self._mask)
        if self._was_stopped:
            linux.ptrace(linux.PTRACE_INTERRUPT, self.pid)  # it stops again, if the stop of its process lasts

    def _to_syscall_stop(self) -> None:
        """Resume the task until the next entry or exit of a call, even if its process is stopped by a signal."""
        resume(linux.PTRACE_SYSCALL, self.pid)
        while (stop := self._stops.of(self.pid)).kind != CALL:
            if stop.kind == GROUP:
                self._was_stopped = True
                resume(linux.PTRACE_SYSCALL, self.pid)
            else:
                go_on(linux.PTRACE_SYSCALL, self.pid, stop)
