"""Whom a program's signals go to: only to the processes that it has started, or to others too.

What Landlock's scope of signals would deny (landlock(7)): a signal to a process outside, and a look at one through the links of
/proc/PID, since a process in a Landlock domain may not trace one outside it (ptrace(2)).
"""

from __future__ import annotations

import contextlib
import os
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tracer import pids
from tracer.abi import Arch, table
from tracer.task import kin_of, namespaces_of, proc, read_path

if TYPE_CHECKING:
    from collections.abc import Callable

    from tracer.abi import Event
    from tracer.calls import Calls
    from tracer.task import Task

_BY_PID = tuple(sorted({row.name for row in pids.rows(pids.SIGNALS, pids.REGISTER) if row.argument == 0}))
"""Their first argument is the target."""
_BY_PIDFD = tuple(row.name for row in pids.rows(pids.SIGNALS, pids.DESCRIPTOR))
_BY_PATH = ("readlink", "readlinkat")
_MANY: Final = 1024
"""Links that an executable has read without a look at another process, after which it is taken to read others for ever."""


class Aims:
    """Looks at the calls of a run that reach other processes."""

    def __init__(self, tasks: dict[int, Task], found: Callable[[bool], None]) -> None:
        """`tasks`: those that are followed, by tid.  `found` is told of each target whether it was outside."""
        self._tasks = tasks
        self._found = found
        self._links: dict[str, int] = defaultdict(int)
        """By executable, how many links it was seen to read."""

    def attach(self, calls: Calls) -> None:
        for arch in (Arch.X86_64, Arch.I386):
            handlers = dict.fromkeys(_BY_PID, self._by_pid) | dict.fromkeys(_BY_PATH, self._looks)
            handlers |= dict.fromkeys(_BY_PIDFD, self._by_pidfd)
            for name, handler in handlers.items():
                calls.also(arch.audit, table(arch).by_name[name].number, handler, always=name not in (*_BY_PID, *_BY_PATH))
        by_name = table(Arch.X86_64).by_name
        calls.first.update((by_name[name].number, self.targets) for name in _BY_PID)
        calls.first.update((by_name[name].number, self._reads_links) for name in _BY_PATH)

    def _reads_links(self, executable: str) -> frozenset[int] | None:
        return None if self._links[executable] >= _MANY else frozenset()

    def targets(self, executable: str) -> frozenset[int]:
        """The tasks of the program to which a signal was seen: another signal there tells nothing new, and nor does one to that
        number in a pid namespace that the program makes (`_target`).

        The numbers of these tasks can become other processes' when they have ended, and after all other numbers.  A signal by
        which the program then reaches a process outside is taken to be to its own; `scope signals` denies that."""
        return frozenset(tid for tid, task in self._tasks.items() if task.signalled)

    def _by_pid(self, task: Task, event: Event) -> None:
        self._target(task, _signed(event.arguments[0]))

    def _by_pidfd(self, task: Task, event: Event) -> None:
        with contextlib.suppress(OSError):  # no such descriptor
            text = Path(f"{proc()}/{task.tid}/fdinfo/{_signed(event.arguments[0])}").read_text()
            fields = dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)
            self._target(task, int(fields.get("Pid", 0)) or -1)

    def _looks(self, task: Task, event: Event) -> None:
        self._links[task.executable] += 1
        names = table(Arch.from_audit(event.arch) or Arch.X86_64).by_number
        path = read_path(task.tid, event.arguments[names[event.number].name == "readlinkat"])
        _, root, pid, *rest = (*path.split(b"/"), b"", b"")
        if root == b"proc" and pid.isdigit() and any(rest) and _namespaces(task) == 1 and self._is_outside(int(pid)):
            self._found(True)

    def _target(self, task: Task, pid: int) -> None:
        """A signal to a process, a group (negative), the task's own group (0) or everybody (-1)."""
        if (namespaces := _namespaces(task)) != 1:
            self._found(namespaces == 0)  # in a pid namespace that it has made, the program can name its own processes alone
        elif pid in self._tasks:
            self._tasks[pid].signalled = True
            self._found(False)
        elif pid > 0:
            outside = self._is_outside(pid)
            if outside is not None:
                self._found(outside)
        else:
            group = os.getpgid(task.tgid) if pid == 0 else -pid
            self._found(pid == -1 or group not in self._tasks)  # a group that a process of the program has made

    def _is_outside(self, pid: int) -> bool | None:
        """None if there is no such task."""
        if pid in self._tasks:
            return False
        process, parent = kin_of(pid)
        return None if parent == 0 and process == pid != 1 else parent not in self._tasks


def _namespaces(task: Task) -> int:
    """`namespaces_of`, asked once for each task: reading that takes as long as all the rest."""
    task.namespaces = task.namespaces or namespaces_of(task.tid)
    return task.namespaces


def _signed(register: int) -> int:
    value = register & 0xFFFFFFFF
    return value - (value >> 31 << 32)
