"""The tasks that are traced: how they start, execute and end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tracer.proc import executable_of, kin_of
from tracer.task import Task

if TYPE_CHECKING:
    from tracer.processor import SharedProcessor
    from tracer.tally import Tally


class TaskFamily:
    """The program's tasks by tid, and how many there were."""

    def __init__(self, tally: Tally, processor: SharedProcessor) -> None:
        self.tasks: dict[int, Task] = {}
        self.early: set[int] = set()
        """Tasks whose first stop came before their parent's event: they stay stopped until that comes."""
        self.processes = 0
        """Processes seen so far."""
        self._calls_of_dead = 0
        self._tally = tally
        self._processor = processor

    @property
    def calls(self) -> int:
        """Calls seen so far."""
        return self._calls_of_dead + sum(task.stops for task in list(self.tasks.values()))

    def add(self, tid: int, tgid: int) -> Task:
        """Add a task that we have seized."""
        task = self.tasks[tid] = Task(tid, tgid)
        self.set_executable(task)
        self.processes += tid == tgid
        return task

    def set_executable(self, task: Task) -> None:
        task.executable = executable_of(task.tgid)
        task.hot = self._tally.hot(task.executable, task.entered)

    def born(self, tid: int, parent: Task, *, is_thread: bool) -> Task:
        """Add a task that the kernel has attached for us, at its parent's event."""
        self.early.discard(tid)
        if (task := self.tasks.get(tid)) is None:  # else it was adopted before
            task = self.tasks[tid] = parent.child(tid, parent.tgid if is_thread else tid)
            self.processes += not is_thread
            self._processor.inherit(parent, task)
        return task

    def adopt(self) -> list[Task]:
        """Add the tasks in `early`: their parents were killed before their events.

        Each becomes a child of the process that it belongs to or is a child of now.
        """
        adopted = []
        for tid in sorted(self.early):
            tgid, ppid = kin_of(tid)
            parent = self.tasks.get(tgid if tgid != tid else ppid)
            adopted.append(self.born(tid, parent, is_thread=tgid != tid) if parent else self.add(tid, tgid))
        self.early.clear()
        return adopted

    def executed(self, task: Task, former: int) -> None:
        """An execve of thread `former` has ended all other threads; `former` goes on as `task`, the process's leader."""
        for tid, other in list(self.tasks.items()):
            if other.tgid == task.tgid and other is not task:
                if tid == former:
                    task.take_over(other)
                    self._processor.follow(former, task)
                self.drop(tid)
        self.set_executable(task)

    def drop(self, tid: int) -> None:
        """Remove a task that has ended."""
        if task := self.tasks.pop(tid, None):
            self._calls_of_dead += task.stops
            self._processor.forget(tid)
