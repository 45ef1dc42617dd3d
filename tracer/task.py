"""What the tracer knows about one task, of the program that its process runs, and how the task is resumed."""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, Any, Final

from tracer import linux

if TYPE_CHECKING:
    from collections.abc import Sequence

Hot = dict[int, list[Any]]
"""The counters of observations, by the number and the argument bits that distinguish them."""


class Way(IntEnum):
    """How a task is resumed, as the ptrace request that does it."""

    RUN = linux.PTRACE_CONT
    """Filters show its calls, in seccomp stops."""
    CALLS = linux.PTRACE_SYSCALL
    """Each call stops at its entry and its exit."""
    LISTEN = linux.PTRACE_LISTEN
    """It stays in its group-stop."""
    LEAVE = linux.PTRACE_DETACH
    """It is not traced any more."""


NEVER: Final = 1 << 62
"""More calls than a process makes."""


class Plan:
    """A filter that is being put into a process."""

    def __init__(self, filter_: bytes, code: Sequence[tuple[int, int]] = (), copied: int = 0) -> None:
        """`copied` is memory that was mapped for it in the process that this one was forked from: it is to be unmapped."""
        self.filter = filter_
        self.code = code
        """The code that it is for (`late.filter.Spans`); all if there is none."""
        self.is_refused = False
        """Whether the kernel has refused it."""
        self.area = copied
        """Memory that was mapped for it in the process; 0 for none."""
        self.is_installed = bool(copied)
        """Whether only unmapping remains to be done."""


class Image:
    """What one process is while it runs one executable.  Mutable; shared by its threads."""

    def __init__(self, budget: int = NEVER, maker: Image | None = None) -> None:
        self.maker = maker
        """That of the process which has forked it, until its execve."""
        self.starts = 0
        """How many processes that it has made have executed something."""
        self.budget = budget
        """How many more calls under PTRACE_SYSCALL there are until `Late` looks at the process."""
        self.calls = 0
        """Calls when it was last looked at."""
        self.quiet = 0
        """How many of them, the last ones, have brought no observation."""
        self.since = 0.0
        """When that was (time.monotonic)."""
        self.used = 0.0
        """Processor time that the process had used by then, in seconds."""
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

    def finish_plan(self, *, barred: bool) -> None:
        """End the plan; `barred`: for good."""
        self.plan, self.budget, self.barred = None, NEVER, self.barred or barred


class Task:
    """One thread.  Mutable: the event loop keeps its state here."""

    def __init__(self, tid: int, tgid: int) -> None:
        self.tid = tid
        self.tgid = tgid
        self.executable = "?"
        self.hot: Hot = {}
        """Counters by masked registers, shared by all tasks of this executable."""
        self.filtered = True
        """Whether a filter of ours stops each call that must be handled (`Calls`)."""
        self.covered = True
        """Whether a filter of ours stops each call that may be new, unless another filter answers before."""
        self.other_filter = False
        """Whether a filter that is not ours is in force."""
        self.exposed = False
        """Whether a thread of its process is in a call that may put a filter of the program's on it."""
        self.pending = False
        """Whether something remains to be done at its next stop at a call, also at one that no filter shows."""
        self.leaving = False
        """Whether we detach from it at its next stop."""
        self.chain = 0
        """What the late filters weigh (`late.filter.weight`)."""
        self.image = Image()
        self.recorded = True
        """False until the program itself runs: the launcher's calls are not the program's."""
        self.installing = ""
        """'one' or 'all' (threads) while it is in a call that installs a filter of the program's."""
        self.namespaces = 0
        """How many pid namespaces it is in, which never changes (pid_namespaces(7)); 0 until that was read."""
        self.signalled = False
        """Whether a signal to it was seen (`tracer.aims`)."""
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

    @property
    def way(self) -> Way:
        """How it is resumed after a stop."""
        if self.leaving:
            return Way.LEAVE
        is_shown = self.covered and not (self.other_filter or self.exposed or self.pending)
        return Way.RUN if is_shown else Way.CALLS

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
        self.filtered, self.covered = other.filtered, other.covered
        self.other_filter, self.exposed, self.leaving = other.other_filter, other.exposed, other.leaving
        self.chain, self.recorded, self.entered = other.chain, other.recorded, other.entered
        self.affinity, self.own_affinity, self.apart = other.affinity, other.own_affinity, other.apart
