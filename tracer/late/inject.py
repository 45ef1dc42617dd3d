"""Has a task of the program make a call for the tracer first, and its own call afterwards.

At the entry of a call nothing has happened yet: the task is given other registers, and the kernel makes that call.  At its exit
the task gets its registers back, and repeats the `syscall` instruction that it came by.  No signal can come in between."""

from __future__ import annotations

import errno
import os
import struct
import time
from typing import Final, Protocol

from callfence.tracer import kernel, linux
from callfence.tracer.errors import PtraceError, TracerError
from callfence.tracer.machine import MACHINE
from callfence.tracer.stops import STATUS_SECCOMP, STATUS_SYSCALL

_NATIVE = MACHINE.native
_NEVER: Final = frozenset(_NATIVE.numbers[name] for name in ("rt_sigreturn", "restart_syscall"))
"""Calls that are not a program's own, and take more than registers with them."""
_PROT_READ_WRITE, _MAP_PRIVATE_ANONYMOUS = 3, 0x22  # asm-generic/mman-common.h, linux/mman.h
_FPROG: Final = 16
"""Bytes of struct sock_fprog (linux/filter.h): the number of instructions, and where they are."""


class Stops(Protocol):
    """The source of the wait statuses of tasks."""

    def next_of(self, tid: int, flags: int = 0) -> int:
        """Return the next wait status of the task `tid`, as waitpid(2) with `flags` does (0 if there is none yet, under
        WNOHANG).  Statuses of other tasks that arrive first are handled later.

        The kernel does not report the end of a process's first thread before the ends of its other threads have been taken."""

    def put_back(self, tid: int, status: int) -> None:
        """Have a status handled later that is no stop at the injected call: an end, or another thread's execve with its tid."""


class Entry:
    """The entry of a call of the native architecture, at which a task is stopped."""

    def __init__(self, tid: int, stops: Stops) -> None:
        """Read the task's registers; `stops` gives its wait statuses.  Raises PtraceError if the task is dying."""
        self.tid = tid
        self._stops = stops
        self._registers = kernel.registers(tid)

    def is_usual(self) -> bool:
        """Return whether the task can make another call first and then repeat its own, without the program noticing."""
        size = len(_NATIVE.instruction)
        at = self._registers[_NATIVE.ip] - size
        return (
            MACHINE.convention(self._registers) is _NATIVE
            and self._registers[_NATIVE.number] not in _NEVER
            and not MACHINE.is_stepping(self._registers)
            and at % kernel.PAGE <= kernel.PAGE - size
            and kernel.read_memory(self.tid, at, size) == _NATIVE.instruction
        )

    def call(self, name: str, *arguments: int) -> int | None:
        """Have the task make the call `name`, and return its result as a signed number; None if the task has ended.  Raises
        PtraceError if the task is dying, TracerError if it is not and its registers cannot be restored."""
        changed = list(self._registers)
        changed[_NATIVE.number] = _NATIVE.numbers[name]
        for register, value in zip(_NATIVE.arguments, arguments, strict=False):
            changed[register] = value
        kernel.set_registers(self.tid, changed)
        status = STATUS_SECCOMP
        while status == STATUS_SECCOMP:  # of an earlier filter of ours
            status = self._next_stop()
        if status != STATUS_SYSCALL:
            self._stops.put_back(self.tid, status)
            return None
        result = kernel.registers(self.tid)[_NATIVE.result]
        again = MACHINE.again(self._registers)
        try:
            kernel.set_registers(self.tid, again)
        except PtraceError as error:
            if error.errno != errno.ESRCH:
                raise TracerError(f"the registers of a task cannot be restored: {error}", error.call, error.errno) from None
            kernel.set_registers(self.tid, again)
        return _NATIVE.signed(result)

    def _next_stop(self) -> int:
        """Resume the task up to its next stop, or its end, and return the wait status."""
        while not kernel.resume(linux.PTRACE_SYSCALL, self.tid):
            if status := self._stops.next_of(self.tid, os.WNOHANG):
                return status
            time.sleep(0.001)
        return self._stops.next_of(self.tid)

    def install(self, filter_: bytes, where: int, *, for_all_threads: bool) -> int | None:
        """Have the task install a filter, through `room(filter_)` bytes of its memory that were mapped at `where`.  Return the
        result of seccomp(2) (None if the task has ended), or -EFAULT if the memory cannot be written."""
        content = struct.pack("=H6xQ", len(filter_) // linux.BPF_INSTRUCTION, where + _FPROG) + filter_
        if kernel.write_memory(self.tid, where, content) != len(content):
            return -errno.EFAULT
        flags = linux.SECCOMP_FILTER_FLAG_TSYNC if for_all_threads else 0
        return self.call("seccomp", linux.SECCOMP_SET_MODE_FILTER, flags, where)

    def map(self, length: int) -> int | None:
        """Have the task map `length` bytes of memory, and return the address, or what `call` returns for a failure."""
        return self.call("mmap", 0, length, _PROT_READ_WRITE, _MAP_PRIVATE_ANONYMOUS, (1 << 64) - 1, 0)


def room(filter_: bytes) -> int:
    """Return how many bytes of the program's memory `Entry.install` needs for a filter."""
    return _FPROG + len(filter_)
