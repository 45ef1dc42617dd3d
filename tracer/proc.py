"""Reads what /proc reports about processes and tasks (proc(5)); no other file does.

The working folder of the helper of `enforce` is /proc, and the helper reads paths relative to it (`enter`): a program that
mounts another file system at /proc later does not change what the helper reads.  On every start of `enforce`, so little is
imported.
"""

from __future__ import annotations

import os

from callfence.tracer import linux

_roots: list[str] = []
_MISSING = "/(no /proc of this pid namespace)"
"""A folder that does not exist, as errors name it."""
_PART, _MAX_BYTES = 1 << 16, 1 << 20
"""The bytes of a file in /proc/PID that are read at once, and at most: with as many groups as it may have, a task's `status`
has 720 KiB (NGROUPS_MAX, linux/limits.h)."""


# By folder


def is_own(root: str) -> bool:
    """Return whether the /proc that is mounted at `root` belongs to the pid namespace of this process.  In another one, the
    same pid would name another process."""
    try:
        return os.readlink(f"{root}/self") == str(os.getpid())
    except OSError:
        return False


def content(path: str, most: int = _MAX_BYTES) -> bytes:
    """Return the content of a file in /proc/PID, at most its first `most` bytes.  Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        data = part = os.read(descriptor, min(most, _PART))
        while len(part) == _PART and len(data) < most:
            part = os.read(descriptor, _PART)
            data += part
        return data
    finally:
        os.close(descriptor)


def fields(folder: str) -> dict[str, str]:
    """Return the fields of the file `status` in a task's `folder`: name -> value; {} if it has ended or may not be read."""
    try:
        text = content(f"{folder}/status").decode(errors="replace")  # a process may have any bytes for a name
    except OSError:
        return {}
    return dict(line.split(":\t", 1) for line in text.split("\n") if ":\t" in line)


def state(folder: str) -> str:
    """Return the state of the task with this folder in /proc, one letter such as "R" or "S"; "" if it cannot be read."""
    return b"".join(_fields_of_stat(folder)[:1]).decode()


def _fields_of_stat(folder: str) -> list[bytes]:
    """Return the fields of the file `stat` in a task's folder from its state on, the third; [] if it cannot be read."""
    try:
        return content(f"{folder}/stat").rpartition(b") ")[2].split()  # a process may have any bytes for a name
    except OSError:
        return []


def handles(status: dict[str, str], signum: int, *masks: str) -> bool:
    """Return whether a signal is in one of the named masks (SigBlk, SigIgn, SigCgt); `status` has the `fields` of a task."""
    return bool(signals(status, *masks) >> signum - 1 & 1)


def signals(status: dict[str, str], *masks: str) -> int:
    """Return the signals that are in one of the named masks (SigPnd, ShdPnd, SigBlk, SigIgn, SigCgt), signal N as bit N - 1;
    `status` has the `fields` of a task."""
    result = 0
    for mask in masks:
        result |= int(status.get(mask, "0"), 16)
    return result


# By number


def enter() -> None:
    """Have `proc` return the working folder from now on if that is the /proc of this pid namespace, else a folder that does not
    exist."""
    _roots[:] = ["." if is_own(".") else _MISSING]


def proc() -> str:
    """Return the /proc of this process's pid namespace.  Return a folder that does not exist if /proc is not mounted, or is of
    another namespace, where a pid is another process."""
    if not _roots:
        _roots.append("/proc" if is_own("/proc") else _MISSING)
    return _roots[0]


def fields_of(tid: int) -> dict[str, str]:
    """Return the `fields` of a task by its tid; {} if they cannot be read."""
    return fields(f"{proc()}/{tid}")


def state_of(tid: int) -> str:
    """Return the `state` of a task; "R" (running) if it cannot be read."""
    return state(f"{proc()}/{tid}") or "R"


def executable_of(pid: int) -> str:
    """Return the path of a process's executable; '?' if the process has ended or may not be read."""
    try:
        return os.readlink(f"{proc()}/{pid}/exe").removesuffix(" (deleted)")
    except OSError:
        return "?"


_COMMAND = 4096
"""The most bytes of a command line that are read."""


def command_of(pid: int) -> list[str]:
    """Return the words of a process's command line, at most its first 4 KiB; [] if it has ended, or has none."""
    try:
        words = content(f"{proc()}/{pid}/cmdline", _COMMAND).split(b"\0")
    except OSError:
        return []
    return [os.fsdecode(word) for word in (words if words[-1] else words[:-1])]


def folder_of(pid: int) -> str:
    """Return a process's working folder; "" if it has ended or may not be read."""
    try:
        return os.readlink(f"{proc()}/{pid}/cwd")
    except OSError:
        return ""


def wait_status_of(pid: int) -> int | None:
    """Return the wait status of a process that has ended and has not been waited for; None for another one."""
    fields = _fields_of_stat(f"{proc()}/{pid}")
    return int(fields[-1]) if fields[:1] == [b"Z"] else None


def owner(tid: int) -> int:
    """Return the pid of the process that a task belongs to; `tid` itself if it cannot be read."""
    return kin_of(tid)[0]


def kin_of(tid: int) -> tuple[int, int]:
    """Return the pid of a task's process, and the pid of that process's parent; (tid, 0) if they cannot be read."""
    status = fields_of(tid)
    return int(status.get("Tgid", tid)), int(status.get("PPid", 0))


def numbers_in(folder: str) -> set[int]:
    """Return the pids or tids that have an entry in a folder below /proc ("" is /proc itself, "PID/task" has tids); an empty
    set if it cannot be read."""
    try:
        return {int(name) for name in os.listdir(f"{proc()}/{folder}") if name.isdecimal()}
    except OSError:
        return set()


def children() -> frozenset[int]:
    """Return the pids of the children of this thread; an empty set if they cannot be read.  They may be older than this
    program: a shell that executes it passes its children on."""
    try:
        with open(f"{proc()}/thread-self/children", "rb") as file:
            return frozenset(map(int, file.read().split()))
    except OSError:
        return frozenset()


def has_filter(tid: int) -> bool:
    """Return whether a task is under a seccomp filter; True if that cannot be read."""
    return fields_of(tid).get("Seccomp") != "0"


def has_as_many_filters(first: int, second: int) -> bool:
    """Return whether two tasks have as many seccomp filters; False if the kernel does not report that (before Linux 5.9)."""
    counts = {fields_of(tid).get("Seccomp_filters", "") for tid in (first, second)}
    return len(counts) == 1 and counts != {""}


def dies_only_untraced(tid: int, signum: int) -> bool:
    """Return whether a signal that the kernel sends for a fault kills a task only if the task is not traced: so it is for
    process 1 of another pid namespace without a handler for the signal."""
    pids = fields_of(tid).get("NSpid", "").split()
    return len(pids) > 1 and pids[-1] == "1" and not is_caught(tid, signum)


def is_caught(tid: int, signum: int) -> bool:
    """Return whether a task has a handler for a signal; False if that cannot be read."""
    return handles(fields_of(tid), signum, "SigCgt")


def process_of(pidfd: int) -> int:
    """Return the process of a pidfd of this process's; -1 if it has ended, 0 if the descriptor is no pidfd of pidfd_open(2) or
    clone(2), or its process is in no pid namespace of this one's /proc."""
    text = content(f"{proc()}/self/fdinfo/{pidfd}").decode()
    return int(dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line).get("Pid", 0))


def is_in_own_user_namespace(tid: int) -> bool:
    """Return whether the task `tid` is in the user namespace of this process, so that its user ids and capabilities mean the
    same here; False if that cannot be read."""
    try:
        return os.readlink(f"{proc()}/{tid}/ns/user") == os.readlink(f"{proc()}/self/ns/user")
    except OSError:
        return False


def namespaces_of(tid: int) -> int:
    """Return the number of pid namespaces that a task is in, counted from that of this process; 0 if it cannot be read."""
    return len(fields_of(tid).get("NSpid", "").split())


def processor_time(pid: int) -> float:
    """Return the processor time that a process has used, in seconds; 0 if it has ended."""
    import time

    try:
        return time.clock_gettime(~pid << 3 | 2)  # MAKE_PROCESS_CPUCLOCK(pid, CPUCLOCK_SCHED): linux/posix-timers_types.h
    except OSError:
        return 0.0


def open_files_limit(tid: int) -> int:
    """Return the soft limit of a task's descriptors (RLIMIT_NOFILE); a number that no task reaches if it cannot be read."""
    try:
        lines = content(f"{proc()}/{tid}/limits").splitlines()
        return next(int(line.split()[3]) for line in lines if line.startswith(b"Max open files"))
    except (OSError, StopIteration):
        return 1 << 63


def begin_of(pid: int) -> float:
    """Return when a process was started, in seconds since 1970, at most 10 ms too early; infinity if it has ended."""
    import time

    fields = _fields_of_stat(f"{proc()}/{pid}")
    if not fields:
        return float("inf")
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + int(fields[19]) / os.sysconf("SC_CLK_TCK")  # since boot


def privilege_lost(pid: int) -> str:
    """Return the privilege of its executable that a process did not get, in the words of `linux.privilege_lost`; "" if there is
    none, or the process has ended."""
    try:
        process = os.stat(f"{proc()}/{pid}")
    except OSError:
        return ""
    return linux.privilege_lost(f"{proc()}/{pid}/exe", process.st_uid, process.st_gid)
