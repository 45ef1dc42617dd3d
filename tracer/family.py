"""The tasks of the program: who was born of whom, and which executable each runs."""

from __future__ import annotations

from callfence.tracer.abi.waits import executed, forked
from callfence.tracer.proc import executable_of, kin_of
from callfence.tracer.processor import SharedProcessor
from callfence.tracer.tally import MAX_THREADS, Tally
from callfence.tracer.task import Task


class TaskFamily:
    """The program's tasks by tid: adds them when they start, removes them when they end, and counts processes and calls."""

    def __init__(self, tally: Tally, processor: SharedProcessor) -> None:
        self.tasks: dict[int, Task] = {}
        self.early: dict[int, int] = {}
        """Tasks whose first stop came before their parent's event, for which they wait, and the signal of that stop: 0 if it
        is no group-stop."""
        self.processes = 0
        """How many processes the program has had so far."""
        self.waits = {0}
        """The sets of waits that processes had begun when they ended or executed a file, if these are followed."""
        self._threads: dict[int, int] = {}
        """By process, if waits are followed: how many threads it has started, at most MAX_THREADS."""
        self._calls_of_dead = 0
        self._tally = tally
        self._processor = processor

    @property
    def calls(self) -> int:
        """How many calls of the program have stopped so far."""
        return self._calls_of_dead + sum(task.stops for task in list(self.tasks.values()))

    def add(self, tid: int, tgid: int) -> Task:
        """Add a task that the tracer has seized, and return it."""
        task = self.tasks[tid] = Task(tid, tgid)
        self._set_executable(task)
        self.processes += tid == tgid
        return task

    def _set_executable(self, task: Task) -> None:
        task.executable = executable_of(task.tgid)
        task.pages, task.began, task.waited = [], 0, 0
        self._tally.turn(task)

    def born(self, tid: int, parent: Task, *, is_thread: bool) -> Task:
        """When the kernel reports that `parent` has created the task `tid`, and attached the tracer: add it, and return it."""
        self.early.pop(tid, None)
        if (task := self.tasks.get(tid)) is None:  # else it was adopted before
            task = self.tasks[tid] = parent.child(tid, parent.tgid if is_thread else tid)
            self.processes += not is_thread
            if self._tally.has_waits and is_thread:
                self._begin_thread(task)
            elif self._tally.has_waits:
                task.entered = forked(parent.entered)
                self._tally.turn(task)
            self._processor.inherit(parent, task)
        return task

    def _begin_thread(self, task: Task) -> None:
        """Count the calls of each thread of a process apart from now on, since they may come in another order the next time."""
        before = self._threads.get(task.tgid, 0)
        task.began = self._threads[task.tgid] = min(before + 1, MAX_THREADS)
        for other in self.threads(task.tgid) if before < MAX_THREADS else [task]:
            self._tally.turn(other, task.began)

    def threads(self, tgid: int) -> list[Task]:
        """Return the tasks of a process."""
        return [task for task in list(self.tasks.values()) if task.tgid == tgid]

    def adopt(self) -> list[tuple[Task, int]]:
        """Add the tasks in `early`, whose parents were killed before they could report them, and return these tasks, each with
        the signal of its group-stop.  A thread counts as created by its process, a process by its present parent."""
        adopted = []
        for tid, signum in sorted(self.early.items()):
            tgid, ppid = kin_of(tid)
            parent = self.tasks.get(tgid if tgid != tid else ppid)
            adopted.append((self.born(tid, parent, is_thread=tgid != tid) if parent else self.add(tid, tgid), signum))
        self.early.clear()
        return adopted

    def executed(self, task: Task, former: int) -> None:
        """Update the tasks after an execve of the thread `former`.  All other threads of the process have ended; `task`, the
        leader of the thread group, runs the new program."""
        for tid, other in list(self.tasks.items()):
            if other.tgid == task.tgid and other is not task:
                if tid == former:
                    task.take_over(other)
                    self._processor.follow(former, task)
                self.drop(tid)
        self.waits.add(task.entered)
        self._threads.pop(task.tgid, None)
        task.entered = executed(task.entered)
        self._set_executable(task)

    def drop(self, tid: int) -> None:
        """Remove a task that has ended."""
        if task := self.tasks.pop(tid, None):
            self._calls_of_dead += task.stops
            self._tally.forget(tid)
            if tid == task.tgid:
                self._threads.pop(tid, None)
                self.waits.add(task.entered)
            self._processor.forget(tid)
