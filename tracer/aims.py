"""Whether a program signals or inspects only the processes that it has started, or other processes too.

That is what Landlock's scope of signals would deny (landlock(7)): a signal to a process outside the program, also a signal
that the kernel is to send later (F_SETOWN), and reading such a process by ptrace(2) and similar calls or by the files of
/proc/PID, since a process in a Landlock domain may not trace a process outside it.
"""

from __future__ import annotations

import contextlib
import os
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Final

from callfence.tracer import pids
from callfence.tracer.abi import NATIVE, Arch, Event, table
from callfence.tracer.calls import Calls
from callfence.tracer.kernel import read_memory, read_path
from callfence.tracer.proc import kin_of, namespaces_of, proc
from callfence.tracer.task import Task

_BY_PID = tuple(sorted({row.name for row in pids.rows(pids.SIGNALS, pids.REGISTER) if row.argument == 0}))
"""Names of the calls whose first argument is the pid that they signal."""
_WORD: Final = 0xFFFFFFFF
_GROUP: Final = (2).to_bytes(4, "little")
"""F_OWNER_PGRP, asm-generic/fcntl.h."""
_PUBLIC = (
    b"stat", b"status", b"statm", b"cmdline", b"comm", b"cgroup", b"limits", b"sched", b"mounts", b"mountinfo", b"fd", b"task",
)  # fmt: skip
"""Names of the files and folders in /proc/PID that every process of the machine may open (fs/proc/base.c)."""
_BY_PIDFD = tuple(row.name for row in pids.rows(pids.SIGNALS, pids.DESCRIPTOR))
_READS = ("kcmp", "migrate_pages", "move_pages", "perf_event_open", "prctl", "process_vm_readv", "process_vm_writev", "ptrace")
"""Calls that read or control another process, and do not only change how it is scheduled."""
_LINKS = {"readlink": 0, "readlinkat": 1}
_OPENS = {"open": 0, "openat": 1}
"""The index of the path argument, by name of the call."""
_MAX_EXAMINED: Final = 1024
"""The most links read, and the most files opened, by one executable that are examined; later ones are not."""


class Aims:
    """Watches the calls of a run that signal or inspect other processes."""

    def __init__(self, tasks: dict[int, Task], report: Callable[[bool], None]) -> None:
        """`tasks`: the program's tasks by tid.  `report` is called for each target: with True if it is outside the program."""
        self._tasks = tasks
        self._report = report
        self._links: dict[str, int] = defaultdict(int)
        """By executable, how many of the links that it read were examined."""
        self._opens: dict[str, int] = defaultdict(int)
        """By executable, how many of the files that it opened were examined."""

    def attach(self, calls: Calls) -> None:
        """Have the tracer call this class at the calls of a run that can signal or inspect a process."""
        handlers = dict.fromkeys(_BY_PID, self._by_pid) | dict.fromkeys(_LINKS, self._reads_link)
        handlers |= dict.fromkeys(_BY_PIDFD, self._by_pidfd) | dict.fromkeys(_OPENS, self._opens_file)
        handlers |= {row.name: self._sets_owner for row in pids.rows(pids.SIGNALS) if row.selector}
        handlers |= dict.fromkeys(_READS, self._looks)
        for name, handler in handlers.items():
            calls.also_named(name, handler, always=name in _BY_PIDFD)
        by_name = table(NATIVE).by_name
        calls.first.update((by_name[name].number, self.targets) for name in _BY_PID)
        calls.first.update((by_name[name].number, self._reads_links) for name in _LINKS if name in by_name)

    def _reads_links(self, executable: str) -> frozenset[int] | None:
        return None if self._links[executable] >= _MAX_EXAMINED else frozenset()

    def targets(self, executable: str) -> frozenset[int]:
        """Return the tids of the program's tasks to which a signal was recorded, whatever the executable.  A further signal to
        one of these tasks shows nothing new, and neither does one to the same number in a new pid namespace (`_target`).

        The kernel can reuse the tid of an ended task for another process, once it has used all other numbers.  A signal to that
        process is then recorded as one to the program's own task; `scope signals` denies it."""
        return frozenset(tid for tid, task in self._tasks.items() if task.signalled)

    def _by_pid(self, task: Task, event: Event) -> None:
        self._target(task, _signed(event.arguments[0]))

    def _by_pidfd(self, task: Task, event: Event) -> None:
        descriptor = _signed(event.arguments[0])
        with contextlib.suppress(OSError):  # no such descriptor
            text = Path(f"{proc()}/{task.tid}/fdinfo/{descriptor}").read_text()
            fields = dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)
            folder = os.readlink(f"{proc()}/{task.tid}/fd/{descriptor}").rpartition("/")  # one of /proc is a pidfd, too
            pid = folder[2] if folder[0] == "/proc" and folder[2].isdigit() else "0"
            self._target(task, int(fields.get("Pid", pid)) or -1)

    def _reads_link(self, task: Task, event: Event) -> None:
        self._links[task.executable] += 1
        self._names(task, read_path(task.tid, event.arguments[_LINKS[_name(event)]]))

    def _opens_file(self, task: Task, event: Event) -> None:
        if self._opens[task.executable] < _MAX_EXAMINED:
            self._opens[task.executable] += 1
            path = read_path(task.tid, event.arguments[_OPENS[_name(event)]])
            if path.startswith(b"/proc/") and path.rpartition(b"/")[2] not in _PUBLIC:
                self._names(task, path)

    def _names(self, task: Task, path: bytes) -> None:
        """Report the process of a path in /proc/PID that a task opens or reads; do nothing for another path."""
        _, root, pid, *rest = (*path.split(b"/"), b"", b"")
        if root == b"proc" and pid.isdigit() and any(rest):
            self._look(task, int(pid))

    def _looks(self, task: Task, event: Event) -> None:
        for row in pids.rows(pids.CHANGES, pids.REGISTER):
            if row.selector and event.arguments[row.selector[0]] & _WORD not in row.selector[1:]:
                continue
            if row.name == _name(event) and (pid := _signed(event.arguments[row.argument])) > 0:
                self._look(task, pid)

    def _look(self, task: Task, pid: int) -> None:
        if _namespaces(task) == 1 and self._is_outside(pid):
            self._report(True)

    def _sets_owner(self, task: Task, event: Event) -> None:
        """Report the target of the signals that a call has the kernel send later (F_SETOWN and similar)."""
        name = _name(event)
        for row in pids.rows(pids.SIGNALS):
            if row.name != name or not row.selector or event.arguments[row.selector[0]] & _WORD not in row.selector[1:]:
                continue
            owner = event.arguments[row.argument]
            if row.place == pids.MEMORY:  # struct f_owner_ex {int type; pid_t pid}; an int
                is_typed = row.name != "ioctl"
                words = read_memory(task.tid, owner, 8 if is_typed else 4)
                owner = int.from_bytes(words[4 * is_typed :], "little")
                if is_typed and words[:4] == _GROUP:
                    owner = -owner
            if _signed(owner):  # 0: no process
                self._target(task, _signed(owner))

    def _target(self, task: Task, pid: int) -> None:
        """Report a signal to a process, a group (negative), the task's own group (0) or all processes (-1)."""
        if (namespaces := _namespaces(task)) != 1:
            self._report(namespaces == 0)  # in a pid namespace that it has made, the program can name its own processes alone
        elif pid in self._tasks:
            self._tasks[pid].signalled = True
            self._report(False)
        elif pid > 0:
            self._report(bool(self._is_outside(pid)))  # one that has ended is not reached
        else:
            group = os.getpgid(task.tgid) if pid == 0 else -pid
            self._report(pid == -1 or group not in self._tasks)  # a group that a process of the program has made

    def _is_outside(self, pid: int) -> bool | None:
        """Return whether a task, and the parent of its process, are not the program's; None if there is no such task."""
        if pid in self._tasks:
            return False
        process, parent = kin_of(pid)
        return None if parent == 0 and process == pid != 1 else parent not in self._tasks


def _namespaces(task: Task) -> int:
    """Return `namespaces_of` a task, which is read once for each task: reading it takes as long as the rest of a stop."""
    task.namespaces = task.namespaces or namespaces_of(task.tid)
    return task.namespaces


def _name(event: Event) -> str:
    return table(Arch.from_audit(event.arch) or NATIVE).by_number[event.number].name


def _signed(register: int) -> int:
    value = register & 0xFFFFFFFF
    return value - (value >> 31 << 32)
