"""The kernel's tracing interface: the one place that imports python-ptrace.

python-ptrace 0.9.9 lacks PTRACE_SEIZE and what came after it; its generic `ptrace()` passes any request, so those are
built on it here.  The two requests of the hot loop bypass it (`SyscallInfo.read`, `resume`): see the figure beside
them.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import struct
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Final

# python-ptrace finds libc by running ldconfig(8), which takes 8 ms of every start of learn; it is the one we have loaded.
_found = ModuleType("ptrace.ctypes_libc")
_found.libc = ctypes.CDLL(None, use_errno=True)  # type: ignore[attr-defined]
sys.modules.setdefault(_found.__name__, _found)

from ptrace.binding.func import PTRACE_GETEVENTMSG, ptrace, ptrace_pokeuser  # noqa: E402
from ptrace.binding.func import ptrace_getregs as _getregs  # noqa: E402
from ptrace.binding.func import ptrace_setregs as _setregs  # noqa: E402
from ptrace.error import PtraceError  # noqa: E402

from tracer.errors import TracerError  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["PtraceError"]

# linux/ptrace.h
PTRACE_PEEKDATA: Final = 2
PTRACE_POKEDATA: Final = 5
PTRACE_CONT: Final = 7
PTRACE_DETACH: Final = 17
PTRACE_SYSCALL: Final = 24
PTRACE_GETSIGINFO: Final = 0x4202
PTRACE_SEIZE: Final = 0x4206
PTRACE_INTERRUPT: Final = 0x4207
PTRACE_LISTEN: Final = 0x4208
PTRACE_SECCOMP_GET_FILTER: Final = 0x420C
PTRACE_GET_SYSCALL_INFO: Final = 0x420E

EVENT_FORK: Final = 1
EVENT_VFORK: Final = 2
EVENT_CLONE: Final = 3
EVENT_EXEC: Final = 4
EVENT_SECCOMP: Final = 7
EVENT_STOP: Final = 128

OPTION_SYSGOOD: Final = 1
OPTION_FOLLOW: Final = 1 << EVENT_FORK | 1 << EVENT_VFORK | 1 << EVENT_CLONE | 1 << EVENT_EXEC
OPTION_SECCOMP: Final = 1 << EVENT_SECCOMP
OPTION_EXITKILL: Final = 1 << 20

OFFSET_IS_ERROR: Final = 32  # struct ptrace_syscall_info, exit.is_error
OP_ENTRY: Final = 1
OP_EXIT: Final = 2
OP_SECCOMP: Final = 3

STATUS_SECCOMP: Final = EVENT_SECCOMP << 16 | signal.SIGTRAP << 8 | 0x7F
"""The wait status of a seccomp stop, as a whole: the hot loop compares nothing else."""
STATUS_SYSCALL: Final = (signal.SIGTRAP | 0x80) << 8 | 0x7F
"""The wait status of a PTRACE_SYSCALL stop under PTRACE_O_TRACESYSGOOD."""

WALL: Final = 0x40000000
"""__WALL: wait for clone children too (linux/wait.h); the os module does not name it."""

# linux/prctl.h, linux/seccomp.h
PR_SET_NO_NEW_PRIVS: Final = 38
PR_GET_SECCOMP: Final = 21
PR_SET_SECCOMP: Final = 22
SECCOMP_MODE_FILTER: Final = 2
RECORDING_DATUM: Final = 0xCA11
"""The datum of our RET_TRACE (16 bits): tells our stops from those of a filter that the program installs itself."""
RET_RECORD: Final = 0x7FF00000 | RECORDING_DATUM  # SECCOMP_RET_TRACE
"""What a recording filter returns for a call that is to stop for the tracer."""
BPF_RET_K: Final = 0x06

# struct user_regs_struct (asm/user_64.h): offsets in PTRACE_POKEUSER's area
OFFSET_RDI: Final = 14 * 8
OFFSET_RAX: Final = 10 * 8
OFFSET_ORIG_RAX: Final = 15 * 8
OFFSET_EBX: Final = 5 * 8
SYS_PTRACE: Final = 101  # asm/unistd_64.h
AT_ENTRY: Final = 9  # linux/auxvec.h
USER32_CS: Final = 0x23  # asm/segment.h: code segment of 32-bit code

_libc = ctypes.CDLL(None, use_errno=True)
_libc.prctl.argtypes = (ctypes.c_int, *[ctypes.c_ulong] * 4)

# A plain PyDLL call without errno bookkeeping: 1.3 us a request against 1.5 us through python-ptrace's wrapper
# (bench/stop.py prints both).  Holding the interpreter's lock is fine: this process has one thread.
_ptrace = ctypes.PyDLL(None).ptrace
_ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
_ptrace.restype = ctypes.c_long


INFO_SIZE: Final = 88
"""sizeof(struct ptrace_syscall_info) up to and including `seccomp.ret_data` (linux/ptrace.h, Linux 5.3)."""


class SyscallInfo:
    """A buffer for PTRACE_GET_SYSCALL_INFO, used again for every stop.

    `bytes` has op at 0 (8 bits), arch at 4 (32), instruction pointer at 8 (64), stack pointer at 16 (64), and for
    OP_ENTRY and OP_SECCOMP the number at 24 (64), the arguments at 32 (6 x 64) and OP_SECCOMP's datum at 80 (32).
    """

    __slots__ = ("_address", "_keep", "bytes")

    def __init__(self) -> None:
        self.bytes = bytearray(INFO_SIZE)
        self._keep = (ctypes.c_char * INFO_SIZE).from_buffer(self.bytes)
        self._address = ctypes.addressof(self._keep)

    def read(self, tid: int) -> bool:
        """Fill the buffer from a stopped task; False when the task is dying (ESRCH)."""
        return bool(_ptrace(PTRACE_GET_SYSCALL_INFO, tid, INFO_SIZE, self._address) > 0)


def resume(request: int, tid: int, signum: int = 0) -> bool:
    """PTRACE_CONT, _SYSCALL, _LISTEN or _DETACH a stopped task, delivering `signum`; False when it is dying (ESRCH)."""
    return bool(_ptrace(request, tid, 0, signum) != -1)


def seize(tid: int, options: int) -> None:
    """PTRACE_SEIZE.  Raises PtraceError (EPERM: not permitted or already traced; ESRCH: gone)."""
    ptrace(PTRACE_SEIZE, tid, 0, options)


def interrupt(tid: int) -> None:
    """PTRACE_INTERRUPT: a stop (EVENT_STOP) as soon as the task can take one.  Raises PtraceError."""
    ptrace(PTRACE_INTERRUPT, tid)


def event_message(tid: int) -> int:
    """PTRACE_GETEVENTMSG, 64 bits.  Raises PtraceError.

    python-ptrace's own call passes a c_int although the kernel writes an unsigned long.
    """
    message = ctypes.c_ulong()
    ptrace(PTRACE_GETEVENTMSG, tid, 0, ctypes.addressof(message))
    return message.value


def filter_length(tid: int, index: int) -> int:
    """How many instructions a filter of a stopped task has; 0 is the first installed one.  Raises PtraceError."""
    return int(ptrace(PTRACE_SECCOMP_GET_FILTER, tid, index, 0))


def filter_content(tid: int, index: int, length: int) -> bytes:
    """The instructions of that filter (struct sock_filter, 8 bytes each).  Raises PtraceError."""
    buffer = ctypes.create_string_buffer(8 * length)
    ptrace(PTRACE_SECCOMP_GET_FILTER, tid, index, ctypes.addressof(buffer))
    return buffer.raw


def sender(tid: int) -> int:
    """At a signal-delivery stop: the pid that sent the signal, 0 where it is the kernel's.  Raises PtraceError."""
    siginfo = ctypes.create_string_buffer(128)
    ptrace(PTRACE_GETSIGINFO, tid, 0, ctypes.addressof(siginfo))
    code, pid = struct.unpack_from("8xi4xi", siginfo)  # siginfo_t: si_code, and si_pid of those that somebody sent
    return int(pid) if code <= 0 else 0


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


def wait_for_signal(signals: Iterable[int], seconds: float) -> tuple[int, int, int] | None:
    """sigtimedwait(2): (signal, si_code, si_pid) of one of `signals`, which are blocked; None after `seconds`, or before.

    signal.sigtimedwait of CPython 3.11 returns what is on its stack when it is interrupted (as by SIGCONT) at its end.
    """
    wanted = (ctypes.c_uint64 * 16)(sum(1 << signum - 1 for signum in signals))  # sigset_t: 1024 bits
    siginfo = ctypes.create_string_buffer(128)
    timeout = _Timespec(int(seconds), int(seconds % 1 * 1e9))
    if _libc.sigtimedwait(wanted, siginfo, ctypes.byref(timeout)) == -1:
        return None
    signum, code, pid = struct.unpack_from("i4xi4xi", siginfo)
    return int(signum), int(code), int(pid)


def is_thread_of(tid: int, tgid: int) -> bool:
    """Whether a task belongs to a process.  Asks tgkill(2), since /proc may be another namespace's."""
    return _libc.tgkill(tgid, tid, 0) == 0 or ctypes.get_errno() != errno.ESRCH


def poke_user(tid: int, offset: int, value: int) -> None:
    """Set one 64-bit register of a stopped task.  Raises PtraceError."""
    ptrace_pokeuser(tid, offset, value)


def skip_call(tid: int, error: int = 0) -> None:
    """At a seccomp stop: have the call not run and fail with `error`, or return 0 (seccomp(2), SECCOMP_RET_TRACE)."""
    poke_user(tid, OFFSET_ORIG_RAX, (1 << 64) - 1)
    poke_user(tid, OFFSET_RAX, -error & (1 << 64) - 1)


def peek(tid: int, address: int) -> int:
    """The word (64 bits) at an address of a stopped task.  Raises PtraceError."""
    word = ctypes.c_ulong()
    # The system call stores the word through its data argument; only glibc's wrapper returns it.
    if _libc.syscall(SYS_PTRACE, PTRACE_PEEKDATA, tid, ctypes.c_void_p(address), ctypes.byref(word)) == -1:
        raise PtraceError("PTRACE_PEEKDATA", errno=ctypes.get_errno(), pid=tid)
    return word.value


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
    """Bytes within one page of a task's memory, at most PAGE; b'' where they can't be read.

    At every open of a program that shares the tracer's processor: 3 us, and 9 through /proc/PID/mem.
    """
    _here.length = _there.length = length
    _there.base = address
    return ctypes.string_at(_page, max(_vm_read(tid, *_spans), 0))


def set_breakpoint(tid: int, address: int) -> int:
    """Write an int3 at `address` and return the word that was there (64 bits).  Raises PtraceError."""
    word = peek(tid, address)
    ptrace(PTRACE_POKEDATA, tid, address, word & ~0xFF | 0xCC)
    return word


def clear_breakpoint(tid: int, address: int, word: int) -> bool:
    """If the task stands just behind the breakpoint, put `word` back and the task before it; else False."""
    registers = _getregs(tid)
    if registers.rip != address + 1:
        return False
    ptrace(PTRACE_POKEDATA, tid, address, word)
    registers.rip = address
    _setregs(tid, registers)
    return True


def entry_point(pid: int) -> int:
    """The ELF entry point of a process (AT_ENTRY of its auxiliary vector).  Raises OSError, TracerError."""
    with open(f"/proc/{pid}/auxv", "rb") as file:
        vector = file.read()
    for name, value in struct.iter_unpack("=II" if _getregs(pid).cs == USER32_CS else "=QQ", vector):
        if name == AT_ENTRY:
            return int(value)
    raise TracerError(f"process {pid} has no AT_ENTRY")


def prctl(option: int, arg2: int = 0, arg3: int = 0) -> None:
    """Raises OSError."""
    if _libc.prctl(option, arg2, arg3, 0, 0):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


RECORD_ALL: Final = struct.pack("<HBBI", BPF_RET_K, 0, 0, RET_RECORD)
"""A filter (struct sock_filter) that stops every call for the tracer."""


class _Program(ctypes.Structure):
    """struct sock_fprog (linux/filter.h)."""

    _fields_ = (("len", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def install_filter(instructions: bytes) -> None:
    """Give this process no_new_privs and a filter, an array of struct sock_filter.  Raises OSError."""
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    program = _Program(len(instructions) // 8, instructions)
    prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.addressof(program))


def execve(path: bytes, argv: Sequence[bytes], environment: Sequence[bytes]) -> int:
    """execve(2) with the bytes as they are; returns errno, since it returns only on failure.

    os.execve takes a mapping and so cannot pass on an environment with duplicates or entries without `=`.
    """
    argv_array = (ctypes.c_char_p * (len(argv) + 1))(*argv, None)
    environment_array = (ctypes.c_char_p * (len(environment) + 1))(*environment, None)
    _libc.execve(ctypes.c_char_p(path), argv_array, environment_array)
    return ctypes.get_errno() or errno.EINVAL
