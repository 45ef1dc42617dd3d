"""The kernel's numbers and small facts that more than one file needs, under the names that its headers give them.

`learn` and `enforce` import this on every start, so it imports nothing.  What only one file needs stays there.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

# linux/ptrace.h: requests
PTRACE_PEEKDATA, PTRACE_POKEDATA, PTRACE_PEEKUSER, PTRACE_POKEUSER = 2, 5, 3, 6
PTRACE_CONT, PTRACE_GETREGS, PTRACE_SETREGS, PTRACE_DETACH, PTRACE_SYSCALL = 7, 12, 13, 17, 24
PTRACE_GETEVENTMSG, PTRACE_GETSIGINFO = 0x4201, 0x4202
PTRACE_SEIZE, PTRACE_INTERRUPT, PTRACE_LISTEN = 0x4206, 0x4207, 0x4208
PTRACE_GETSIGMASK, PTRACE_SETSIGMASK = 0x420A, 0x420B
PTRACE_SECCOMP_GET_FILTER, PTRACE_GET_SYSCALL_INFO = 0x420C, 0x420E

# linux/ptrace.h: events, in bits 16 to 23 of a wait status
PTRACE_EVENT_FORK, PTRACE_EVENT_VFORK, PTRACE_EVENT_CLONE, PTRACE_EVENT_EXEC = 1, 2, 3, 4
PTRACE_EVENT_SECCOMP, PTRACE_EVENT_STOP = 7, 128

# linux/ptrace.h: options
PTRACE_O_TRACESYSGOOD, PTRACE_O_TRACEFORK, PTRACE_O_TRACEVFORK, PTRACE_O_TRACECLONE = 1 << 0, 1 << 1, 1 << 2, 1 << 3
PTRACE_O_TRACEEXEC, PTRACE_O_TRACESECCOMP, PTRACE_O_EXITKILL = 1 << 4, 1 << 7, 1 << 20

# linux/ptrace.h: struct ptrace_syscall_info, `op` and the offsets of its fields in bytes
PTRACE_SYSCALL_INFO_ENTRY, PTRACE_SYSCALL_INFO_EXIT, PTRACE_SYSCALL_INFO_SECCOMP = 1, 2, 3
INFO_OP, INFO_ARCH = 0, 4
INFO_NUMBER, INFO_ARGUMENTS = 24, 32
"""At a call's entry and at a seccomp stop."""
INFO_IS_ERROR = 32
"""At a call's exit."""
INFO_SIZE = 88

# sys/user.h: struct user_regs_struct of x86_64, indices of its 64-bit words; a 32-bit tracee has eax in RAX, and so on
RBP, RBX, R10, R9, R8, RAX, RCX, RDX, RSI, RDI = 4, 5, 7, 8, 9, 10, 11, 12, 13, 14
ORIG_RAX, RIP, CS, EFLAGS, RSP = 15, 16, 17, 18, 19
USER_REGS = 27
"""How many words it has."""
USER32_CS = 0x23
USER_CS = 0x33
"""The code segment while the processor is in 32-bit mode, and in 64-bit mode (asm/segment.h)."""

# linux/wait.h
WALL = 0x40000000
"""__WALL: wait for children that send no SIGCHLD too."""

# linux/seccomp.h
SECCOMP_SET_MODE_STRICT, SECCOMP_SET_MODE_FILTER, SECCOMP_GET_ACTION_AVAIL = 0, 1, 2
SECCOMP_MODE_FILTER = 2
"""For PR_SET_SECCOMP."""
SECCOMP_FILTER_FLAG_TSYNC, SECCOMP_FILTER_FLAG_LOG = 1 << 0, 1 << 1
SECCOMP_FILTER_FLAG_NEW_LISTENER, SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV = 1 << 3, 1 << 5
SECCOMP_FILTER_FLAG_TSYNC_ESRCH = 1 << 4
SECCOMP_RET_KILL_PROCESS, SECCOMP_RET_KILL_THREAD = 0x80000000, 0x00000000
SECCOMP_RET_TRAP, SECCOMP_RET_ERRNO, SECCOMP_RET_USER_NOTIF = 0x00030000, 0x00050000, 0x7FC00000
SECCOMP_RET_TRACE, SECCOMP_RET_LOG, SECCOMP_RET_ALLOW = 0x7FF00000, 0x7FFC0000, 0x7FFF0000
SECCOMP_RET_ACTION_FULL, SECCOMP_RET_DATA = 0xFFFF0000, 0x0000FFFF

# linux/filter.h, linux/bpf_common.h: struct sock_filter {u16 code; u8 jt, jf; u32 k}
BPF_INSTRUCTION = 8
"""Bytes."""
BPF_MAXINSNS = 4096
BPF_RET_K, BPF_JA = 0x06, 0x05  # BPF_RET | BPF_K, BPF_JMP | BPF_JA

# linux/audit.h
AUDIT_ARCH_X86_64, AUDIT_ARCH_I386 = 0xC000003E, 0x40000003
ARGUMENT_REGISTERS = {
    AUDIT_ARCH_X86_64: (RDI, RSI, RDX, R10, R8, R9),
    AUDIT_ARCH_I386: (RBX, RCX, RDX, RSI, RDI, RBP),
}
"""The registers of a call's arguments (syscall(2))."""
X32_BIT = 0x40000000
"""__X32_SYSCALL_BIT (asm/unistd.h): in the number of a call of the x32 ABI."""

# linux/prctl.h
PR_SET_DUMPABLE, PR_GET_SECCOMP, PR_SET_SECCOMP = 4, 21, 22
PR_GET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 37, 38
PR_SET_PTRACER = 0x59616D61
CALLFENCE_ENTER = 0x43464E54
"""No operation of the kernel: a program says that it enters a phase (include/callfence.h)."""

# elf.h: the kinds of segments
PT_LOAD, PT_INTERP, PT_NOTE, PT_GNU_EH_FRAME = 1, 3, 4, 0x6474E550
_MAX_SEGMENTS = 1170
"""Those whose headers the kernel reads of a program, 64 KiB (fs/binfmt_elf.c, load_elf_phdrs)."""

AT_ENTRY = 9  # linux/auxvec.h
YAMA_SCOPE = "/proc/sys/kernel/yama/ptrace_scope"

OPAQUE = ("clone3", "openat2", "io_uring_setup")
"""Calls whose arguments are in memory or a ring, where no filter sees them.  Programs fall back to others on ENOSYS."""


SHELL = b"/bin/sh"


def script_arguments(path: bytes, argv: Sequence[bytes]) -> tuple[bytes, ...]:
    """Return the command that runs an executable file of no known format, for which execve fails with ENOEXEC: a script for the
    shell, as execvp(3) and shells have it."""
    return (SHELL, path, *argv[1:])


def yama_scope() -> str:
    """Return kernel.yama.ptrace_scope, "0" to "3"; "" without Yama (admin-guide/LSM/Yama.rst)."""
    try:
        with open(YAMA_SCOPE) as file:
            return file.read().strip()
    except OSError:
        return ""


def entry_point(pid: int, cs: int) -> int | None:
    """Return the address at which the program of a process begins after its dynamic loader (AT_ENTRY); None if it has none.

    `cs` is the process's code segment register: the vector's words are as wide as the program's pointers (proc(5)).
    Raises OSError.
    """
    with open(f"/proc/{pid}/auxv", "rb") as file:
        vector = file.read()
    size = 4 if cs == USER32_CS else 8
    words = [int.from_bytes(vector[at : at + size], "little") for at in range(0, len(vector), size)]
    return dict(zip(words[::2], words[1::2], strict=False)).get(AT_ENTRY)


def elf_bits(head: bytes) -> int:
    """Return the width of the addresses in an ELF file that begins with these 5 bytes or more, 32 or 64; 0 for another file
    (elf(5), EI_CLASS)."""
    return {b"\x7fELF\1": 32, b"\x7fELF\2": 64}.get(head[:5], 0)


def elf_segments(read: Callable[[int, int], bytes]) -> Iterator[tuple[int, int, int, int]]:
    """Yield the kind (PT_*), offset in the file, address, and bytes in the file of each segment of an ELF file, little-endian;
    none for another file (elf(5), Elf64_Phdr).  `read` returns the bytes at an offset, and how many; too few yield zeros."""
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
    """Return what no_new_privs keeps from a process with these effective ids when it executes the file (execve(2)):
    "set-user-id", "set-group-id", "capabilities", or "" for nothing."""
    import os
    import stat

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
    """Raise ValueError if the kernel does not take a filter with so many instructions, and `room` more."""
    count = len(filter_) // BPF_INSTRUCTION + room
    if count > BPF_MAXINSNS:
        raise ValueError(f"the filter has {count} instructions, and the kernel takes {BPF_MAXINSNS}")
