"""What the tracer knows of one task, and where a call came from."""

from __future__ import annotations

import os
from pathlib import Path

from tracer import kernel

Hot = dict[int, list[int]]
"""The counter of an observation by the number and those argument bits that matter to it."""

class Task:
    """One thread.  Mutable: the event loop's own record."""

    __slots__ = (
        "checked",
        "executable",
        "filtered",
        "hot",
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
        self.request = kernel.PTRACE_CONT
        """PTRACE_CONT where seccomp stops show the calls, PTRACE_SYSCALL where entry stops must, PTRACE_DETACH at the end."""
        self.filtered = True
        """It has our recording filter: every task does, except where we attached to a running process."""
        self.recorded = True
        """False until the program itself runs: the launcher's calls are not its behaviour."""
        self.own_affinity = False
        """The program has chosen its processors itself: they are left alone."""
        self.stops = 0
        """Calls seen."""
        self.checked = 0.0
        """When its rate of stops was last looked at, in seconds of time.monotonic."""
        self.stopped = False
        """In a group-stop, under PTRACE_LISTEN."""

    def child(self, tid: int, tgid: int) -> Task:
        """A new task that this one has made."""
        child = Task(tid, tgid)
        child.executable = self.executable
        child.hot = self.hot
        child.request = self.request
        child.filtered = self.filtered
        child.recorded = self.recorded
        child.own_affinity = self.own_affinity
        return child


def executable_of(pid: int) -> str:
    """The path of a process's executable; '?' when it is gone or may not be read."""
    try:
        return os.readlink(f"/proc/{pid}/exe").removesuffix(" (deleted)")
    except OSError:
        return "?"


def kin_of(tid: int) -> tuple[int, int]:
    """The process that a task belongs to, and that one's parent; (tid, 0) when the task is already gone."""
    try:
        status = Path(f"/proc/{tid}/status").read_text(errors="replace")
    except OSError:
        return tid, 0
    return tuple(int(status.partition(f"\n{key}:")[2].split(None, 1)[0]) for key in ("Tgid", "PPid"))  # type: ignore[return-value]


def call_site(tid: int, ip: int) -> str:
    """`library+0xoffset` of an instruction, the offset being that in the file; `[anonymous]+0x…` outside of any file.

    '?' when the maps can't be read: never an error, since the call itself has been seen.
    """
    try:
        with open(f"/proc/{tid}/maps", encoding="utf-8", errors="surrogateescape") as maps:
            for line in maps:
                fields = line.rstrip("\n").split(None, 5)
                start, end = (int(part, 16) for part in fields[0].split("-"))
                if start <= ip < end:
                    name = os.path.basename(fields[5]) if len(fields) > 5 else "[anonymous]"
                    return f"{name}+{ip - start + int(fields[2], 16):#x}"
    except (OSError, ValueError):
        pass
    return "?"


def privilege_lost(pid: int) -> str | None:
    """What an exec'd file would have gained without no_new_privs: 'set-user-id', 'set-group-id', 'capabilities', or None."""
    path = f"/proc/{pid}/exe"
    try:
        mode = os.stat(path).st_mode
        if mode & 0o4000:
            return "set-user-id"
        if mode & 0o2010 == 0o2010:
            return "set-group-id"
        os.getxattr(path, "security.capability")
    except OSError:
        return None
    return "capabilities"
