"""Make a stopped process perform system calls of ours, above all seccomp(2), and restore its state afterwards.

The process is in a ptrace stop in which it is about to run its own code: the system-call-exit stop of an execve, or a
breakpoint.  An execve's *event* stop is too early: the kernel would write the execve's result over ours.
"""

from __future__ import annotations

import errno
import os
import select

from callfence.enforcer import kernel
from callfence.enforcer.bpf import ARCH, ARGUMENTS, EQUAL, JUMP, LOAD, NUMBER, RETURN, assembled
from callfence.enforcer.errors import BUSY, GoneError, HeldUpError
from callfence.tracer import TYPE_CHECKING, linux
from callfence.tracer.errors import KernelError
from callfence.tracer.machine import MACHINE
from callfence.tracer.machine.model import NO_CALL, Convention, Registers
from callfence.tracer.proc import fields_of, proc, state
from callfence.tracer.stops import CALL, ENDED, EXECUTED, GROUP, SIGNAL, Stop, stop_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from callfence.enforcer.bpf import Line

ALL_SIGNALS = 0xFFFFFFFFFFFFFFFF
"""A mask of all signals."""
_RESTART = (512, 513, 514, 516)  # ERESTARTSYS, ERESTARTNOINTR, ERESTARTNOHAND, ERESTART_RESTARTBLOCK (linux/errno.h)
_WORD = 8
"""Bytes that PTRACE_PEEKDATA and PTRACE_POKEDATA take."""
_SCRATCH_GAP = 4096  # keeps clear of the red zone below the stack pointer, 128 bytes on x86_64
_SLEEPS = 3000
"""Milliseconds after which a task that sleeps in a call of ours is killed; waiting for memory or a processor is no sleep."""


class Stops:
    """Waits for the stops and ends of all tasks that this process traces, and returns them in the order in which they come.

    A wait for one task stores the stops and ends of others for later calls of `next`: the first task of a process, for
    instance, ends only after the ends of its threads have been waited for."""

    def __init__(self, children: int = -1) -> None:
        """`children`: a descriptor that is readable when a child has stopped or ended (SIGCHLD), or -1 for no timeout."""
        self._kept: list[tuple[int, int]] = []
        self._children = children
        self._poller: select.poll | None = None

    def next(self, *, waits: bool = True) -> tuple[int, Stop]:
        """Return the next task and its stop or end; task 0 if none is there and `waits` is false.  Raises ChildProcessError."""
        task, status = self._kept.pop(0) if self._kept else os.waitpid(-1, linux.WALL | (0 if waits else os.WNOHANG))
        return task, stop_of(status)

    def of(self, pid: int) -> Stop:
        """Wait for the next stop of a running task.  Raises GoneError if the task has ended, or vanished in an execve of
        another thread, which `next` will return.  If there is a descriptor to wait with and the task sleeps for `_SLEEPS`
        milliseconds, kills it and raises HeldUpError."""
        while True:
            try:
                task, status = os.waitpid(-1, linux.WALL | (0 if self._children < 0 else os.WNOHANG))
            except ChildProcessError:
                raise GoneError from None
            if not task:
                self._wait(pid)
                continue
            stop = stop_of(status)
            if task == pid and stop.kind not in (ENDED, EXECUTED):
                return stop
            self._kept.append((task, status))
            if task == pid:
                raise GoneError(os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0)

    def _wait(self, pid: int) -> None:
        """Wait until a child has stopped or ended.  Kill a task that sleeps, which only an answer to a notification could wake,
        and raise HeldUpError."""
        if self._poller is None:
            self._poller = select.poll()
            self._poller.register(self._children, select.POLLIN)
        while not self._poller.poll(_SLEEPS):
            if state(f"{proc()}/{pid}") == "S":
                os.kill(pid, linux.SIGKILL)
                raise HeldUpError("a filter of its own notifies a listener of the calls that install the phase's filter")
        os.read(self._children, 4096)


def wait(pid: int) -> Stop:
    """Wait for the next stop of the only task that is traced, and return it.  Raises GoneError if the task has died."""
    _, status = os.waitpid(pid, linux.WALL)
    if (stop := stop_of(status)).kind == ENDED:
        raise GoneError
    return stop


def resume(request: int, pid: int, signal: int = 0) -> None:
    """Continue a stopped task by a ptrace request.  Raises GoneError if it has been killed; its end can still be waited for."""
    try:
        linux.ptrace(request, pid, 0, signal)
    except OSError as error:
        if error.errno != errno.ESRCH:
            raise
        raise GoneError from error


def go_on(request: int, pid: int, stop: Stop) -> None:
    """Continue a task from a stop that this process did not cause, as if it were not traced (ptrace(2), "Group-stop")."""
    if stop.kind == GROUP:
        resume(linux.PTRACE_LISTEN, pid)
    else:  # of the traps, SIGCONT has come
        resume(request, pid, stop.signal if stop.kind == SIGNAL else 0)


def reap(pid: int) -> None:
    """Wait until a process that is about to end, and all other processes that this one traces, have ended."""
    while True:
        try:
            task, status = os.waitpid(-1, linux.WALL)
            if task == pid and os.WIFSTOPPED(status):
                linux.ptrace(linux.PTRACE_CONT, pid)
        except ChildProcessError:
            return
        except ProcessLookupError:  # killed just now
            continue


class Surgery:
    """A stopped process whose state is saved; `close()` restores it.

    Its signals are blocked meanwhile and stay pending, so that none is delivered during a call that is not the program's.
    SIGSTOP cannot be blocked: it stops the process until SIGCONT."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._stops = Stops()
        self._registers: Registers = MACHINE.registers(pid)
        self.convention = MACHINE.convention(self._registers)
        self._mask = kernel.swap_signal_mask(pid, ALL_SIGNALS)
        # An aligned word near the instruction pointer: one at it might reach into a page that is not there.
        self._code = self._registers[self.convention.ip] & ~7
        self._word = kernel.peek(pid, self._code)
        instruction = self.convention.instruction
        changed = instruction + self._word.to_bytes(_WORD, "little")[len(instruction) :]
        kernel.poke(pid, self._code, int.from_bytes(changed, "little"))
        self.is_confined = False
        """Whether the filter has been installed."""

    def call(self, name: str, *arguments: int) -> int:
        """Make the process perform a system call, again if a stop interrupts it; return its result, or a negative errno.  Kills
        it, and raises GoneError, if it makes another call: who shares its memory can change the instruction."""
        registers = self._for_call(name, *arguments)
        while True:
            MACHINE.set_registers(self.pid, registers)
            self._to_syscall_stop()
            self._require_call(name, arguments)
            self._to_syscall_stop()
            result = self.convention.signed(MACHINE.registers(self.pid)[self.convention.result])
            if -result not in _RESTART:
                return result

    def _require_call(self, name: str, arguments: Sequence[int]) -> None:
        entered, mask = kernel.CallStop(), (1 << 8 * self.convention.pointer) - 1
        entered.read(self.pid)
        meant = self.convention.audit, self.convention.number_of(name), [value & mask for value in arguments]
        if (entered.arch, entered.number, [*entered.arguments[: len(arguments)]]) != meant:
            os.kill(self.pid, linux.SIGKILL)
            raise GoneError(linux.SIGKILL)

    def call_with(self, name: str, *arguments: int, data: Callable[[int], bytes], spare: Sequence[int] = ()) -> int:
        """Perform a call as `call` does, with `data(address)` in memory; its address is the next argument, and `spare` follows.

        The data is written below the stack pointer, where execve has mapped 128 KiB (fs/exec.c setup_arg_pages) unless the
        stack's limit is smaller.  Afterwards the former content is restored."""
        size = len(data(0))
        address = (self._registers[self.convention.sp] - _SCRATCH_GAP - size) & ~15
        before = self.write(address, data(address))
        result = self.call(name, *arguments, address, *spare)
        self.write(address, before)
        return result

    def read(self, address: int, length: int) -> bytes:
        """Return memory of the process.  Raises OSError."""
        if (memory := self._memory(os.O_RDONLY)) is None:
            words = range(address, address + length, _WORD)
            return b"".join(kernel.peek(self.pid, word).to_bytes(_WORD, "little") for word in words)[:length]
        try:
            return os.pread(memory, length, address)
        finally:
            os.close(memory)

    def write(self, address: int, content: bytes) -> bytes:
        """Write to memory of the process, even if it is read-only; return the former content, perhaps rounded up to whole
        words.  Raises OSError."""
        if (memory := self._memory(os.O_RDWR)) is None:
            words = range(address, address + len(content), _WORD)
            before = b"".join(kernel.peek(self.pid, word).to_bytes(_WORD, "little") for word in words)
            for place, word in enumerate(words):
                part = content[_WORD * place : _WORD * (place + 1)]
                rest = before[_WORD * place + len(part) : _WORD * (place + 1)]
                kernel.poke(self.pid, word, int.from_bytes(part + rest, "little"))
            return before
        try:
            before = os.pread(memory, len(content), address)
            if len(before) != len(content) or os.pwrite(memory, content, address) != len(content):
                raise OSError(errno.EFAULT, f"{len(content)} bytes of memory are not there", "pwrite")
            return before
        finally:
            os.close(memory)

    def _memory(self, mode: int) -> int | None:
        """Open the process's memory.  Return None where ptrace alone reaches it: it belongs to the user that the process has
        become, Landlock denies it, or there is no /proc of this pid namespace.  Raises OSError."""
        try:
            return os.open(f"{proc()}/{self.pid}/mem", mode | os.O_CLOEXEC)
        except (PermissionError, FileNotFoundError):
            return None

    def exit_group(self, status: int, key: Key) -> None:
        """Make the process exit with a status, or kill it if another filter than ours denies that; reap everything that is
        traced.  Raises OSError."""
        MACHINE.set_registers(self.pid, self._for_call("exit_group", status, 0, 0, *key.spare(self.convention)))
        try:
            self._to_syscall_stop()
            self._to_syscall_stop()
            os.kill(self.pid, linux.SIGKILL)  # the call has returned
        except GoneError:
            pass
        reap(self.pid)

    def close(self) -> None:
        """Restore code, registers and signal mask."""
        kernel.poke(self.pid, self._code, self._word)
        MACHINE.set_registers(self.pid, self._registers)
        kernel.swap_signal_mask(self.pid, self._mask)

    def _for_call(self, name: str, *arguments: int) -> Registers:
        registers = MACHINE.anywhere(self._registers)
        convention = self.convention
        registers[convention.selects], registers[convention.ip] = convention.number_of(name), self._code
        registers[convention.number] = NO_CALL
        for register, value in zip(convention.arguments, arguments, strict=False):
            registers[register] = value
        return registers

    def _to_syscall_stop(self) -> None:
        resume(linux.PTRACE_SYSCALL, self.pid)
        while (stop := self._stops.of(self.pid)).kind != CALL:
            go_on(linux.PTRACE_SYSCALL, self.pid, stop)


_SPARE = (3, 4, 5)
"""Arguments that seccomp(2), close_range(2) and mprotect(2) do not have."""
_DESCRIPTOR = 4
"""The argument of mmap(2) that is ignored with MAP_ANONYMOUS: the descriptor."""


class Key:
    """The secret of one start of `enforce`, by which our filters recognise and allow the calls that the helper makes in the
    program.

    A filter sees all registers of a call, including those that the call does not use.  The helper puts random words into
    these, so it can install the filter of a phase on a process whose own filter denies seccomp(2), without any notification.
    A process that can read /proc/TID/syscall of the program's stopped threads sees the words.  It gains little by them:
    filters only reduce what is allowed, the memory that can be mapped is not executable, and the program can close its
    descriptors anyway."""

    __slots__ = ("_words",)

    def __init__(self) -> None:
        self._words = [int.from_bytes(os.urandom(8), "little") for _ in _SPARE]

    def spare(self, convention: Convention) -> tuple[int, ...]:
        """Return the secret words for the last three arguments of a call that uses only three."""
        mask = (1 << 8 * convention.pointer) - 1
        return tuple(word & mask for word in self._words)

    def is_in(self, call: tuple[int, int], arguments: Sequence[int]) -> bool:
        """Return whether the program makes a call that filters take for the helper's.  `call`: AUDIT_ARCH_* and number."""
        convention = MACHINE.of(call[0])
        word = self.spare(convention)[0]
        if call[1] == convention.number_of("mmap"):
            return arguments[_DESCRIPTOR] == word
        return call[1] in (convention.number_of("seccomp"), convention.number_of("mprotect")) and arguments[_SPARE[0]] == word

    def passing(self, filter_: bytes, *, installs: bool) -> bytes:
        """Return the filter after instructions that allow the helper's close_range(2) and exit_group(2); with `installs`, also
        its calls that install the next filter."""
        lines: list[Line] = []
        for convention in MACHINE.conventions:
            arch, words = convention.audit, self.spare(convention)
            lines += [(LOAD, ARCH), (EQUAL, arch, "", f"not {arch}"), (LOAD, NUMBER)]
            lines += [(EQUAL, convention.number_of(name), f"spare {arch}", "") for name in ("close_range", "exit_group")]
            if installs:
                labels = {"seccomp": "spare", "mmap": "mmap", "mprotect": "mprotect"}
                lines += [(EQUAL, convention.number_of(name), f"{label} {arch}", "") for name, label in labels.items()]
                lines += [(JUMP, "end")]
                lines += [f"mprotect {arch}", *_equal(2, linux.PROT_READ)]
            else:
                lines.append((JUMP, "end"))
            lines.append(f"spare {arch}")
            for argument, word in zip(_SPARE, words, strict=True):
                lines += _equal(argument, word)
            lines.append((JUMP, "pass"))
            if installs:
                lines += [f"mmap {arch}", *_equal(2, linux.PROT_READ_WRITE), *_equal(3, linux.MAP_SHARED_ANONYMOUS)]
                lines += [*_equal(_DESCRIPTOR, words[0]), (JUMP, "pass")]
            lines.append(f"not {arch}")
        return assembled([*lines, (JUMP, "end"), "pass", (RETURN, linux.SECCOMP_RET_ALLOW), "end"]) + filter_


def _equal(argument: int, value: int) -> list[Line]:
    """Return instructions that jump to `end` unless an argument has the 64-bit `value`."""
    low, high = value & 0xFFFFFFFF, value >> 32
    place = ARGUMENTS + 8 * argument
    return [(LOAD, place), (EQUAL, low, "", "end"), (LOAD, place + 4), (EQUAL, high, "", "end")]


def install(surgery: Surgery, key: Key, program: bytes, pidfd: int, *, threads: bool = False, is_first: bool = False) -> int:
    """Install a filter on a stopped process; take its listener out through `pidfd`, close it in the process, and return it.

    With a `pidfd` of -1, create no listener and return -1. With `threads`, install the filter on all threads of the process.
    `is_first`: the process has no filter yet, which could fake the result of seccomp(2); otherwise the filters are counted.
    The filters of the process, and this one, must allow calls with `key` (`Key.passing`).  Raises KernelError, OSError or
    GoneError; `surgery.is_confined` tells whether the filter has been installed then."""
    flags = linux.SECCOMP_FILTER_FLAG_TSYNC | linux.SECCOMP_FILTER_FLAG_TSYNC_ESRCH if threads else 0
    convention, spare = surgery.convention, key.spare(surgery.convention)
    pointer = convention.pointer

    def data(address: int) -> bytes:  # struct sock_fprog {unsigned short len; struct sock_filter *filter}, then the filter
        length = (len(program) // 8).to_bytes(pointer, "little")
        return (length + (address + 2 * pointer).to_bytes(pointer, "little")) + program

    def load(flags: int) -> int:
        return surgery.call_with("seccomp", linux.SECCOMP_SET_MODE_FILTER, flags, data=data, spare=spare)

    before = -1 if is_first else filters(surgery.pid)
    if pidfd >= 0:
        flags |= linux.SECCOMP_FILTER_FLAG_NEW_LISTENER
        # Since Linux 5.19 signals need not interrupt a call that is being answered; before, it is notified again.
        result = load(flags | linux.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV)
        if result == -errno.EINVAL:
            result = load(flags)
        if result == -errno.EBUSY:
            raise KernelError(BUSY, "seccomp", errno.EBUSY)
    else:
        result = load(flags)
    _checked(result, "seccomp", "the kernel refused the filter")
    if before >= 0 and filters(surgery.pid) <= before:
        raise KernelError("a filter of its own prevents seccomp(2) and fakes its success", "seccomp", errno.EPERM)
    surgery.is_confined = True
    if pidfd < 0:
        return -1
    listener = kernel.pidfd_getfd(pidfd, result)
    closed = surgery.call("close_range", result, result, 0, *spare)
    _checked(closed, "close_range", "the listener could not be closed in the program")
    return listener


def filters(task: int) -> int:
    """Return how many filters a task has (proc(5), since Linux 5.9); -1 if the kernel does not report that."""
    return int(fields_of(task).get("Seccomp_filters", -1))


def _checked(result: int, call: str, what: str) -> int:
    if result < 0:
        raise KernelError(f"{what}: {os.strerror(-result)}", call, -result)
    return result
