"""System calls for which Python has no function.

Every function raises OSError with the call's name in `filename`, so that a refusal can always be reported as "CALL: errno".
Every start of `enforce` imports this module, so it imports none of ctypes, dataclasses, enum, signal and struct.
"""

from __future__ import annotations

import os
import time

from callfence.tracer import TYPE_CHECKING, linux, proc
from callfence.tracer.machine import MACHINE

if TYPE_CHECKING:
    from typing import Any

_FAILED_MAPPING = linux.c_void_p(-1).value
_ESRCH, _EINTR, _EFAULT, _EINVAL = 3, 4, 14, 22  # asm-generic/errno-base.h
_F_SETFL, _F_SETOWN, _F_SETSIG, _O_ASYNC = 4, 8, 10, 0x2000  # asm-generic/fcntl.h
_KCMP_FILES = 2  # linux/kcmp.h
_RLIMIT_NOFILE, _RESOURCES = 7, 16  # asm-generic/resource.h
_DESCRIPTORS = 1 << 20
"""The default of fs.nr_open, above which no limit can be."""
_SIG_BLOCK, _SIG_SETMASK = 0, 2  # asm-generic/signal-defs.h
_SFD_NONBLOCK, _SFD_CLOEXEC = 0x800, 0x80000  # linux/signalfd.h
_PIDFD_THREAD = 0o200  # linux/pidfd.h
_CAPABILITY_HEADER = (linux.c_uint32 * 2)(0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3, this thread (linux/capability.h)

def syscall(call: str, *arguments: Any) -> int:
    """Make the system call `call`, a name or `name(what)`, and return its result.  Raises OSError."""
    return linux.checked(MACHINE.syscall(call.partition("(")[0], *arguments), call)


def clone(flags: int = 0) -> int:
    """Fork with `flags` of clone(2) and no exit signal; 0 in the child.  Raises OSError.

    Without an exit signal the child's end sends no SIGCHLD (which would stay pending in a program that starts with
    SIGCHLD blocked), and plain waitpid() does not see it."""
    linux.pythonapi.PyOS_BeforeFork()
    pid = _clone(flags)
    if pid == 0:
        linux.pythonapi.PyOS_AfterFork_Child()
    else:
        _after_fork(pid)
    return pid


def clone_orphan(flags: int = 0) -> bool:
    """Clone a process which clones another one and ends; return True in the latter, False here.  Raises OSError.  Python's fork
    hooks do not run in the process between, which saves 0.2 ms."""
    linux.pythonapi.PyOS_BeforeFork()
    parent = _clone(flags)
    if parent == 0:
        if (pid := _clone(flags)) != 0:
            linux.functions._exit(linux.get_errno() if pid < 0 else 0)
        linux.pythonapi.PyOS_AfterFork_Child()
        return True
    _after_fork(parent)
    _, status = os.waitpid(parent, linux.WALL)
    if status:
        number = os.waitstatus_to_exitcode(status)
        raise OSError(number, os.strerror(number), "clone")
    return False


def _clone(flags: int) -> int:
    return MACHINE.syscall("clone", flags, None, None, None, None)


def _after_fork(pid: int) -> None:
    number = linux.get_errno()
    linux.pythonapi.PyOS_AfterFork_Parent()
    if pid < 0:
        raise OSError(number, os.strerror(number), "clone")


def kill_at_end_of(descriptor: int, pid: int) -> None:
    """Make the kernel send SIGKILL to a process when the other end of a pipe is closed (fcntl(2), O_ASYNC).  This holds as long
    as any process has a copy of `descriptor`, one end of the pipe."""
    for command, value in ((_F_SETOWN, pid), (_F_SETSIG, linux.SIGKILL), (_F_SETFL, _O_ASYNC)):
        syscall("fcntl", descriptor, command, value)


def raise_limits() -> None:
    """Raise each soft limit of this process to its hard limit (setrlimit(2)), and that of descriptors to the kernel's maximum
    if this process may."""
    pair = (linux.c_uint64 * 2)()
    reference, prlimit = linux.byref(pair), linux.functions.prlimit
    for resource in range(_RESOURCES):
        if prlimit(0, resource, None, reference) == 0 and pair[0] != pair[1]:
            pair[0] = pair[1]
            prlimit(0, resource, reference, None)
        if resource == _RLIMIT_NOFILE and pair[1] < _DESCRIPTORS:
            pair[0] = pair[1] = _DESCRIPTORS
            prlimit(0, resource, reference, None)  # it takes CAP_SYS_RESOURCE


def shares_files(a: int, b: int) -> bool | None:
    """Return whether two tasks have the same table of descriptors (kcmp(2)); None if that cannot be found out."""
    try:
        return syscall("kcmp", a, b, _KCMP_FILES, 0, 0) == 0
    except ProcessLookupError:
        return False
    except OSError:
        return None


def unshare_files() -> None:
    """Give this process a table of descriptors of its own."""
    syscall("unshare", linux.CLONE_FILES)


def disposition(number: int, handler: int) -> int:
    """Set a signal's disposition (SIG_DFL, SIG_IGN) without Python's signal module; return the former, an address if caught."""
    return int(linux.functions.signal(number, handler) or 0)


def block_signals() -> None:
    """Block all signals of this thread; SIGKILL, SIGSTOP and those of its own faults cannot be blocked."""
    mask = linux.c_uint64(0xFFFFFFFFFFFFFFFF)
    syscall("rt_sigprocmask", _SIG_SETMASK, linux.byref(mask), None, 8)


def set_no_new_privs() -> None:
    """Keep this process, and what it executes, from gaining privileges (prctl(2), PR_SET_NO_NEW_PRIVS)."""
    linux.checked(linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1), "prctl(PR_SET_NO_NEW_PRIVS)")


def prctl_accepts(operation: int, text: bytes) -> bool:
    """Make a prctl(2) with a string as its argument, and return whether it succeeds."""
    return linux.prctl(operation, linux.c_char_p(text)) == 0


def set_name(name: bytes) -> None:
    """Name this thread, by at most 15 bytes; its execve names it after the program (prctl(2), PR_SET_NAME)."""
    linux.checked(linux.prctl(linux.PR_SET_NAME, linux.c_char_p(name)), "prctl(PR_SET_NAME)")


def set_undumpable() -> None:
    """Keep every process without CAP_SYS_PTRACE from reading or writing this one (ptrace(2), /proc/PID/mem)."""
    linux.checked(linux.prctl(linux.PR_SET_DUMPABLE), "prctl(PR_SET_DUMPABLE)")


def allow_tracer(pid: int) -> None:
    """Let the process `pid` trace this one even if Yama restricts that (admin-guide/LSM/Yama.rst); do nothing without Yama."""
    linux.prctl(linux.PR_SET_PTRACER, pid)


def is_reaper() -> bool:
    """Return whether orphaned descendants become children of this process: pid 1 of a namespace, or a subreaper."""
    flag = linux.c_int(0)
    linux.prctl(linux.PR_GET_CHILD_SUBREAPER, linux.byref(flag))
    return os.getpid() == 1 or bool(flag.value)


def can_notify() -> bool:
    """Return whether the kernel has SECCOMP_RET_USER_NOTIF (5.0); False too where seccomp(2) itself is refused."""
    action = linux.c_uint32(linux.SECCOMP_RET_USER_NOTIF)
    return MACHINE.syscall("seccomp", linux.SECCOMP_GET_ACTION_AVAIL, 0, linux.byref(action)) == 0


def install(program: bytes, flags: int) -> int:
    """Install a filter on this thread; return its listener with SECCOMP_FILTER_FLAG_NEW_LISTENER in `flags`, else 0.

    With SECCOMP_FILTER_FLAG_TSYNC, install it on all threads of the process; if a thread has other filters, install it on none
    and return the id of that thread."""
    return syscall("seccomp", linux.SECCOMP_SET_MODE_FILTER, flags, linux.byref(linux.FilterProgram.of(program)))


def capabilities() -> tuple[int, int, int]:
    """Return the effective, permitted and inheritable capabilities of this thread, 64 bits each (capget(2))."""
    words = (linux.c_uint32 * 6)()
    syscall("capget", linux.byref(_CAPABILITY_HEADER), linux.byref(words))
    low, high = words[:3], words[3:]
    return (low[0] | high[0] << 32, low[1] | high[1] << 32, low[2] | high[2] << 32)


def set_capabilities(permitted: int, effective: int | None = None) -> None:
    """Make these the permitted and effective capabilities of this thread, with none inheritable (capset(2)); without
    `effective`, all that are permitted take effect."""
    low, high = permitted & 0xFFFFFFFF, permitted >> 32
    effective = permitted if effective is None else effective
    words = (linux.c_uint32 * 6)(effective & 0xFFFFFFFF, low, 0, effective >> 32, high, 0)
    syscall("capset", linux.byref(_CAPABILITY_HEADER), linux.byref(words))


def file_system(descriptor: int) -> int:
    """Return the type of the file system of an open file (statfs(2), `f_type`)."""
    status = (linux.c_uint64 * 15)()
    syscall("fstatfs", descriptor, linux.byref(status))
    return int(status[0])


def landlock_abi() -> int:
    """Return the version of Landlock's ABI; 0 where the kernel lacks it, or has it switched off."""
    try:
        return syscall("landlock_create_ruleset", None, 0, linux.LANDLOCK_CREATE_RULESET_VERSION)
    except OSError:
        return 0


def landlock_ruleset(files: int, ports: int, scope: int) -> int:
    """Create a Landlock ruleset and return its descriptor.  `files` and `ports` are the access rights that the ruleset handles,
    LANDLOCK_ACCESS_*; `scope` is LANDLOCK_SCOPE_*."""
    attributes = (linux.c_uint64 * 3)(files, ports, scope)  # struct landlock_ruleset_attr
    return syscall("landlock_create_ruleset", linux.byref(attributes), 8 * (3 if scope else 2), 0)


def landlock_allow_path(ruleset: int, access: int, descriptor: int) -> None:
    """Grant the rights `access`, LANDLOCK_ACCESS_FS_*, in a ruleset, to an open file or to all below an open folder."""
    rule = access.to_bytes(8, "little") + descriptor.to_bytes(4, "little")  # struct landlock_path_beneath_attr, which is packed
    syscall("landlock_add_rule", ruleset, linux.LANDLOCK_RULE_PATH_BENEATH, rule, 0)


def landlock_allow_ports(ruleset: int, access: int, first: int, last: int) -> None:
    """Add a rule for each port to a ruleset: grant `access`, LANDLOCK_ACCESS_NET_*, to the TCP ports from `first` to `last`."""
    rule = (linux.c_uint64 * 2)(access, 0)  # struct landlock_net_port_attr
    number = linux.c_long(MACHINE.native.numbers["landlock_add_rule"])
    words = number, linux.c_long(ruleset), linux.c_long(linux.LANDLOCK_RULE_NET_PORT), linux.byref(rule), linux.c_long(0)
    call = linux.functions.syscall
    for port in range(first, last + 1):
        rule[1] = port
        if call(*words) < 0:
            raise linux.refused("landlock_add_rule")


def landlock_enter(ruleset: int, flags: int = 0) -> None:
    """Confine this process, and what it starts, for good; needs no_new_privs.  `flags`: LANDLOCK_RESTRICT_SELF_*."""
    syscall("landlock_restrict_self", ruleset, flags)


def send_signal(pidfd: int, number: int) -> None:
    """Send a signal to the process that a pidfd was opened for."""
    syscall("pidfd_send_signal", pidfd, number, None, 0)


def pidfd_open(pid: int) -> int:
    """Return a pidfd of a process."""
    return syscall("pidfd_open", pid, 0)


_PIDFD_GET_INFO, _PIDFD_INFO_CREDS, _PIDFD_INFO_EXIT = 0xC040FF0B, 1 << 1, 1 << 3  # linux/pidfd.h; the last: Linux 6.15
_MAX_CHECKS, _CHECK_PAUSE = 1000, 0.001
"""How often, and after how many seconds each time, a process is looked at that has ended."""
_PIDFD_INFO = 16  # struct pidfd_info: mask (8 bytes), cgroupid (8), 12 words: the 6th is euid, then egid; the last exit_code


def wait_status(pidfd: int, pid: int) -> int | None:
    """Return the wait status of a process that has ended; None if it is not known: before Linux 6.15 it is known only until the
    process has been waited for."""
    for _ in range(_MAX_CHECKS):
        information = (linux.c_uint32 * _PIDFD_INFO)(_PIDFD_INFO_EXIT)
        failed = linux.functions.ioctl(pidfd, linux.c_ulong(_PIDFD_GET_INFO), information)
        if not failed and information[0] & _PIDFD_INFO_EXIT:
            return int(information[-1])
        if (status := proc.wait_status_of(pid)) is not None:
            return status
        if failed and linux.get_errno() != _ESRCH:
            return None
        time.sleep(_CHECK_PAUSE)  # it is being waited for just now
    return None


def ids_of(pidfd: int) -> tuple[int, int] | None:
    """Return the effective user and group id of a pidfd's task; None before Linux 6.13, or if it has ended."""
    information = (linux.c_uint32 * _PIDFD_INFO)(_PIDFD_INFO_CREDS)
    if linux.functions.ioctl(pidfd, linux.c_ulong(_PIDFD_GET_INFO), information) or not information[0] & _PIDFD_INFO_CREDS:
        return None
    return int(information[9]), int(information[10])


def pidfd_of_thread(thread: int, process: int) -> int:
    """Return a pidfd of a thread, by which its descriptors can be copied even after the first thread has ended; before Linux
    6.9, a pidfd of its process."""
    try:
        return syscall("pidfd_open", thread, _PIDFD_THREAD)
    except OSError as error:
        if error.errno != _EINVAL:
            raise
    return pidfd_open(process)


_PIDFD_GETFD = linux.c_long(MACHINE.native.numbers["pidfd_getfd"])


def pidfd_getfd(pidfd: int, descriptor: int) -> int:
    """Return a copy of another process's descriptor (Linux 5.6)."""
    return linux.checked(linux.functions.syscall(_PIDFD_GETFD, pidfd, descriptor, 0), "pidfd_getfd")


class _Span(linux.Structure):
    """struct iovec (linux/uio.h)."""

    _fields_ = (("base", linux.c_uint64), ("length", linux.c_uint64))


_ONE, _ZERO = linux.c_ulong(1), linux.c_ulong(0)
_HERE, _THERE = _Span(), _Span()  # made once, as what socket_option fills: a connect waits for that
_HERE_AT, _THERE_AT = linux.byref(_HERE), linux.byref(_THERE)
_PAGE = (linux.c_char * 4096)()


def memory_of(task: int, address: int, length: int) -> bytes:
    """Return up to `length` bytes of a task's memory, as many as can be read.  Raises OSError if none can."""
    content = _PAGE if length <= linux.sizeof(_PAGE) else (linux.c_char * length)()
    _HERE.base, _HERE.length = linux.addressof(content), length
    _THERE.base, _THERE.length = address, length
    count = linux.functions.process_vm_readv(task, _HERE_AT, _ONE, _THERE_AT, _ONE, _ZERO)
    return content.raw[: linux.checked(count, "process_vm_readv")]


def write_memory(task: int, address: int, content: bytes) -> None:
    """Write bytes into a task's memory.  Raises OSError, also if not all could be written."""
    copied = (linux.c_char * (len(content) or 1)).from_buffer_copy(content or b"\0")
    here, there = _Span(linux.addressof(copied), len(content)), _Span(address, len(content))
    if syscall("process_vm_writev", task, linux.byref(here), 1, linux.byref(there), 1, 0) < len(content):
        raise OSError(_EFAULT, os.strerror(_EFAULT), "process_vm_writev")


def descriptor_of(task: int, process: int, descriptor: int) -> int:
    """Return a copy of a descriptor of a task, which is of that process; before Linux 6.9, of the process's first task, whose
    descriptors may be others (unshare(2), CLONE_FILES)."""
    pidfd = pidfd_of_thread(task, process)
    try:
        return pidfd_getfd(pidfd, descriptor)
    finally:
        os.close(pidfd)


def write(descriptor: int, content: bytes) -> int:
    """Write, and return how many bytes were written.  Raises OSError, InterruptedError too (`alarms`)."""
    return linux.checked(linux.functions.write(descriptor, content, linux.c_size_t(len(content))), "write")


_VALUE, _LENGTH = linux.c_int(), linux.c_int()
_VALUE_AT, _LENGTH_AT = linux.byref(_VALUE), linux.byref(_LENGTH)


def socket_option(socket: int, option: int) -> int:
    """Return an option of SOL_SOCKET, 32 bits (socket(7))."""
    _LENGTH.value = 4
    if linux.functions.getsockopt(socket, linux.SOL_SOCKET, option, _VALUE_AT, _LENGTH_AT) < 0:
        raise linux.refused("getsockopt")
    return _VALUE.value


def kill_thread(process: int, thread: int, number: int) -> None:
    """Send a signal to a thread of a process."""
    syscall("tgkill", process, thread, number)


class CallStop(linux.Structure):
    """struct ptrace_syscall_info at a call's entry (linux/ptrace.h)."""

    _fields_ = (
        ("op", linux.c_uint8),
        ("pad", linux.c_uint8 * 3),
        ("arch", linux.c_uint32),
        ("ip", linux.c_uint64),
        ("sp", linux.c_uint64),
        ("number", linux.c_uint64),
        ("arguments", linux.c_uint64 * 6),
        ("datum", linux.c_uint32),
        ("end", linux.c_uint32),
    )
    op: int
    arch: int
    ip: int
    number: int
    arguments: Any

    def read(self, pid: int) -> None:
        """Fill in where that tracee has stopped.  Raises OSError."""
        linux.ptrace(linux.PTRACE_GET_SYSCALL_INFO, pid, linux.INFO_SIZE, linux.addressof(self))


def signal_descriptor(number: int) -> int:
    """Block a signal of this thread; return a descriptor that is readable while it is pending (signalfd(2))."""
    mask = linux.c_uint64(1 << (number - 1))
    syscall("rt_sigprocmask", _SIG_BLOCK, linux.byref(mask), None, 8)
    return syscall("signalfd4", -1, linux.byref(mask), 8, _SFD_NONBLOCK | _SFD_CLOEXEC)


def event_message(pid: int) -> int:
    """Return the id of the new child or thread at whose event a tracee has stopped (PTRACE_GETEVENTMSG)."""
    message = linux.c_ulong(0)
    linux.ptrace(linux.PTRACE_GETEVENTMSG, pid, 0, linux.addressof(message))
    return message.value


def peek(pid: int, address: int) -> int:
    """Return the 8 bytes at `address` as an unsigned number."""
    return linux.peeked(linux.PTRACE_PEEKDATA, pid, address)


def peek_string(pid: int, address: int) -> bytes:
    """Return the bytes at `address` up to a NUL, of a longer text some 256 bytes.  Raises OSError."""
    start = address & ~7  # an aligned word is in one page
    text = peek(pid, start).to_bytes(8, "little")[address - start :]
    while b"\0" not in text and len(text) < 256:
        start += 8
        text += peek(pid, start).to_bytes(8, "little")
    return text.partition(b"\0")[0]


def poke(pid: int, address: int, word: int) -> None:
    """Write 8 bytes at `address`."""
    linux.ptrace(linux.PTRACE_POKEDATA, pid, address, word)


def swap_signal_mask(pid: int, mask: int) -> int:
    """Give a stopped tracee another mask of blocked signals, 64 bits, and return the former one (Linux 3.11)."""
    former, new = linux.c_uint64(0), linux.c_uint64(mask)
    linux.ptrace(linux.PTRACE_GETSIGMASK, pid, 8, linux.addressof(former))
    linux.ptrace(linux.PTRACE_SETSIGMASK, pid, 8, linux.addressof(new))
    return former.value


def ioctl(descriptor: int, request: linux.c_ulong, argument: Any) -> None:
    """Make an ioctl(2) on a listener, again if a signal interrupts it."""
    while linux.functions.ioctl(descriptor, request, linux.byref(argument)) < 0:
        if linux.get_errno() != _EINTR:
            raise linux.refused("ioctl(SECCOMP_IOCTL_NOTIF)")


def shared_memory(size: int) -> int:
    """Return the address of empty memory that this process shares with those that it clones from now on."""
    address = linux.functions.mmap(None, size, linux.PROT_READ_WRITE, linux.MAP_SHARED_ANONYMOUS, -1, 0)
    if address == _FAILED_MAPPING:
        raise linux.refused("mmap")
    return int(address)
