"""What the tracer knows of one task."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

from tracer import linux

Hot = dict[int, list[int]]
"""The counter of an observation by the number and those argument bits that matter to it."""


class Task:
    """One thread.  Mutable: the event loop's own record."""

    __slots__ = (
        "affinity",
        "checked",
        "counted",
        "executable",
        "filtered",
        "hot",
        "installing",
        "other_filter",
        "own_affinity",
        "recorded",
        "request",
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
        """Slots by masked registers: shared by all tasks of this executable."""
        self.request = linux.PTRACE_CONT
        """PTRACE_CONT where seccomp stops show the calls, PTRACE_SYSCALL where entry stops must; then PTRACE_DETACH."""
        self.filtered = True
        """It has our recording filter: every task does, except where we attached to a running process."""
        self.recorded = True
        """False until the program itself runs: the launcher's calls are not its behaviour."""
        self.other_filter = False
        """A filter that is not ours is in force."""
        self.installing = ""
        """'one' or 'all' (threads) while it is in a call that installs a filter of the program's."""
        self.counted = False
        """Under PTRACE_SYSCALL: the call that it is in was counted at its entry stop."""
        self.affinity: set[int] | None = None
        """Its own processors, if it or the one that made it has ever shared the tracer's."""
        self.own_affinity = False
        """The program has chosen its processors itself: they are left alone."""
        self.stops = 0
        """Calls seen."""
        self.checked = 0.0
        """When its rate of stops was last looked at, in seconds of time.monotonic."""
        self.stopped = 0
        """The signal of the group-stop that it is in, under PTRACE_LISTEN; 0 when it is in none."""

    def child(self, tid: int, tgid: int) -> Task:
        """A new task that this one has made."""
        child = Task(tid, tgid)
        child.executable = self.executable
        child.hot = self.hot
        child.take_over(self)
        return child

    def take_over(self, other: Task) -> None:
        """What a task passes on to one that it makes, and to the leader whose place it takes by execve."""
        self.request = other.request
        self.filtered = other.filtered
        self.other_filter = other.other_filter
        self.recorded = other.recorded
        self.affinity = other.affinity
        self.own_affinity = other.own_affinity


@cache
def proc() -> str:
    """Where processes are found by the pids that we know them by: a folder that does not exist where nowhere.

    /proc may not be mounted, or be that of another pid namespace, whose numbers mean other processes.
    """
    try:
        return "/proc" if os.readlink("/proc/self") == str(os.getpid()) else "/nonexistent"
    except OSError:
        return "/nonexistent"


def executable_of(pid: int) -> str:
    """The path of a process's executable; '?' when it is gone or may not be read."""
    try:
        return os.readlink(f"{proc()}/{pid}/exe").removesuffix(" (deleted)")
    except OSError:
        return "?"


def kin_of(tid: int) -> tuple[int, int]:
    """The process that a task belongs to, and that one's parent; (tid, 0) when the task is already gone."""
    try:
        status = Path(f"{proc()}/{tid}/status").read_text(errors="replace")
    except OSError:
        return tid, 0
    fields = dict(line.split(":", 1) for line in status.splitlines())
    return int(fields["Tgid"]), int(fields["PPid"])


def has_filter(tid: int) -> bool:
    """Whether a task is under a seccomp filter; taken as so when it can't be read."""
    try:
        return "\nSeccomp:\t0" not in Path(f"{proc()}/{tid}/status").read_text(errors="replace")
    except OSError:
        return True


def dies_only_untraced(tid: int, signum: int) -> bool:
    """Whether a task is the init of a pid namespace and has no handler for a fault's signal."""
    try:
        status = Path(f"{proc()}/{tid}/status").read_text(errors="replace")
    except OSError:
        return False
    fields = dict(line.split(":", 1) for line in status.splitlines())
    pids = fields["NSpid"].split()
    return len(pids) > 1 and pids[-1] == "1" and not int(fields["SigCgt"], 16) >> signum - 1 & 1


def privilege_lost(pid: int) -> str:
    """What no_new_privs kept an executed file from giving to a process: `linux.privilege_lost`; "" too if it is gone."""
    try:
        process = os.stat(f"{proc()}/{pid}")
    except OSError:
        return ""
    return linux.privilege_lost(f"{proc()}/{pid}/exe", process.st_uid, process.st_gid)
