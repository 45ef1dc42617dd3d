"""The processes of a program that is followed through its phases: the tasks of each, and the phase that it has reached."""

from __future__ import annotations

import os

from callfence.enforcer import kernel
from callfence.tracer import TYPE_CHECKING, linux
from callfence.tracer.proc import fields_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from callfence.enforcer.listener import StoppedRequest
    from callfence.tracer.stops import Stop

    Call = tuple[int, int]
    """AUDIT_ARCH_* and number."""


class Memory:
    """The memory of a process, or of several (CLONE_VM, vfork)."""

    __slots__ = ("reached",)

    def __init__(self) -> None:
        self.reached = 0
        """How many phases the furthest of these processes has reached.  One that is behind would do what that one writes; and
        one in its last phase, which is not traced, could change a filter before the kernel reads it."""


class Process:
    """A traced process."""

    __slots__ = (
        "doomed", "is_reported", "is_starting", "is_stuck", "last", "memory", "pid", "reached", "shares", "threads"
    )  # fmt: skip

    def __init__(self, pid: int, reached: int, last: int, *, shares: bool) -> None:
        self.pid = pid
        self.reached = reached
        """How many phases it has entered or skipped, at least.  At a trigger of a later phase, it gets the filters of all
        phases from here up to that one; getting a filter twice does no harm."""
        self.last = last
        """How many phases there are."""
        self.threads: set[int] = set()
        self.is_starting = False
        """Whether it has not executed the program yet."""
        self.is_stuck = False
        """Whether it could not enter a phase, and goes on without until it executes another program."""
        self.is_reported = False
        """Whether it has been printed that it cannot enter a phase."""
        self.doomed = 0
        """The task whose denied call ends the process; 0 if there is none.  No task of the process is resumed then."""
        self.shares = shares
        """Whether another process may have the same table of descriptors (CLONE_FILES)."""
        self.memory = Memory()

    @property
    def is_left(self) -> bool:
        """Whether it is in its last phase, so that its threads are detached at their next stop."""
        return self.reached == self.last

    @property
    def is_behind(self) -> bool:
        """Whether it shares its memory with a process that is in a later phase."""
        return self.reached < self.memory.reached

    def kill(self) -> None:
        """Kill the process.  Raises ProcessLookupError."""
        if self.pid == 1:  # of this pid namespace: it ignores even SIGKILL from inside, but not the end of its tracer
            os._exit(0)
        os.kill(self.pid, linux.SIGKILL)


class Processes:
    """The processes that are traced, and their tasks."""

    def __init__(self, phases: int, at_start: int, *, counts: bool) -> None:
        """`phases`: the number of phases.  `at_start`: how many filters a process has before the first; -1 if that is not
        known.  `counts`: the program installs no filters itself, so the number of filters gives the number of phases
        reached."""
        self._phases = phases
        self._at_start = at_start if counts else -1
        self._processes: dict[int, Process] = {}
        self.tasks: dict[int, Process] = {}
        self.inside: dict[int, Call] = {}
        """The call that each task is in, by the task's id."""
        self.flags: dict[int, int] = {}
        """The flags of each task's last clone."""
        self.made: dict[int, StoppedRequest] = {}
        """The calls that are made for stopped tasks and answered later, by the task's id."""
        self._starting: dict[int, Call] = {}
        """The call by which each task starts another, until its ptrace event comes; the same object as in `inside`."""
        self._lost: Memory | None = None
        """The memory of all tasks that ended as they started another one with the same memory (CLONE_VM, vfork).  It is not
        known which that is, so from then on each process without a known creator counts as one that has this memory."""
        self._early: dict[int, tuple[Stop, list[tuple[int, Call]]]] = {}
        """The tasks that stopped or ended before the event of their creator came: the stop, and the possible creators."""

    # How tasks come

    def adopt(self, pid: int, parent: Process | None = None) -> Process:
        """Add a task, and its process if that is new; return the process."""
        fields = fields_of(pid)
        tgid = int(fields.get("Tgid", pid))
        process = self._processes.get(tgid)
        if process is None:
            parent = parent or self._processes.get(int(fields.get("PPid", 0)))
            shares = bool(parent and parent.shares)
            reached = self._reached(fields, parent)
            process = self._processes[tgid] = Process(tgid, reached, self._phases, shares=shares)
        process.threads.add(pid)
        self.tasks[pid] = process
        return process

    def _reached(self, fields: Mapping[str, str], parent: Process | None) -> int:
        """Return how many phases a new process has reached: it inherits its creator's filters, one for each phase.

        If the filters cannot be counted, return the creator's number, less one if that is in its last phase: getting a filter
        twice does no harm."""
        count = int(fields.get("Seccomp_filters", -1)) - self._at_start
        if self._at_start >= 0 and 0 <= count <= self._phases:
            return count
        return parent.reached - parent.is_left if parent else 0

    def started(self, new: int, parent: Process, pid: int, event: int) -> None:
        """Add the task `new`, which the task `pid` of the process `parent` has started, by the ptrace `event`."""
        self._starting.pop(pid, None)
        if not os.path.exists(str(new)):
            return
        child = self.adopt(new, parent)
        if child is parent:
            return
        flags = self.flags.get(pid, 0)
        if event == linux.PTRACE_EVENT_VFORK or _gives_memory(flags):
            child.memory = parent.memory
            child.memory.reached = max(child.memory.reached, parent.reached, child.reached)
        shares = kernel.shares_files(new, pid)
        if flags & linux.CLONE_FILES if shares is None else shares:
            child.shares = parent.shares = True

    def behind(self, memory: Memory) -> list[Process]:
        """Return the processes with this memory that are in an earlier phase than another one with it."""
        return [each for each in self._processes.values() if each.memory is memory and each.is_behind]

    def started_by_nobody(self, pid: int) -> Process:
        """Add a task whose creator has ended; return its process, which may share what that one had."""
        process = self.adopt(pid)
        if process.pid == pid:
            process.shares = True
            if self._lost:
                process.memory = self._lost
                self._lost.reached = max(self._lost.reached, process.reached)
        return process

    def starts(self, pid: int, call: Call, flags: int = 0) -> None:
        """Note that a task is in a call that starts another task, with the `flags` of clone(2)."""
        self._starting[pid], self.flags[pid] = call, flags

    def store_early(self, pid: int, stop: Stop) -> None:
        """Store the first stop, or the end, of a new task until its creator's event (PTRACE_EVENT_CLONE or the like) tells what
        the two share."""
        self._early[pid] = stop, [creator for creator in self._starting.items() if self._is_starting(*creator)]

    def take_early(self, pid: int) -> Stop | None:
        """Remove and return the stop or end of a task that came before its creator's event; None if there is none."""
        early = self._early.pop(pid, None)
        return early[0] if early else None

    def take_orphan(self) -> tuple[int, Stop] | None:
        """Remove and return a stored task, with its stop or end, whose creator died before its event came; None if there is
        none.  It is not known with which process such a task shares its table of descriptors."""
        for pid, (stop, creators) in self._early.items():
            if not any(self._is_starting(*creator) for creator in creators):
                del self._early[pid]
                return pid, stop
        return None

    def _is_starting(self, pid: int, call: Call) -> bool:
        """Return whether a task is still in this very call, and the event for the task that it starts has not come."""
        return self._starting.get(pid) is call and self.inside.get(pid) is call

    # How they change and go

    def executed(self, pid: int) -> None:
        """Note that a process has executed another program: only one thread is left, whose id is the process's."""
        process = self._processes[pid]
        process.is_starting = process.is_reported = process.is_stuck = False
        process.shares = False  # its table of descriptors is its own now
        for task in process.threads:
            self._lose(task)
        self.inside[pid] = (0, 0)  # the exit of its execve comes
        process.memory = Memory()
        for task in process.threads:
            self._drop_made(task)
        for task in process.threads - {pid}:
            self.tasks.pop(task, None)
            self.inside.pop(task, None)
        process.threads = {pid}
        self.tasks[pid] = process

    def forget(self, pid: int) -> None:
        """Remove a task that has ended or is detached."""
        self._lose(pid)
        process = self.tasks.pop(pid, None)
        self._drop_made(pid)
        for table in (self.inside, self._starting, self.flags):
            table.pop(pid, None)
        if process is not None:
            process.threads.discard(pid)
            if not process.threads:
                self._processes.pop(process.pid, None)

    def _lose(self, pid: int) -> None:
        """Note that a task is not there any more, which may have started another one that nobody will tell of."""
        call = self._starting.get(pid)
        if call is None or not self._is_starting(pid, call) or not _gives_memory(self.flags[pid]):
            return
        memory = self.tasks[pid].memory
        self._lost = self._lost or Memory()
        self._lost.reached = max(self._lost.reached, memory.reached)
        for process in self._processes.values():
            if process.memory is memory:
                process.memory = self._lost

    def _drop_made(self, pid: int) -> None:
        if request := self.made.pop(pid, None):
            request.is_gone = True

    def forget_replaced(self) -> None:
        """Remove the tasks that vanished without an event, since a detached thread of their process executed a program."""
        for process in [process for process in self._processes.values() if process.is_left]:
            for task in [task for task in process.threads if fields_of(task).get("TracerPid") in (None, "0")]:
                self.forget(task)


def _gives_memory(flags: int) -> bool:
    """Return whether a clone(2) with these flags starts another process with the same memory."""
    return bool(flags & linux.CLONE_VM and not flags & linux.CLONE_THREAD)
