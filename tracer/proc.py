"""What /proc says of a process: the one reader of it (proc(5)).

The working folder of the helper of `enforce` is /proc, and names are relative to it there (`enter`): a program that mounts
another file system at /proc later does not change what the helper reads.  On every start of `enforce`, so little is imported.
"""

from __future__ import annotations

import os

from tracer import linux

_roots: list[str] = []
_STATUS = 1 << 16
"""Bytes of a file of one task that are read: more than any has."""


# By folder


def is_own(root: str) -> bool:
    """Return whether the /proc that is mounted there is that of this process's pid namespace; in another one's, the same number
    is another process."""
    try:
        return os.readlink(f"{root}/self") == str(os.getpid())
    except OSError:
        return False


def content(path: str) -> bytes:
    """Return the content of a file of a task.  Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, _STATUS)
    finally:
        os.close(descriptor)


def fields(folder: str) -> dict[str, str]:
    """Return the fields of a task's `status`; none if it has ended or may not be read."""
    try:
        text = content(f"{folder}/status").decode(errors="replace")  # a process may have any bytes for a name
    except OSError:
        return {}
    return dict(line.split(":\t", 1) for line in text.split("\n") if ":\t" in line)


def state(folder: str) -> str:
    """Return what a task is doing, as one letter; "" if that cannot be read."""
    try:
        return content(f"{folder}/stat").rpartition(b") ")[2][:1].decode()
    except OSError:
        return ""


def handles(status: dict[str, str], signum: int, *masks: str) -> bool:
    """Return whether one of these masks of a task's `status` (SigBlk, SigIgn, SigCgt) has a signal."""
    return any(int(status.get(mask, "0"), 16) >> signum - 1 & 1 for mask in masks)


# By number


def enter() -> None:
    """Name processes relative to the working folder, which is /proc, or else none."""
    _roots[:] = ["." if is_own(".") else "/nonexistent"]


def proc() -> str:
    """Return the folder where our pids name processes; one that does not exist if there is none.

    /proc may not be mounted, or belong to another pid namespace, where the same numbers name other processes.
    """
    if not _roots:
        _roots.append("/proc" if is_own("/proc") else "/nonexistent")
    return _roots[0]


def fields_of(tid: int) -> dict[str, str]:
    """Return the `fields` of a task."""
    return fields(f"{proc()}/{tid}")


def state_of(tid: int) -> str:
    """Return the `state` of a task; "R", as of a task that runs, if that cannot be read."""
    return state(f"{proc()}/{tid}") or "R"


def executable_of(pid: int) -> str:
    """Return the path of a process's executable; '?' if the process has ended or may not be read."""
    try:
        return os.readlink(f"{proc()}/{pid}/exe").removesuffix(" (deleted)")
    except OSError:
        return "?"


def owner(tid: int) -> int:
    """Return the process that a task belongs to; the task itself if that is not known."""
    return kin_of(tid)[0]


def kin_of(tid: int) -> tuple[int, int]:
    """Return the process that a task belongs to, and the parent of that process; (tid, 0) if the task has ended."""
    status = fields_of(tid)
    return int(status.get("Tgid", tid)), int(status.get("PPid", 0))


def numbers_in(folder: str) -> set[int]:
    """Return the names in a folder of /proc that are numbers, of processes or threads; none if it cannot be read."""
    try:
        return {int(name) for name in os.listdir(f"{proc()}/{folder}") if name.isdecimal()}
    except OSError:
        return set()


def children() -> frozenset[int]:
    """Return the children of this process, for instance of the shell that it was before its execve."""
    try:
        with open(f"{proc()}/thread-self/children", "rb") as file:
            return frozenset(map(int, file.read().split()))
    except OSError:
        return frozenset()


def has_filter(tid: int) -> bool:
    """Return whether a task is under a seccomp filter; True if that cannot be read."""
    return fields_of(tid).get("Seccomp") != "0"


def has_as_many_filters(first: int, second: int) -> bool:
    """Return whether two tasks have the same number of filters; False where the kernel does not report it (before Linux
    5.9)."""
    counts = {fields_of(tid).get("Seccomp_filters", "") for tid in (first, second)}
    return len(counts) == 1 and counts != {""}


def dies_only_untraced(tid: int, signum: int) -> bool:
    """Return whether a task is the init of a pid namespace and has no handler for a fault's signal."""
    pids = fields_of(tid).get("NSpid", "").split()
    return len(pids) > 1 and pids[-1] == "1" and not is_caught(tid, signum)


def is_caught(tid: int, signum: int) -> bool:
    """Return whether a task has a handler for a signal; False if that cannot be read."""
    return handles(fields_of(tid), signum, "SigCgt")


def namespaces_of(tid: int) -> int:
    """Return in how many pid namespaces a task is, ours being the first; 0 if that is not known."""
    return len(fields_of(tid).get("NSpid", "").split())


def processor_time(pid: int) -> float:
    """Return the seconds of processor time that a process has used; 0 if it has ended."""
    import time

    try:
        return time.clock_gettime(~pid << 3 | 2)  # MAKE_PROCESS_CPUCLOCK(pid, CPUCLOCK_SCHED): linux/posix-timers_types.h
    except OSError:
        return 0.0


def privilege_lost(pid: int) -> str:
    """Return what no_new_privs kept an executed file from giving a process (`linux.privilege_lost`); "" too if it has ended."""
    try:
        process = os.stat(f"{proc()}/{pid}")
    except OSError:
        return ""
    return linux.privilege_lost(f"{proc()}/{pid}/exe", process.st_uid, process.st_gid)
