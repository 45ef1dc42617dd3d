"""The kernel's constants that more than one file needs, by the names of its headers, small functions that read kernel data,
and the functions of libc that Python does not wrap, for `learn` and `enforce`.

The C types are from `_ctypes`, the module in C that ctypes is made of, since importing ctypes takes 2 ms of each start of
`enforce`.  Constants that only one file needs are defined in that file.
"""

from __future__ import annotations

import os
import stat

from callfence.tracer import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from ctypes import (
        CDLL,
        Array,
        Structure as Structure,
        addressof as addressof,
        byref as byref,
        c_char as c_char,
        c_char_p as c_char_p,
        c_int as c_int,
        c_int32 as c_int32,
        c_int64 as c_int64,
        c_long as c_long,
        c_size_t as c_size_t,
        c_uint8 as c_uint8,
        c_uint32 as c_uint32,
        c_uint64 as c_uint64,
        c_ulong as c_ulong,
        c_ushort as c_ushort,
        c_void_p as c_void_p,
        get_errno as get_errno,
        pythonapi as pythonapi,
        set_errno as set_errno,
        sizeof as sizeof,
    )

    functions = CDLL(None, use_errno=True)
else:
    from _ctypes import (
        FUNCFLAG_CDECL,
        FUNCFLAG_PYTHONAPI,
        FUNCFLAG_USE_ERRNO,
        CFuncPtr,
        Structure as Structure,
        _SimpleCData,
        addressof as addressof,
        byref as byref,
        dlopen,
        get_errno as get_errno,
        set_errno as set_errno,
        sizeof as sizeof,
    )

    def _simple(code):
        """Return the ctypes type of a C value by its format letter: as struct has, `P` for a pointer, `z` for a string."""
        return type(_SimpleCData)(f"c_{code}", (_SimpleCData,), {"_type_": code})

    c_char, c_char_p, c_void_p = map(_simple, "czP")
    c_int, c_long, c_ulong, c_ushort, c_uint8, c_uint32 = map(_simple, "ilLHBI")
    c_int32, c_int64, c_uint64, c_size_t = c_int, c_long, c_ulong, c_ulong

    class _Functions:
        """The C functions that this process has loaded, as attributes; each returns an int unless its `restype` is set."""

        def __init__(self, flags):
            self._handle = dlopen(None, 0)
            self._type = type(CFuncPtr)("Function", (CFuncPtr,), {"_flags_": flags, "_restype_": c_int})

        def __getattr__(self, name):
            function = self._type((name, self))
            setattr(self, name, function)
            return function

    functions = _Functions(FUNCFLAG_CDECL | FUNCFLAG_USE_ERRNO)
    pythonapi = _Functions(FUNCFLAG_CDECL | FUNCFLAG_PYTHONAPI)

# linux/ptrace.h: requests
PTRACE_PEEKDATA, PTRACE_POKEDATA = 2, 5
PTRACE_CONT, PTRACE_DETACH, PTRACE_SYSCALL = 7, 17, 24
PTRACE_GETEVENTMSG, PTRACE_GETSIGINFO = 0x4201, 0x4202
PTRACE_SETOPTIONS = 0x4200
PTRACE_SEIZE, PTRACE_INTERRUPT, PTRACE_LISTEN = 0x4206, 0x4207, 0x4208
PTRACE_GETSIGMASK, PTRACE_SETSIGMASK = 0x420A, 0x420B
PTRACE_SECCOMP_GET_FILTER, PTRACE_GET_SYSCALL_INFO = 0x420C, 0x420E

# linux/ptrace.h: events, in bits 16 to 23 of a wait status
PTRACE_EVENT_FORK, PTRACE_EVENT_VFORK, PTRACE_EVENT_CLONE, PTRACE_EVENT_EXEC = 1, 2, 3, 4
PTRACE_EVENT_SECCOMP, PTRACE_EVENT_STOP = 7, 128

# linux/ptrace.h: options
PTRACE_O_TRACESYSGOOD, PTRACE_O_TRACEFORK, PTRACE_O_TRACEVFORK, PTRACE_O_TRACECLONE = 1 << 0, 1 << 1, 1 << 2, 1 << 3
PTRACE_O_TRACEEXEC, PTRACE_O_TRACESECCOMP, PTRACE_O_EXITKILL = 1 << 4, 1 << 7, 1 << 20

# linux/ptrace.h: struct ptrace_syscall_info, `op`, and bytes
PTRACE_SYSCALL_INFO_ENTRY, PTRACE_SYSCALL_INFO_EXIT, PTRACE_SYSCALL_INFO_SECCOMP = 1, 2, 3
INFO_IS_ERROR = 32
"""The offset in bytes of `exit.is_error`, in the info of a syscall-exit stop."""
INFO_SIZE = 88

# linux/wait.h
WALL = 0x40000000
"""__WALL: wait for children that send no SIGCHLD too."""

# linux/seccomp.h
SECCOMP_SET_MODE_STRICT, SECCOMP_SET_MODE_FILTER, SECCOMP_GET_ACTION_AVAIL = 0, 1, 2
SECCOMP_MODE_FILTER = 2
"""For PR_SET_SECCOMP."""
SECCOMP_FILTER_FLAG_TSYNC = 1 << 0
SECCOMP_FILTER_FLAG_NEW_LISTENER, SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV = 1 << 3, 1 << 5
SECCOMP_FILTER_FLAG_TSYNC_ESRCH = 1 << 4
SECCOMP_RET_KILL_PROCESS, SECCOMP_RET_KILL_THREAD = 0x80000000, 0x00000000
SECCOMP_RET_TRAP, SECCOMP_RET_ERRNO, SECCOMP_RET_USER_NOTIF = 0x00030000, 0x00050000, 0x7FC00000
SECCOMP_RET_TRACE, SECCOMP_RET_LOG, SECCOMP_RET_ALLOW = 0x7FF00000, 0x7FFC0000, 0x7FFF0000
SECCOMP_RET_ACTION_FULL, SECCOMP_RET_DATA = 0xFFFF0000, 0x0000FFFF

# linux/filter.h, linux/bpf_common.h: struct sock_filter {u16 code; u8 jt, jf; u32 k}
BPF_INSTRUCTION = 8
"""The size of an instruction in bytes."""
BPF_MAXINSNS = 4096
BPF_RET_K, BPF_JA = 0x06, 0x05  # BPF_RET | BPF_K, BPF_JMP | BPF_JA

# linux/prctl.h
PR_SET_DUMPABLE, PR_SET_NAME, PR_GET_SECCOMP, PR_SET_SECCOMP = 4, 15, 21, 22
PR_GET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 37, 38
PR_SET_PTRACER = 0x59616D61
CALLFENCE_ENTER = 0x43464E54
"""A prctl operation that the kernel does not have: a program calls it to enter a phase (include/callfence.h)."""

# elf.h: the kinds of segments
PT_LOAD, PT_INTERP, PT_NOTE, PT_GNU_EH_FRAME = 1, 3, 4, 0x6474E550
_MAX_SEGMENTS = 1170
"""The most segments of a program that the kernel reads: 64 KiB of headers (fs/binfmt_elf.c, load_elf_phdrs)."""

# asm/signal.h, x86
SIGINT, SIGKILL, SIGPIPE, SIGCHLD, SIGCONT, SIGSTOP, SIGXFSZ, SIGSYS = 2, 9, 13, 17, 18, 19, 25, 31
SIG_DFL, SIG_IGN = 0, 1

# asm-generic/mman-common.h, linux/mman.h
PROT_READ, PROT_READ_WRITE, MAP_SHARED_ANONYMOUS = 1, 3, 0x21

# linux/sched.h
CLONE_VM, CLONE_FILES, CLONE_THREAD, CLONE_UNTRACED = 0x100, 0x400, 0x10000, 0x800000

# asm-generic/socket.h; linux/socket.h, linux/in.h
SOL_SOCKET, SO_TYPE, SO_PROTOCOL, SO_DOMAIN = 1, 3, 38, 39
AF_UNIX, IPPROTO_TCP = 1, 6
SOCKADDR = 128
"""The size of struct sockaddr_storage, in bytes."""
MSG_FASTOPEN = 0x20000000
"""A flag with which sendto(2) and its kin connect."""
TCP_PROTOCOLS = (262, 256)
"""IPPROTO_MPTCP, IPPROTO_SMC: sockets that become TCP."""
TCP_FAMILIES = (43, 21)
"""AF_SMC, whose sockets become TCP, and AF_RDS, for which the kernel connects by TCP."""
FAST_OPEN_ERROR, PROTOCOL_ERROR, FAMILY_ERROR = 95, 93, 97  # EOPNOTSUPP, EPROTONOSUPPORT, EAFNOSUPPORT: asm-generic/errno.h
"""The errnos of a kernel that has these switched off: net/ipv4/tcp.c tcp_sendmsg_fastopen(), net/ipv4/af_inet.c inet_create(),
net/socket.c __sock_create()."""

# linux/landlock.h
LANDLOCK_CREATE_RULESET_VERSION = 1
LANDLOCK_RULE_PATH_BENEATH, LANDLOCK_RULE_NET_PORT = 1, 2
LANDLOCK_ACCESS_FS_REFER = 1 << 13
LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET, LANDLOCK_SCOPE_SIGNAL = 1 << 0, 1 << 1
LANDLOCK_RESTRICT_SELF_LOG_NEW_EXEC_ON = 1 << 1
LANDLOCK_RECORDS = 7
"""The version of Landlock's ABI that writes audit records (Linux 6.15)."""

O_EMPTYPATH = 1 << 26  # asm-generic/fcntl.h of Linux 7.3
MAXSYMLINKS = 40
"""The most symbolic links that the kernel follows in a path (linux/namei.h)."""
KTHREADD = 2
"""The id of the kernel's first thread, in the first pid namespace (init/main.c rest_init())."""

AT_ENTRY = 9  # linux/auxvec.h
YAMA_SCOPE = "/proc/sys/kernel/yama/ptrace_scope"

OPAQUE = ("clone3", "openat2", "io_uring_setup")
"""Calls whose arguments are in memory or in a ring, where filters cannot read them.  Programs make other calls instead if these
fail with ENOSYS."""

SHELL = b"/bin/sh"


def script_arguments(path: bytes, argv: Sequence[bytes]) -> tuple[bytes, ...]:
    """Return the arguments of the shell command that runs an executable file for which execve fails with ENOEXEC, such as a
    script without `#!`.  execvp(3) and shells do the same."""
    return (SHELL, path, *argv[1:])


def yama_scope() -> str:
    """Return the setting kernel.yama.ptrace_scope, "0" to "3"; "" if the kernel does not have Yama
    (admin-guide/LSM/Yama.rst)."""
    try:
        with open(YAMA_SCOPE) as file:
            return file.read().strip()
    except OSError:
        return ""


def int_in(register: int) -> int:
    """Return the C int in a register of 64 bits."""
    return ((register & 0xFFFFFFFF) ^ 0x80000000) - 0x80000000


def entry_point(folder: str, pointer: int) -> int | None:
    """Return the address at which a process begins its program, after the dynamic loader (AT_ENTRY); None if the kernel gave it
    no such address.

    `folder` is that of the process in /proc.  `pointer` is the size of its pointers in bytes, which is that of the words in
    /proc/PID/auxv (proc(5)).  Raises OSError."""
    with open(f"{folder}/auxv", "rb") as file:
        vector = file.read()
    words = [int.from_bytes(vector[at : at + pointer], "little") for at in range(0, len(vector), pointer)]
    return dict(zip(words[::2], words[1::2], strict=False)).get(AT_ENTRY)


def elf_bits(head: bytes) -> int:
    """Return the width of addresses in an ELF file, 32 or 64, from its first 5 bytes or more; 0 if the file is not ELF (elf(5),
    EI_CLASS)."""
    return {b"\x7fELF\1": 32, b"\x7fELF\2": 64}.get(head[:5], 0)


def elf_segments(read: Callable[[int, int], bytes]) -> Iterator[tuple[int, int, int, int]]:
    """Yield (kind PT_*, offset in the file, address, bytes in the file) of each segment of a little-endian ELF file; nothing
    for another file (elf(5), Elf64_Phdr).  `read(offset, size)` returns bytes of the file; bytes that are missing at the end
    count as zeros."""
    head = read(0, 64)
    bits = elf_bits(head)
    if not bits:
        return
    table, entry_size, count, word = (32, 54, 56, 8) if bits == 64 else (28, 42, 44, 4)  # e_phoff, e_phentsize, e_phnum
    places = (8, 16, 32) if bits == 64 else (4, 8, 16)  # p_offset, p_vaddr, p_filesz; p_type is first

    def number(content: bytes, at: int, size: int) -> int:
        return int.from_bytes(content[at : at + size], "little")

    for index in range(min(number(head, count, 2), _MAX_SEGMENTS)):
        entry = read(number(head, table, word) + index * number(head, entry_size, 2), 7 * word)
        offset, address, size = (number(entry, place, word) for place in places)
        yield number(entry, 0, 4), offset, address, size


def privilege_lost(path: str | bytes, uid: int, gid: int) -> str:
    """Return which privilege of a file a process with the effective ids `uid` and `gid` does not get under no_new_privs when it
    executes the file (execve(2)): "set-user-id", "set-group-id" or "capabilities".  Return "" if there is none, or the file
    cannot be examined."""
    try:
        file = os.stat(path)
        if file.st_mode & stat.S_ISUID and file.st_uid != uid:
            return "set-user-id"
        set_group_id = stat.S_ISGID | stat.S_IXGRP  # without the second bit it means mandatory locking
        if file.st_mode & set_group_id == set_group_id and file.st_gid != gid:
            return "set-group-id"
        return "capabilities" if uid != 0 and os.getxattr(path, "security.capability") else ""
    except OSError:
        return ""


def check_length(filter_: bytes, room: int = 0) -> None:
    """Raise ValueError if a filter, with `room` more instructions added to it, would be longer than the kernel permits."""
    count = len(filter_) // BPF_INSTRUCTION + room
    if count > BPF_MAXINSNS:
        raise ValueError(f"the filter has {count} instructions; the kernel permits at most {BPF_MAXINSNS}")


# Functions of libc

functions.syscall.restype = c_long
functions.ptrace.restype = c_long
functions.ptrace.argtypes = (c_long, c_long, c_void_p, c_void_p)
functions.signal.restype = c_void_p
functions.signal.argtypes = (c_int, c_void_p)
functions.mmap.restype = c_void_p
functions.mmap.argtypes = (c_void_p, c_size_t, c_int, c_int, c_int, c_long)


class FilterProgram(Structure):
    """The 64-bit layout of struct sock_fprog (linux/filter.h), by which seccomp(2) and prctl(2) take a filter."""

    _fields_ = (("length", c_ushort), ("instructions", c_char_p))

    @classmethod
    def of(cls, filter_: bytes) -> FilterProgram:
        """Return the struct for a filter, an array of struct sock_filter, 8 bytes each."""
        return cls(len(filter_) // 8, filter_)


def refused(call: str) -> OSError:
    """Return an OSError for the current errno, with the name of the call that failed as its `filename`."""
    number = get_errno()
    return OSError(number, os.strerror(number), call)


def checked(result: int, call: str) -> int:
    """Return the result of a call, or raise `refused(call)` if it is negative."""
    if result < 0:
        raise refused(call)
    return result


def raw_syscall(number: int, *arguments: object) -> int:
    """Make a system call; return its result, or -1 if it fails (errno is set).  Integers are passed with all 64 bits."""
    return int(functions.syscall(c_long(number), *map(_wide, arguments)))


def ptrace(request: int, pid: int, address: int = 0, data: int = 0) -> None:
    """Make a ptrace request whose result is 0.  Raises OSError."""
    checked(functions.ptrace(request, pid, address, data), "ptrace")


def peeked(request: int, pid: int, address: int) -> int:
    """Return the word that a PTRACE_PEEK* request reads, 64 bits, unsigned.  Raises OSError."""
    set_errno(0)
    word = functions.ptrace(request, pid, address, None)  # the wrapper of libc returns it
    if word == -1 and get_errno():
        raise refused("ptrace")
    return int(word) & (1 << 64) - 1


def prctl(operation: int, *arguments: object) -> int:
    """Call prctl(2) with up to four arguments, and return its result, or -1 if it fails (then errno is set)."""
    return int(functions.prctl(operation, *map(_wide, (*arguments, 0, 0, 0, 0)[:4])))


def strings(words: Sequence[bytes]) -> Array[c_char_p]:
    """Return a NULL-terminated array of strings, as execve(2) takes for `argv` and `envp`."""
    return (c_char_p * (len(words) + 1))(*words, None)


def _wide(argument: object) -> object:
    return c_long(argument) if isinstance(argument, int) else argument
