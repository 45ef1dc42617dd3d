"""The kernel's tracing interface: the only file that imports python-ptrace.

python-ptrace 0.9.9 lacks PTRACE_SEIZE and later requests.  Its generic `ptrace()` passes any request, so they are
built on it here.  The two requests of the hot loop bypass it (`SyscallInfo.read`, `resume`), for the figure given there.

Functions about a stopped task raise PtraceError if it is dying, unless they say otherwise.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Final


class _RequestError(Exception):
    def __init__(self, message: str, errno: int | None = None, pid: int | None = None) -> None:
        super().__init__(message)
        self.errno = errno


def _instead(name: str, **content: object) -> None:
    """Register a module with a name and these attributes for python-ptrace to import, unless that module is loaded."""
    module = ModuleType(name)
    vars(module).update(content)
    sys.modules.setdefault(name, module)


# python-ptrace finds libc by running ldconfig(8), which takes 8 ms of every start of learn; libc is loaded already.
_instead("ptrace.ctypes_libc", libc=ctypes.CDLL(None, use_errno=True))
_instead("ptrace.error", PtraceError=_RequestError)  # with its own comes logging, which takes another 8 ms

from ptrace import error as ptrace_error  # noqa: E402
from ptrace.binding import func  # noqa: E402

from callfence.tracer import linux  # noqa: E402
from callfence.tracer.abi import Event  # noqa: E402
from callfence.tracer.errors import PtraceError, TracerError  # noqa: E402
from callfence.tracer.machine import MACHINE  # noqa: E402
from callfence.tracer.machine.model import NO_CALL  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any, TypeVar

    from callfence.tracer.machine.model import Registers

    _Result = TypeVar("_Result")

OPTION_FOLLOW: Final = (
    linux.PTRACE_O_TRACEFORK | linux.PTRACE_O_TRACEVFORK | linux.PTRACE_O_TRACECLONE | linux.PTRACE_O_TRACEEXEC
)
RECORDING_DATUM: Final = 0xCA11
"""The datum of our RET_TRACE, 16 bits: the stops of a filter that the program installs itself have another."""
RET_RECORD: Final = linux.SECCOMP_RET_TRACE | RECORDING_DATUM
"""The return value of a recording filter for a call that must stop for the tracer."""
WATCHING_DATUM: Final = 0xCA12
RET_WATCH: Final = linux.SECCOMP_RET_TRACE | WATCHING_DATUM
"""The same for a call that is allowed, and so not counted: it stops for the handlers alone."""
KCMP_VM: Final = 1  # linux/kcmp.h

_libc = ctypes.CDLL(None, use_errno=True)

# A plain PyDLL call without errno bookkeeping: 1.3 us a request against 1.5 us through python-ptrace's wrapper
# (bench/stop.py prints both).  Holding the interpreter's lock is fine: this process has one thread.
_ptrace = ctypes.PyDLL(None).ptrace
_ptrace_errno = ctypes.PyDLL(None, use_errno=True).ptrace
for _function in (_ptrace, _ptrace_errno):
    _function.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
    _function.restype = ctypes.c_long


class SyscallInfo:
    """A buffer for PTRACE_GET_SYSCALL_INFO, reused at every stop.  `bytes` is a struct ptrace_syscall_info up to and including
    `seccomp.ret_data` (Linux 5.3)."""

    __slots__ = ("_address", "_keep", "bytes")

    def __init__(self) -> None:
        self.bytes = bytearray(linux.INFO_SIZE)
        self._keep = (ctypes.c_char * linux.INFO_SIZE).from_buffer(self.bytes)
        self._address = ctypes.addressof(self._keep)

    def read(self, tid: int) -> bool:
        """Fill the buffer for a stopped task, and return whether that succeeded.  After a failure, `read_again` reports the
        reason."""
        return bool(_ptrace(linux.PTRACE_GET_SYSCALL_INFO, tid, linux.INFO_SIZE, self._address) > 0)

    def read_again(self, tid: int) -> bool:
        """Fill the buffer after `read` has failed; return False if the task is dying (ESRCH).  Raises PtraceError for another
        errno."""
        return _again(linux.PTRACE_GET_SYSCALL_INFO, tid, linux.INFO_SIZE, self._address, passing=(errno.ESRCH,))


def resume(request: int, tid: int, signum: int = 0) -> bool:
    """Resume a stopped task by `request` (PTRACE_CONT, _SYSCALL, _LISTEN or _DETACH) and deliver the signal `signum` to it (0:
    none).  Return False if the task is dying (ESRCH; EIO from PTRACE_LISTEN).  Raises PtraceError for another errno."""
    return bool(_ptrace(request, tid, 0, signum) != -1) or _again(request, tid, 0, signum, passing=(errno.ESRCH, errno.EIO))


def _again(request: int, tid: int, address: int, data: int, *, passing: tuple[int, ...]) -> bool:
    """Repeat a request that failed, to get its errno.  Return True if it succeeds now, False for an errno in `passing`.  Raises
    PtraceError for another errno."""
    if _ptrace_errno(request, tid, address, data) != -1:
        return True
    if (number := ctypes.get_errno()) in passing:
        return False
    raise PtraceError(f"ptrace request {request:#x}: {os.strerror(number)}", "ptrace", number)


def _asked(request: Callable[..., _Result], *arguments: Any) -> _Result:
    """Call a function of python-ptrace, or one that raises OSError, and return its result.  Raises `tracer.errors.PtraceError`
    with the errno instead."""
    try:
        return request(*arguments)
    except (ptrace_error.PtraceError, OSError) as error:
        raise PtraceError(str(error), "ptrace", error.errno or errno.EIO) from None


def _ask(request: int, tid: int, data: int) -> None:
    """Make a ptrace request without python-ptrace, which is faster; `data` is its last argument.  Raises PtraceError if the
    request fails."""
    if _ptrace_errno(request, tid, 0, data) == -1:
        raise PtraceError(f"ptrace request {request:#x}", "ptrace", ctypes.get_errno())


def seize(tid: int, options: int) -> None:
    """Attach to a task by PTRACE_SEIZE with the PTRACE_O_* `options`.  Raises PtraceError if that fails (EPERM: not permitted,
    or already traced; ESRCH: no such task)."""
    _asked(func.ptrace, linux.PTRACE_SEIZE, tid, 0, options)


def interrupt(tid: int) -> None:
    """Request a stop (PTRACE_EVENT_STOP) of a seized task by PTRACE_INTERRUPT; it comes as soon as the task can stop."""
    _asked(func.ptrace, linux.PTRACE_INTERRUPT, tid)


_answer = bytearray(128)
_kept_answer = (ctypes.c_char * len(_answer)).from_buffer(_answer)
_answer_at = ctypes.addressof(_kept_answer)
_word = struct.Struct("=Q")


def event_message(tid: int) -> int:
    """Return the 64-bit message of a task's ptrace event (PTRACE_GETEVENTMSG), such as the tid of a new task."""
    _ask(linux.PTRACE_GETEVENTMSG, tid, _answer_at)
    return int(_word.unpack_from(_answer)[0])


def filter_length(tid: int, index: int) -> int:
    """Return the number of instructions in a seccomp filter of a stopped task; `index` 0 is the filter that was installed
    first.  Raises PtraceError if the task has no such filter (ENOENT; EINVAL if it has none at all), or filters may not be
    read."""
    return int(_asked(func.ptrace, linux.PTRACE_SECCOMP_GET_FILTER, tid, index, 0))


def filter_content(tid: int, index: int, length: int) -> bytes:
    """Return the instructions of a seccomp filter of a stopped task (struct sock_filter, 8 bytes each).  `index` is that of
    `filter_length`, and `length` its result.  Raises PtraceError as `filter_length` does."""
    buffer = ctypes.create_string_buffer(8 * length)
    _asked(func.ptrace, linux.PTRACE_SECCOMP_GET_FILTER, tid, index, ctypes.addressof(buffer))
    return buffer.raw


_siginfo = struct.Struct("8xi4xi")  # siginfo_t: si_code, and si_pid if a process sent it; 128 bytes in all


def sender(tid: int) -> int:
    """Return the pid that sent the signal of a signal-delivery stop; 0 if the kernel sent it."""
    _ask(linux.PTRACE_GETSIGINFO, tid, _answer_at)
    code, pid = _siginfo.unpack_from(_answer)
    return int(pid) if code <= 0 else 0


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


def wait_for_signal(signals: Iterable[int], seconds: float) -> tuple[int, int, int] | None:
    """Wait by sigtimedwait(2) for one of `signals`, which must be blocked, and return (signal, si_code, si_pid).  Return None
    if none came within `seconds`, or another signal interrupted the wait.

    signal.sigtimedwait of CPython 3.11 returns uninitialised memory when a signal such as SIGCONT interrupts it at the end of
    the time."""
    wanted = (ctypes.c_uint64 * 16)(sum(1 << signum - 1 for signum in signals))  # sigset_t: 1024 bits
    siginfo = ctypes.create_string_buffer(128)
    timeout = _Timespec(int(seconds), int(seconds % 1 * 1e9))
    if _libc.sigtimedwait(wanted, siginfo, ctypes.byref(timeout)) == -1:
        return None
    signum, code, pid = struct.unpack_from("i4xi4xi", siginfo)
    return int(signum), int(code), int(pid)


def is_thread_of(tid: int, tgid: int) -> bool:
    """Return whether the task `tid` belongs to the process `tgid`.  tgkill(2) reports it, so no /proc of this pid namespace is
    needed; musl has no function for it."""
    return MACHINE.syscall("tgkill", tgid, tid, 0) == 0 or linux.get_errno() != errno.ESRCH


def callers(tid: int) -> tuple[int, int]:
    """Return the frame pointer of a stopped task, and its link register, in which the return address may be; 0 for what is
    missing, or if the task is dying."""
    native = MACHINE.native
    try:
        if native.link < 0:
            return MACHINE.register(tid, native.frame), 0
        values = MACHINE.registers(tid)
        return values[native.frame], values[native.link]
    except OSError:
        return 0, 0


def skip_call(tid: int, error: int = 0) -> None:
    """At a seccomp stop: prevent the call from running, and have it return -`error` (seccomp(2), SECCOMP_RET_TRACE)."""
    values = registers(tid)
    convention = MACHINE.convention(values)
    values[convention.number] = NO_CALL
    values[convention.result] = -error & (1 << 64) - 1
    set_registers(tid, values)


def peek(tid: int, address: int) -> int:
    """Return the word (64 bits) at an address of a stopped task.  Raises PtraceError if it cannot be read."""
    return _asked(linux.peeked, linux.PTRACE_PEEKDATA, tid, address)


class _Span(ctypes.Structure):
    """struct iovec (linux/uio.h)."""

    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


PAGE: Final = 4096
_page = ctypes.create_string_buffer(PAGE)
_here, _there = _Span(ctypes.addressof(_page), 0), _Span(None, 0)
_vm_read = ctypes.PyDLL(None).process_vm_readv
_vm_read.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_ulong, ctypes.c_void_p, ctypes.c_ulong, ctypes.c_ulong)
_vm_read.restype = ctypes.c_ssize_t
_spans: Final = (ctypes.addressof(_here), 1, ctypes.addressof(_there), 1, 0)


def read_memory(tid: int, address: int, length: int) -> bytes:
    """Return `length` bytes of a task's memory; b'' if they cannot be read.  `length` is at most PAGE, and the range must lie
    within one page.

    Called at every open of a program that shares the tracer's processor: it takes 3 us, /proc/PID/mem takes 9."""
    _here.length = _there.length = length
    _there.base = address
    return ctypes.string_at(_page, max(_vm_read(tid, *_spans), 0))


def read_path(tid: int, address: int) -> bytes:
    """Return the path at an address of a task; b'' if it cannot be read or is longer than 4 KiB, so that the call fails."""
    room = PAGE - address % PAGE
    text = read_memory(tid, address, room)
    if len(text) == room and b"\0" not in text:
        text += read_memory(tid, address + room, PAGE)
    path, end, _ = text.partition(b"\0")
    return path if end else b""


_vm_write = ctypes.PyDLL(None).process_vm_writev
_vm_write.argtypes, _vm_write.restype = _vm_read.argtypes, _vm_read.restype


def write_memory(tid: int, address: int, content: bytes) -> int:
    """Write to a task's memory, and return the number of bytes that were written: 0 if that failed."""
    buffer = ctypes.create_string_buffer(content, len(content))
    here, there = _Span(ctypes.addressof(buffer), len(content)), _Span(address, len(content))
    return max(int(_vm_write(tid, ctypes.addressof(here), 1, ctypes.addressof(there), 1, 0)), 0)


def registers(tid: int) -> Registers:
    """Return the registers of a stopped task."""
    return _asked(MACHINE.registers, tid)


def set_registers(tid: int, values: Sequence[int]) -> None:
    """Set all registers of a stopped task, in the order of `registers`.  Raises PtraceError also for a wrong value."""
    _asked(MACHINE.set_registers, tid, values)


def set_register(tid: int, index: int, value: int) -> None:
    """Set one register of a stopped task, 64 bits."""
    _asked(MACHINE.set_register, tid, index, value)


def share_memory(first: int, second: int) -> bool:
    """Return whether two processes share their memory (kcmp(2)).  True, to be safe, if the kernel does not report it."""
    return bool(MACHINE.syscall("kcmp", first, second, KCMP_VM, 0, 0) <= 0)


class EntryPoint:
    """A breakpoint at the entry point of a process's program, where it begins after the dynamic loader."""

    def __init__(self, pid: int) -> None:
        """Write the breakpoint into a process that is stopped in its execve.  Raises OSError and PtraceError, and TracerError
        if the process has no entry point."""
        convention = MACHINE.convention(registers(pid))
        address = linux.entry_point(f"/proc/{pid}", convention.pointer)
        if address is None:
            raise TracerError(f"process {pid} has no AT_ENTRY")
        self._address, mode = MACHINE.target(convention, address)
        self._word = peek(pid, self._address)
        changed = mode.breakpoint + self._word.to_bytes(8, "little")[len(mode.breakpoint) :]
        self._stopped = self._address + len(mode.breakpoint) * mode.is_past
        """The instruction pointer at the stop."""
        _asked(linux.ptrace, linux.PTRACE_POKEDATA, pid, self._address, int.from_bytes(changed, "little"))

    def remove_if_reached(self, tid: int) -> bool:
        """At the stop of a SIGTRAP: return whether this breakpoint caused it.  If so, the breakpoint is removed, and the caller
        must not deliver the signal.  False, too, if the task is dying."""
        try:
            values = registers(tid)
            at = MACHINE.convention(values).ip
            if values[at] != self._stopped:
                return False
            _asked(linux.ptrace, linux.PTRACE_POKEDATA, tid, self._address, self._word)
            values[at] = self._address
            set_registers(tid, values)
        except PtraceError:
            return False
        return True


RECORD_ALL: Final = struct.pack("<HBBI", linux.BPF_RET_K, 0, 0, RET_RECORD)
"""A filter (struct sock_filter) that stops every call for the tracer."""


def install_filter(instructions: bytes) -> None:
    """Set no_new_privs in this process, and install a filter, an array of struct sock_filter.  Raises OSError."""
    linux.checked(linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1), "prctl")
    program = linux.byref(linux.FilterProgram.of(instructions))
    linux.checked(linux.prctl(linux.PR_SET_SECCOMP, linux.SECCOMP_MODE_FILTER, program), "prctl(PR_SET_SECCOMP)")


def execve(path: bytes, argv: Sequence[bytes], environment: Sequence[bytes]) -> int:
    """Execute a file by execve(2) with exactly these arguments and `NAME=value` strings.  Return the errno if that fails;
    otherwise this does not return.

    os.execve takes a mapping, so it cannot pass an environment with duplicates or entries without `=`."""
    linux.functions.execve(path, linux.strings(argv), linux.strings(environment))
    return linux.get_errno() or errno.EINVAL


_EVENT = struct.Struct("<4xIQ8xQ6Q")  # struct ptrace_syscall_info: arch, instruction pointer, number, arguments


def event_of(info: bytearray, tid: int) -> Event:
    """Return the call in a struct ptrace_syscall_info of an entry or seccomp stop.  A call of 32 bits has as many of each
    register: code of 64 bits may leave others there (int 0x80)."""
    arch, ip, number, *arguments = _EVENT.unpack_from(info)
    if arch == MACHINE.compat.audit:
        arguments = [value & 0xFFFFFFFF for value in arguments]
    return Event(arch, number & 0xFFFFFFFF, (*arguments,), ip, tid)
