"""What the tracer knows about one task, and about its process while that runs one executable (`Image`)."""

from __future__ import annotations

import os
import time
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tracer import kernel, linux

if TYPE_CHECKING:
    from collections.abc import Sequence

NEVER: Final = 1 << 62
"""More calls than a process makes."""


class Plan:
    """A filter that is being put into a process."""

    __slots__ = ("area", "code", "filter", "is_installed", "is_refused")

    def __init__(self, filter_: bytes, code: Sequence[tuple[int, int]] = (), copied: int = 0) -> None:
        """`copied` is memory that was mapped for it in the process that this one was forked from: it is to be unmapped."""
        self.filter = filter_
        self.code = code
        """The code that it is for (`late.code.spans`); all if there is none."""
        self.is_refused = False
        """Whether the kernel has refused it."""
        self.area = copied
        """Memory that was mapped for it in the process; 0 for none."""
        self.is_installed = bool(copied)
        """Whether only unmapping is left to be done."""


class Image:
    """Mutable; shared by the threads of the process."""

    __slots__ = (
        "barred",
        "calls",
        "code",
        "left",
        "maker",
        "news",
        "news_at_start",
        "plan",
        "quiet",
        "since",
        "starts",
        "stops",
        "strict",
        "synchronised",
        "threads",
        "used",
        "whole",
    )

    def __init__(self, left: int = NEVER, maker: Image | None = None) -> None:
        self.maker = maker
        """That of the process which has forked it, until its execve."""
        self.starts = 0
        """How many processes that it has made have executed something."""
        self.left = left
        """How many more calls under PTRACE_SYSCALL there are until `Late` looks at the process."""
        self.calls = 0
        """Calls when it was last looked at."""
        self.quiet = 0
        """How many of them, the last ones, have brought no observation."""
        self.since = 0.0
        """When that was (time.monotonic)."""
        self.used = 0.0
        """Processor time that the process had used by then."""
        self.news = 0
        """Observations of the executable at that time."""
        self.news_at_start = 0
        self.stops = 0
        """Calls that its task had made when it began."""
        self.whole = False
        """Whether it began with an execve, so that it shows what the executable does from its start on."""
        self.threads = 1
        self.synchronised = False
        """Whether a thread has put a filter into the others, which may have been forking at that moment."""
        self.plan: Plan | None = None
        self.code: Sequence[tuple[int, int]] = ()
        """The code that its filter is for: calls by other code are not seen, so it may not get any; all if there is none."""
        self.strict = False
        """Whether its next filter is to be one for all code."""
        self.barred = False
        """Whether it gets no filter of ours any more."""


Hot = dict[int, list[Any]]
"""The counters of observations, by the number and the argument bits that distinguish them."""


class Task:
    """One thread.  Mutable: the event loop keeps its state here."""

    __slots__ = (
        "affinity",
        "apart",
        "chain",
        "checked",
        "counted",
        "covered",
        "entered",
        "executable",
        "filtered",
        "hot",
        "image",
        "installing",
        "namespaces",
        "other_filter",
        "own_affinity",
        "recorded",
        "request",
        "signalled",
        "stopped",
        "stops",
        "tgid",
        "tid",
    )

    def __init__(self, tid: int, tgid: int) -> None:
        self.tid = tid
        self.tgid = tgid
        self.executable = "?"
        self.hot: Hot = {}
        """Counters by masked registers, shared by all tasks of this executable."""
        self.request = linux.PTRACE_CONT
        """How to resume it: PTRACE_CONT if seccomp stops show its calls, PTRACE_SYSCALL if entry stops must, PTRACE_DETACH to
        let it go."""
        self.filtered = True
        """Whether a filter of ours stops each call that must be handled (`Calls`)."""
        self.covered = True
        """Whether a filter of ours stops each call that may be new, unless another filter answers before."""
        self.chain = 0
        """What the late filters weigh (`late.filter.weight`)."""
        self.image = Image()
        self.recorded = True
        """False until the program itself runs: the launcher's calls are not the program's."""
        self.other_filter = False
        """Whether a filter that is not ours is in force."""
        self.installing = ""
        """'one' or 'all' (threads) while it is in a call that installs a filter of the program's."""
        self.namespaces = 0
        """How many pid namespaces it is in, which never changes (pid_namespaces(7)); 0 until that was asked."""
        self.signalled = False
        """Whether a signal to it was seen (`tracer.reach.aims`)."""
        self.counted = False
        """Under PTRACE_SYSCALL: whether its current call was counted at the entry stop."""
        self.entered = 0
        """The waits that its process has begun, as bits of tracer.abi.waits, if these are followed."""
        self.affinity: set[int] | None = None
        """Its own processors, if it or its maker ever shared the tracer's."""
        self.own_affinity = False
        """Whether the program has chosen its processors itself: they are not changed then."""
        self.apart = False
        """Whether it may look at its processors in calls that do not stop: they are not changed then, either."""
        self.stops = 0
        """Calls seen."""
        self.checked = 0.0
        """When its rate of stops was last looked at, in seconds of time.monotonic."""
        self.stopped = 0
        """The signal of its group-stop, under PTRACE_LISTEN; 0 if it is in none."""

    def child(self, tid: int, tgid: int) -> Task:
        """Return a new task that this one has made."""
        child = Task(tid, tgid)
        child.executable = self.executable
        child.hot = self.hot
        child.image = self.image
        child.take_over(self)
        return child

    def take_over(self, other: Task) -> None:
        """Copy what a task passes on to one that it makes, and to the leader that it becomes by execve."""
        self.request = other.request
        self.filtered = other.filtered
        self.covered = other.covered
        self.chain = other.chain
        self.other_filter = other.other_filter
        self.recorded = other.recorded
        self.affinity = other.affinity
        self.own_affinity = other.own_affinity
        self.apart = other.apart
        self.entered = other.entered


@cache
def proc() -> str:
    """The folder where our pids name processes; one that does not exist if there is none.

    /proc may not be mounted, or belong to another pid namespace, where the same numbers name other processes.
    """
    try:
        return "/proc" if os.readlink("/proc/self") == str(os.getpid()) else "/nonexistent"
    except OSError:
        return "/nonexistent"


def executable_of(pid: int) -> str:
    """The path of a process's executable; '?' if the process has ended or may not be read."""
    try:
        return os.readlink(f"{proc()}/{pid}/exe").removesuffix(" (deleted)")
    except OSError:
        return "?"


def kin_of(tid: int) -> tuple[int, int]:
    """The process that a task belongs to, and the parent of that process; (tid, 0) if the task has ended."""
    fields = _fields(tid)
    return int(fields.get("Tgid", tid)), int(fields.get("PPid", 0))


def state(tid: int) -> str:
    """What a task is doing, by one letter (proc_pid_stat(5)); "R", as of one that runs, if that cannot be read."""
    try:
        with open(f"{proc()}/{tid}/stat", "rb") as file:
            return file.read().rpartition(b") ")[2][:1].decode()
    except OSError:
        return "R"


def has_filter(tid: int) -> bool:
    """Whether a task is under a seccomp filter; True if that cannot be read."""
    try:
        return b"\nSeccomp:\t0" not in Path(f"{proc()}/{tid}/status").read_bytes()
    except OSError:
        return True


def processor_time(pid: int) -> float:
    """Seconds of processor time that a process has used; 0 if it has ended."""
    try:
        return time.clock_gettime(~pid << 3 | 2)  # MAKE_PROCESS_CPUCLOCK(pid, CPUCLOCK_SCHED): linux/posix-timers_types.h
    except OSError:
        return 0.0


def has_as_many_filters(one: int, other: int) -> bool:
    """Whether two tasks have the same number of filters; False where the kernel does not tell it (before Linux 5.9)."""
    counts = {_fields(tid).get("Seccomp_filters", "") for tid in (one, other)}
    return len(counts) == 1 and counts != {""}


def dies_only_untraced(tid: int, signum: int) -> bool:
    """Whether a task is the init of a pid namespace and has no handler for a fault's signal."""
    pids = _fields(tid).get("NSpid", "").split()
    return len(pids) > 1 and pids[-1] == "1" and not is_caught(tid, signum)


def is_caught(tid: int, signum: int) -> bool:
    """Whether a task has a handler for a signal; False if that cannot be read."""
    return bool(int(_fields(tid).get("SigCgt", "0"), 16) >> signum - 1 & 1)


def _fields(tid: int) -> dict[str, str]:
    """/proc/PID/status (proc_pid_status(5)); empty if the task has ended or may not be read."""
    try:
        status = Path(f"{proc()}/{tid}/status").read_text(errors="replace")
    except OSError:
        return {}
    return dict(line.split(":", 1) for line in status.splitlines() if ":" in line)


def namespaces_of(tid: int) -> int:
    """In how many pid namespaces a task is, ours being the first; 0 if that is not known."""
    return len(_fields(tid).get("NSpid", "").split())


def privilege_lost(pid: int) -> str:
    """What no_new_privs kept an executed file from giving to a process: `linux.privilege_lost`; "" too if it has ended."""
    try:
        process = os.stat(f"{proc()}/{pid}")
    except OSError:
        return ""
    return linux.privilege_lost(f"{proc()}/{pid}/exe", process.st_uid, process.st_gid)


def read_path(tid: int, address: int) -> bytes:
    """The string at an address of a task, at most 4 KiB of it; b'' if it cannot be read."""
    room = kernel.PAGE - address % kernel.PAGE
    text = kernel.read_memory(tid, address, room)
    if b"\0" not in text:
        text += kernel.read_memory(tid, address + room, kernel.PAGE)
    return text.partition(b"\0")[0]
