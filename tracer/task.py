"""The tracer's state of a task and of the executable that its process runs; and the ways to resume a task."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import Final

from callfence.tracer import linux
from callfence.tracer.abi import Event, EventCounter

Hot = dict[int, EventCounter]
"""The counters of observations, by the number and the argument bits that distinguish them."""


class Way(IntEnum):
    """A way to resume a task; the value is the ptrace request for it."""

    RUN = linux.PTRACE_CONT
    """The task stops only at calls for which a filter returns RET_TRACE (seccomp stops)."""
    CALLS = linux.PTRACE_SYSCALL
    """The task stops at the entry and at the exit of each call."""
    LISTEN = linux.PTRACE_LISTEN
    """The task stays in its group-stop."""
    LEAVE = linux.PTRACE_DETACH
    """The task is no longer traced."""


NEVER: Final = 1 << 62
"""A number of calls that no process reaches."""


class Plan:
    """A seccomp filter that the tracer will install in a process, and the state of its installation."""

    def __init__(self, filter_: bytes, code: Sequence[tuple[int, int]] = (), copied: int = 0) -> None:
        """`copied`: the address of memory that was mapped for the filter in the parent before a fork, and must be unmapped in
        the child; 0 for none."""
        self.filter = filter_
        self.code = code
        """The address ranges of code for which the filter allows calls (`late.filter.Spans`); empty for all code."""
        self.is_refused = False
        """Whether the kernel has refused it."""
        self.area = copied
        """The address of memory that was mapped for it in the process; 0 for none."""
        self.is_installed = bool(copied)
        """Whether the filter is installed, so that only `area` has to be unmapped."""


class Image:
    """The state of a process while it runs one executable.  Mutable; shared by its threads."""

    def __init__(self, budget: int = NEVER, maker: Image | None = None) -> None:
        self.maker = maker
        """The image of the process that forked this one; None after an execve."""
        self.starts = 0
        """How many of the processes that it forked have executed a file."""
        self.budget = budget
        """How many more calls under PTRACE_SYSCALL there are until `Late` looks at the process."""
        self.calls = 0
        """The number of its calls when `Late` last looked at it."""
        self.quiet = 0
        """How many calls before that, in a row, brought no new observation."""
        self.since = 0.0
        """When `Late` last looked at it, in seconds of time.monotonic."""
        self.used = 0.0
        """The processor time that the process had used by then, in seconds."""
        self.news = 0
        """`Tally.news` of the executable by then."""
        self.news_at_start = 0
        self.stops = 0
        """The number of calls that its task had made when the image began."""
        self.whole = False
        """Whether it began with an execve and not with a fork, so that all calls of the executable were recorded."""
        self.threads = 1
        self.synchronised = False
        """Whether a thread has installed a filter in the other threads (TSYNC), which may have been forking at that moment."""
        self.plan: Plan | None = None
        self.code: Sequence[tuple[int, int]] = ()
        """The address ranges of code for which its filter works; empty for all code.  Calls by other code are not recorded, so
        the process must not map more code."""
        self.strict = False
        """Whether its next filter must work for all code."""
        self.barred = False
        """Whether the tracer installs no more filters in it."""

    def finish_plan(self, *, barred: bool) -> None:
        """End the plan.  With `barred`, the tracer never plans another filter for this image."""
        self.plan, self.budget, self.barred = None, NEVER, self.barred or barred


class Page:
    """What a thread has called since its process last started a thread, or began a wait."""

    __slots__ = ("counters", "entered", "threads")

    def __init__(self, threads: int, entered: int) -> None:
        self.threads = threads
        """How many threads the process had started, at most MAX_THREADS."""
        self.entered = entered
        """The waits that the process had begun (`Task.entered`)."""
        self.counters: dict[int, EventCounter] = {}
        """The counters of the calls, by id()."""


class Task:
    """A task (thread) of the program.  Mutable: the event loop keeps its state here."""

    def __init__(self, tid: int, tgid: int) -> None:
        self.tid = tid
        self.tgid = tgid
        self.executable = "?"
        self.hot: Hot = {}
        """Counters by key (`Tally`), shared by all tasks of this executable, unless waits are followed."""
        self.filtered = True
        """Whether a filter of the tracer stops each call that must be handled (`Calls`)."""
        self.covered = True
        """Whether a filter of the tracer stops each call that may be new, unless another filter answers it first."""
        self.other_filter = False
        """Whether a filter that the tracer did not install is in force."""
        self.exposed = False
        """Whether a thread of its process is in a call that may install a filter of the program in this task."""
        self.pending = False
        """Whether work remains for its next syscall stop, so that it must stop at each call and not only at a filter's."""
        self.watched = 0
        """How many more of its calls stop at their entry and their exit, for what they read (`Calls.watch`)."""
        self.call: Event | None = None
        """While it is watched: its current call, if a handler is called at the exit of that call."""
        self.leaving = False
        """Whether the tracer detaches from it at its next stop."""
        self.chain = 0
        """The sum of the weights of its late filters, which the kernel limits (`late.filter.weight`)."""
        self.image = Image()
        self.recorded = True
        """Whether its calls are recorded; False until the program itself runs."""
        self.installing = ""
        """'one' or 'all' (threads) while it is in a call that installs a filter of the program's."""
        self.namespaces = 0
        """How many pid namespaces it is in, which never changes (pid_namespaces(7)); 0 if that has not been read."""
        self.signalled = False
        """Whether a signal to it was recorded (`tracer.aims`)."""
        self.counted = False
        """Under PTRACE_SYSCALL: whether its current call was counted at the entry stop."""
        self.entered = 0
        """The waits that its process has begun or inherited, and how often it was forked, as bits of tracer.abi.waits, if these
        are followed."""
        self.waited = 0
        """The waits that it has begun itself since its process has threads."""
        self.pages: list[Page] = []
        """What it has called since its process has threads, if waits are followed."""
        self.began = 0
        """How many threads its process had started when it began, with itself (`Page.threads`)."""
        self.affinity: set[int] | None = None
        """Its own affinity, if it or its creator has ever been pinned to the tracer's processor; else None."""
        self.own_affinity = False
        """Whether the program has set its affinity itself: then the tracer does not change it."""
        self.apart = False
        """Whether it may read its affinity in calls that do not stop: then the tracer does not change it."""
        self.stops = 0
        """How many of its calls have stopped."""
        self.checked = 0.0
        """When its rate of stops was last measured, in seconds of time.monotonic."""
        self.stopped = 0
        """The signal of its group-stop, under PTRACE_LISTEN; 0 if it is in none."""

    @property
    def way(self) -> Way:
        """The way to resume the task after a stop."""
        if self.leaving:
            return Way.LEAVE
        is_shown = self.covered and not (self.other_filter or self.exposed or self.pending or self.watched)
        return Way.RUN if is_shown else Way.CALLS

    @property
    def is_only_watched(self) -> bool:
        """Whether a filter of the tracer stops each call that may be new, although the task stops at each call."""
        return self.covered and not (self.other_filter or self.exposed)

    def child(self, tid: int, tgid: int) -> Task:
        """Return the state of a new task that this task has created."""
        child = Task(tid, tgid)
        child.executable = self.executable
        child.hot = self.hot
        child.image = self.image
        child.take_over(self)
        return child

    def take_over(self, other: Task) -> None:
        """Copy the filters, affinity and other inherited state of `other`: the creator of this new task, or the thread whose
        execve this thread group's leader continues."""
        self.filtered, self.covered = other.filtered, other.covered
        self.other_filter, self.exposed, self.leaving = other.other_filter, other.exposed, other.leaving
        self.chain, self.recorded, self.entered = other.chain, other.recorded, other.entered
        self.watched = other.watched
        self.affinity, self.own_affinity, self.apart = other.affinity, other.own_affinity, other.apart
