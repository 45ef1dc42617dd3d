"""Make one stopped process perform a system call of ours, and leave no trace of it.

The process is in a ptrace stop in which it is about to run its own code: the system-call-exit stop of an execve, or a
breakpoint.  An execve's *event* stop is too early: the kernel would write the execve's result over ours.
"""

from __future__ import annotations

import errno
import os

from enforcer import kernel
from enforcer.errors import GoneError
from tracer import linux

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from enforcer.kernel import Registers

SYSCALL_STOP = kernel.SIGTRAP | 0x80  # PTRACE_O_TRACESYSGOOD
ALL_SIGNALS = NO_CALL = 0xFFFFFFFFFFFFFFFF
"""As a signal mask; as orig_rax: the process is in no call that the kernel would restart."""
_STOPPING = (19, 20, 21, 22)  # SIGSTOP, SIGTSTP, SIGTTIN, SIGTTOU: asm/signal.h, x86
_RESTART = (512, 513, 514, 516)  # ERESTARTSYS, ERESTARTNOINTR, ERESTARTNOHAND, ERESTART_RESTARTBLOCK (linux/errno.h)
_SCRATCH_GAP = 4096  # keeps clear of the red zone below the stack pointer, 128 bytes


class Convention:
    """How a mode of the processor makes a system call: asm/unistd_64.h, asm/unistd_32.h, syscall(2)."""

    __slots__ = ("arguments", "audit", "close", "exit_group", "instruction", "mmap", "munmap", "pointer", "seccomp")

    def __init__(
        self,
        audit: int,
        instruction: int,
        pointer: int,
        arguments: tuple[int, ...],
        *,
        seccomp: int,
        close: int,
        exit_group: int,
        mmap: int,
        munmap: int,
    ) -> None:
        self.audit = audit
        self.instruction = instruction
        """Its two bytes, little-endian."""
        self.pointer = pointer
        """Bytes in a pointer: struct sock_fprog differs."""
        self.arguments = arguments
        self.seccomp = seccomp
        self.close = close
        self.exit_group = exit_group
        self.mmap = mmap
        self.munmap = munmap


LONG = Convention(  # syscall
    linux.AUDIT_ARCH_X86_64,
    0x050F,
    8,
    (linux.RDI, linux.RSI, linux.RDX, linux.R10, linux.R8, linux.R9),
    seccomp=317,
    close=3,
    exit_group=231,
    mmap=9,
    munmap=11,
)
COMPAT = Convention(  # int 0x80
    linux.AUDIT_ARCH_I386,
    0x80CD,
    4,
    (linux.RBX, linux.RCX, linux.RDX, linux.RSI, linux.RDI, linux.RBP),
    seccomp=354,
    close=6,
    exit_group=252,
    mmap=192,  # mmap2
    munmap=91,
)


def wait(pid: int) -> int:
    """Wait for the process's next stop: its status.  GoneError if it has died."""
    while True:
        _, status = os.waitpid(pid, linux.WALL)
        if os.WIFSTOPPED(status):
            return status
        if os.WIFEXITED(status) or os.WIFSIGNALED(status):
            raise GoneError


def resume(request: int, pid: int, signal: int = 0) -> None:
    """Continue a stopped process.  GoneError if a SIGKILL was faster."""
    try:
        kernel.ptrace(request, pid, 0, signal)
    except OSError as error:
        if error.errno != errno.ESRCH:
            raise
        wait(pid)  # ptrace(2): ESRCH on a tracee means that it is dying; its status may still be to come
        raise GoneError from error


def go_on(request: int, pid: int, status: int) -> None:
    """Continue a process from a stop that we did not cause, as if it were not traced (ptrace(2), "Group-stop")."""
    signal = os.WSTOPSIG(status)
    event = status >> 16
    if event == linux.PTRACE_EVENT_STOP and signal in _STOPPING:
        resume(linux.PTRACE_LISTEN, pid)
    else:  # of the events, SIGCONT has come, or a call that a filter leaves to this process is to be run
        resume(request, pid, 0 if event else signal)


def reap(pid: int) -> None:
    """Wait until a process that is about to end has ended, and with it everything that this process traces."""
    while True:
        try:
            found, status = os.waitpid(-1, linux.WALL)
            if found == pid and os.WIFSTOPPED(status):
                kernel.ptrace(linux.PTRACE_CONT, pid)
        except ChildProcessError:
            return
        except ProcessLookupError:  # killed just now
            continue


class Surgery:
    """A stopped process whose state is saved; `close()` restores it.

    Its signals are blocked meanwhile and stay pending, so that none is delivered during a call that is not the program's.
    SIGSTOP cannot be blocked: it stops the process until SIGCONT.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._registers: Registers = kernel.get_registers(pid)
        self.convention = COMPAT if self._registers[linux.CS] == linux.USER32_CS else LONG
        self._mask = kernel.swap_signal_mask(pid, ALL_SIGNALS)
        # An aligned word near the instruction pointer: one at it might reach into a page that is not there.
        self._code = self._registers[linux.RIP] & ~7
        self._word = kernel.peek(pid, self._code)
        kernel.poke(pid, self._code, self._word & ~0xFFFF | self.convention.instruction)
        self.is_confined = False
        """Whether a filter judges its calls already."""

    def call(self, number: int, *arguments: int, waiting: Callable[[], None] | None = None) -> int:
        """Perform a system call and return its result, a negative errno included.  Repeat it if a stop interrupted it.

        `waiting` is called again and again while the kernel works on the call.
        """
        registers = self._for_call(number, *arguments)
        while True:
            kernel.set_registers(self.pid, registers)
            self._to_syscall_stop(None)
            self._to_syscall_stop(waiting)
            result = kernel.get_registers(self.pid)[linux.RAX]
            bits = 8 * self.convention.pointer
            result &= (1 << bits) - 1
            result -= result >> (bits - 1) << bits
            if -result not in _RESTART:
                return result

    def call_with(self, number: int, *arguments: int, data: Callable[[int], bytes]) -> int:
        """As `call`, with `data(address)` in memory and its address as the last argument.

        It is written below the stack pointer, where execve has mapped 128 KiB (fs/exec.c setup_arg_pages) unless the
        stack's limit is smaller.  The former content is restored.
        """
        size = len(data(0))
        address = (self._registers[linux.RSP] - _SCRATCH_GAP - size) & ~15
        memory = os.open(f"/proc/{self.pid}/mem", os.O_RDWR | os.O_CLOEXEC)
        try:
            before = os.pread(memory, size, address)
            if len(before) != size or os.pwrite(memory, data(address), address) != size:
                raise OSError(errno.EFAULT, f"{size} bytes below the stack pointer are not there", "stack")
            result = self.call(number, *arguments, address)
            os.pwrite(memory, before, address)
        finally:
            os.close(memory)
        return result

    def exit_group(self, status: int) -> None:
        """End the process as if it had exited by itself, and reap everything that is traced.  Raises OSError, GoneError."""
        kernel.set_registers(self.pid, self._for_call(self.convention.exit_group, status))
        resume(linux.PTRACE_CONT, self.pid)
        reap(self.pid)

    def close(self) -> None:
        """Restore code, registers and signal mask."""
        kernel.poke(self.pid, self._code, self._word)
        kernel.set_registers(self.pid, self._registers)
        kernel.swap_signal_mask(self.pid, self._mask)

    def _for_call(self, number: int, *arguments: int) -> Registers:
        registers = list(self._registers)
        registers[linux.RAX], registers[linux.RIP] = number, self._code
        registers[linux.ORIG_RAX] = NO_CALL
        for register, value in zip(self.convention.arguments, arguments, strict=False):
            registers[register] = value
        return registers

    def _to_syscall_stop(self, waiting: Callable[[], None] | None) -> None:
        resume(linux.PTRACE_SYSCALL, self.pid)
        while True:
            pid, status = os.waitpid(self.pid, linux.WALL | (os.WNOHANG if waiting else 0))
            if waiting and pid == 0:
                waiting()
                continue
            if not os.WIFSTOPPED(status):
                raise GoneError
            if os.WSTOPSIG(status) == SYSCALL_STOP:
                return
            go_on(linux.PTRACE_SYSCALL, self.pid, status)
