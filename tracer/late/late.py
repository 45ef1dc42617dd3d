"""Decides which process gets a late filter, which lets the calls run that were recorded already, and when.

A process starts under PTRACE_SYSCALL, with two stops a call.  Once it makes known calls again and again, it gets a filter
that lets exactly those run.  A filter cannot be taken back, so a call that becomes known later stops each time, once.
Children inherit it, also over execve: the calls of the other executable are seen under PTRACE_SYSCALL, until it is given a
filter of its own.  So that they do not stop at the earlier filters as well, those are for calls by the code of their own
process, if one thread alone uses its memory (`tracer.late.filter`).
"""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Final

from callfence.tracer import kernel
from callfence.tracer.abi import NATIVE, Event, table
from callfence.tracer.calls import Calls
from callfence.tracer.errors import PtraceError
from callfence.tracer.kernel import event_of
from callfence.tracer.late import filter as filters
from callfence.tracer.late.filter import Key
from callfence.tracer.late.inject import Entry, Stops, room
from callfence.tracer.linux import PTRACE_EVENT_VFORK
from callfence.tracer.proc import has_as_many_filters, processor_time
from callfence.tracer.processor import SharedProcessor
from callfence.tracer.tally import Tally
from callfence.tracer.task import NEVER, Image, Plan, Task

LOOK: Final = 64
"""Calls between two looks at a process."""
QUIET_CALLS: Final = 256
"""Calls without a new observation that a process must have made at least."""
BURST: Final = 1024
"""Calls without a new observation after which a process that does little besides has settled.  A shorter burst often belongs to
a start (PostgreSQL: 960 dups), and a filter that is made then stops all later calls, in all children too."""
BUSY: Final = LOOK * 25e-6
"""Seconds of processor time for LOOK calls below which a process does little besides; of it a stop takes some 5 us."""
AWAKE: Final = LOOK * 1e-3
"""Seconds in which a process that does not wait makes LOOK calls, also on a machine with much else to do."""
COST: Final = 4096
"""Calls without a new observation of an executable's processes, whose stops have cost as much as a filter that comes too early:
they may get one now."""
NEW: Final = 64
"""If at most one of so many calls of a process was new, the next process of its executable gets a filter at once; what is new
to that filter stops each time."""
STARTS: Final = 32
"""Other executables after whose start a process has settled after QUIET_CALLS calls: no program begins with so many."""
OPENS: Final = 16
"""Files that a process of an executable opens for reading, on average, from which on these opens may run: a stop costs some
25 us, and setting the process apart from the tracer's processor, which they then need, a fraction of a millisecond in all."""
OFTEN: Final = 16
"""If at least one of so many calls opens a file for reading, or writes, those calls may run (`filter.may_allow`)."""
FILTERING: Final = frozenset(table(NATIVE).by_name[name].number for name in ("prctl", "seccomp"))
"""The numbers of the calls with which a program can install a filter."""


class _Executable:
    """What was observed of an executable in all of its processes."""

    def __init__(self) -> None:
        self.counts: dict[int, int] = {}
        """The keys of its calls, with how often each was made at least (`Tally.counts`)."""
        self.version: object = None
        """`Tally.version` of `counts`."""
        self.processes = 0
        """The number of processes that have run the executable."""
        self.opens_often = False
        """Whether these processes open many files for reading."""
        self.news = 0
        """The number of the executable's observations when one of its processes was last looked at."""
        self.quiet = 0
        """The number of calls of its processes, as of the last look, since there was a new observation."""
        self.calls = 0
        """Calls of its last process that has ended and had no filter."""
        self.settled = False
        """Whether its last process that has ended had brought hardly anything new: the next one gets a filter at once."""
        self.starts = False
        """Whether one of its processes, or one that such a process has forked, has executed something."""
        self.firsts: dict[int, frozenset[int] | None] = {}
        """By number, what `Calls.first` was when `filters` were made."""
        self.filters: dict[tuple[bool, bool, bool], bytes] = {}
        """Filters of this version, by what may run: `filter.may_allow`, and calls that may bring code."""

    @property
    def numbers(self) -> set[int]:
        """Those of its calls."""
        return {key & 0xFFFFFFFF for key in self.counts}

    def is_often(self, kind: Callable[[Key], bool]) -> bool:
        """Return whether many of its calls are of a kind."""
        return OFTEN * self.number_of(kind) >= sum(self.counts.values())

    def number_of(self, kind: Callable[[Key], bool]) -> int:
        """Return how many of its calls are of a kind."""
        return sum(count for key, count in self.counts.items() if kind(Key(0, key)))


class Late:
    """The late filters of one run: decides when each process gets one, and installs it.  The event loop calls the methods."""

    def __init__(
        self,
        tasks: dict[int, Task],
        tally: Tally,
        calls: Calls,
        processor: SharedProcessor,
        stops: Stops,
        after: int | None = None,
    ) -> None:
        """`after`: give each process its filter after this many calls, in any case."""
        self._tasks = tasks
        self._tally = tally
        self._calls = calls
        self._processor = processor
        self._stops = stops
        self._after = after
        self._look = LOOK if after is None else after
        self._is_private = True
        """Whether no two processes share their memory."""
        self._executables: defaultdict[str, _Executable] = defaultdict(_Executable)
        for name in filters.BRINGS_CODE:
            calls.also_named(name, self._brings_code, always=False)

    # -- how tasks begin and end

    def begin(self, task: Task) -> None:
        """Register a task whose filters are unknown: they may let any call run, so it is resumed such that each call stops."""
        task.filtered = task.covered = False
        task.image = Image(self._look)

    def adopted(self, task: Task) -> None:
        """Register a task whose creation was not seen.  A thread has the filters of the other threads; a process may lack some
        filters of its parent."""
        if task.tid != task.tgid and task.tgid in self._tasks:
            task.image.threads += 1
        else:
            self.begin(task)

    def born(self, parent: Task, child: Task, event: int) -> None:
        """Register a task that `parent` has created; `event` is the PTRACE_EVENT_* of the call."""
        if child.tgid == parent.tgid:
            child.image.threads += 1
            return
        shares = kernel.share_memory(parent.tgid, child.tgid)
        child.image = Image(NEVER if event == PTRACE_EVENT_VFORK or child.other_filter else self._look, parent.image)
        if parent.image.maker is not None:
            parent.image.maker.maker = None  # so that no chain of images grows
        child.image.code, child.image.strict = parent.image.code, parent.image.strict
        self._is_private &= not shares or event == PTRACE_EVENT_VFORK
        if parent.image.synchronised and not has_as_many_filters(parent.tid, child.tid):
            self.begin(child)  # it was being forked when another thread installed a filter
        elif (plan := parent.image.plan) and plan.area and not shares:
            child.pending = True
            child.image.plan, child.image.budget = Plan(plan.filter, plan.code, plan.area), 0  # it has a copy of that memory

    def executed(self, task: Task, before: str) -> None:
        """Note that the process of `task` has executed a file; `before` is the path of its previous executable."""
        self._note_end(task, before)
        self._executables[before].starts = True
        if task.image.maker is not None:
            task.image.maker.starts += 1
        self._executable(task).processes += 1
        task.image = Image(self._look)
        task.image.stops = task.stops
        task.image.whole = True
        task.image.news = task.image.news_at_start = self._tally.news[task.executable]
        if task.other_filter:
            task.image.budget = NEVER
        else:
            task.filtered = task.covered = task.exposed = task.pending = False
            self._processor.executed(task)
            if self._executable(task).settled:
                task.image.budget = 0

    def dropped(self, task: Task) -> None:
        """Note that a task has ended.  With the last thread of a process, the history of its executable is updated."""
        task.image.threads -= 1
        if not task.image.threads:
            self._note_end(task, task.executable)

    def _note_end(self, task: Task, executable: str) -> None:
        image = task.image
        if image.whole:
            history = self._executables[executable]
            if not task.covered:
                history.calls = task.stops - image.stops
            news = self._tally.news[executable] - image.news_at_start
            history.settled = NEW * news <= history.calls and executable != "?"
            image.whole = False

    # -- at the entry of a call under PTRACE_SYSCALL, before it is counted

    def step(self, task: Task, info: bytearray) -> bool:
        """At the entry of a call: if a filter is to be installed, have the task make a call for that instead, after which it
        repeats its own call.  Return True if it makes the other call, or has ended; else False."""
        image = task.image
        event = event_of(info, task.tid)
        if event.arch != NATIVE.audit or image.barred or task.installing or task.other_filter:
            image.budget = LOOK
            return False
        if image.plan is None:
            if filters.installs_filter(event) and not task.filtered:
                # Ours, which stops every call, comes before: what the program's filter answers is as it would be otherwise.
                image.plan = Plan(kernel.RECORD_ALL)
            elif image.budget < 0 and task.executable != "?" and self._look_at(task):
                image.plan = self._plan(task)
            else:
                image.budget = image.budget if image.budget >= 0 else self._look
                return False
        return self._advance(task, image.plan)

    def _look_at(self, task: Task) -> bool:
        """Note what a process has done since it was last looked at; return whether it gets a filter now."""
        image, news, now = task.image, self._tally.news[task.executable], time.monotonic()
        history = self._executable(task)
        if not image.calls and image.whole and history.settled:
            if self._counted(task).opens_often:
                self._processor.set_apart(task)
            return True
        image.calls += self._look
        image.quiet = image.quiet + self._look if news == image.news else 0
        history.quiet, history.news = history.quiet + self._look if news == history.news else 0, news
        used = processor_time(task.tgid)
        is_busy = used - image.used < BUSY and now - image.since < AWAKE
        image.news, image.since, image.used = news, now, used
        has_settled = history.quiet >= COST or (is_busy and image.quiet >= BURST) or image.starts >= STARTS
        if self._after is None and not (has_settled and image.quiet >= QUIET_CALLS):
            return False
        history.version = None
        self._counted(task)
        if history.is_often(filters.opens_for_reading):
            for other in self._tasks.values():
                if other.image is image:
                    self._processor.set_apart(other)
        if history.is_often(filters.may_write):
            self._calls.let_writes_run()
        return True

    def _advance(self, task: Task, plan: Plan) -> bool:
        """Do the next step of a plan, if that is possible at this call."""
        image = task.image
        image.budget = 0
        with contextlib.suppress(PtraceError):  # it is dying
            entry = Entry(task.tid, self._stops)
            if not entry.is_usual():
                if plan.code and not plan.area:
                    image.plan = None  # this call, and those until the next look, may bring more code
                return False
            if plan.is_installed:
                entry.call("munmap", plan.area, room(plan.filter))
                image.finish_plan(barred=plan.is_refused)
                task.pending = False
            elif plan.area:
                result = entry.install(plan.filter, plan.area, for_all_threads=image.threads > 1)
                self._installed(task, plan, failed=result != 0)
            else:
                plan.area = max(entry.map(room(plan.filter)) or 0, 0)
                if not plan.area:
                    image.finish_plan(barred=True)
        return True

    def _installed(self, task: Task, plan: Plan, *, failed: bool) -> None:
        image = task.image
        plan.is_installed, plan.is_refused = True, failed
        if not failed:
            image.code = plan.code
            image.synchronised |= image.threads > 1
            for other in self._tasks.values():
                if other.image is image:
                    other.filtered = other.covered = True
                    other.pending = other is task
                    other.chain += filters.weight(plan.filter)

    def _brings_code(self, task: Task, event: Event) -> None:
        """At a call that may bring code whose calls the filters of its process let run: have all calls of the process, and of
        all that uses its memory, stop until there is another filter."""
        if not (task.covered and task.image.code and filters.brings_code(event, task.image.code, task.tid)):
            return
        for other in list(self._tasks.values()):
            if other.tgid == task.tgid or kernel.share_memory(other.tgid, task.tgid):
                other.filtered = other.covered = False
                other.image.code, other.image.strict, other.image.budget = (), True, self._look
                if other is not task:
                    with contextlib.suppress(PtraceError):  # it is ending
                        kernel.interrupt(other.tid)

    # -- filters

    def _executable(self, task: Task) -> _Executable:
        return self._executables[task.executable]

    def _counted(self, task: Task) -> _Executable:
        """Return the history of a task's executable, with its counts as they are now."""
        history, version = self._executable(task), self._tally.version(task.executable)
        if version != history.version:
            history.version, history.counts = version, self._tally.counts(task.executable)
            history.opens_often |= history.number_of(filters.opens_for_reading) >= OPENS * history.processes
            history.filters.clear()
        return history

    def _plan(self, task: Task) -> Plan:
        """Return a plan for the filter that lets the calls run which a task's executable has made."""
        history, code = self._counted(task), self._code(task)
        opens, writes = not self._processor.enabled or task.apart, self._calls.writes_run or not self._calls.draws
        which = (opens, writes, bool(code))
        numbers = history.numbers
        firsts = {number: values(task.executable) for number, values in self._calls.first.items() if number in numbers}
        if firsts != history.firsts:
            history.firsts = firsts
            history.filters.clear()
        if which not in history.filters:
            if writes:
                self._calls.let_writes_run()
            history.filters[which] = self._filter(history, *which)
        filter_ = filters.for_calls_within(code, history.filters[which]) if code else history.filters[which]
        return Plan(filter_, code) if task.chain + filters.weight(filter_) <= filters.MAX_WEIGHT else Plan(kernel.RECORD_ALL)

    def _code(self, task: Task) -> Sequence[tuple[int, int]]:
        """Return the code that a task's filter is to be for; none if it is to be for all."""
        image = task.image
        is_alone = image.threads == 1 and self._is_private and not image.strict
        starts = image.starts or image.calls or self._executable(task).starts
        return filters.code_spans(task.tid) if is_alone and starts else ()

    def _filter(self, history: _Executable, opens: bool, writes: bool, is_for_code: bool) -> bytes:
        """Return a filter for an executable's calls, those most often made first (`may_allow`); one that is for some code lets
        none run by which more code may come."""
        keys = {Key(self._tally.mask_of(value), value): count for value, count in history.counts.items()}
        first_registers = dict.fromkeys(self._calls.first, frozenset[int]()) | history.firsts
        whole: list[Key] = []
        by_register: list[Key] = []
        for key in sorted(keys, key=lambda key: (-keys[key], key)):
            if key.number in self._calls.always or not filters.may_allow(key, opens=opens, writes=writes):
                continue
            if is_for_code and filters.may_bring_code(key):
                continue
            registers = first_registers.get(key.number)
            if registers is not None:
                by_register += key.with_first(registers)
            elif key.number in self._calls.zeros:
                by_register += key.with_zero(self._calls.zeros[key.number])
            else:
                whole.append(key)
        return filters.allowing_filter([*whole, *by_register])
