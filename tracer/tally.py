"""Counts events, with as few Python operations for each stop as possible.

The recorder has a mask for each call: the bits of its number and arguments that distinguish observations.  The registers under
that mask are the key of a counter.  Only a new key costs more than a look-up.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable
from typing import Final, Protocol

from callfence.tracer import kernel
from callfence.tracer.abi import AFTER, COUNT, NATIVE, Event, EventCounter, Kind, table
from callfence.tracer.kernel import event_of
from callfence.tracer.machine import MACHINE
from callfence.tracer.proc import proc
from callfence.tracer.task import Hot, Page, Task
from callfence.tracer.unwinding.callers import Registers
from callfence.tracer.unwinding.site import call_site

MAX_KEYS: Final = 65536
"""The most keys of one executable; if there are more, they are dropped.  This bounds memory and loses no observation: a call
whose key was dropped is examined again, and stops where a late filter would have allowed it."""

_NATIVE: Final = MACHINE.native.audit
MAX_THREADS: Final = 32
"""How many starts of threads in a process are told apart; later ones count as made at the last of these."""

COMPAT_KEYS: Final = 1 << 448
"""Keys of calls of 32-bit programs are at least this large; keys of native calls are smaller."""
_REGISTER: Final = (1 << 64) - 1


class Caller:
    """A task that is stopped in a call: reads its call site, memory and links for the recorder."""

    __slots__ = ("_event", "_sp", "ids")

    def __init__(self, task: Task, event: Event, sp: int) -> None:
        self._event = event
        self._sp = sp
        self.ids = (task.tid, task.tgid)

    def site(self) -> str:
        """Return the call site of the call, in the form of `unwinding.site.call_site`."""
        tid = self.ids[0]
        if self._event.arch != _NATIVE:
            return call_site(tid, Registers(self._event.ip, self._sp))
        frame, link = kernel.callers(tid)
        return call_site(tid, Registers(self._event.ip, self._sp, frame, link), self.read)

    def read(self, address: int, length: int) -> bytes:
        """Return `length` bytes of the task's memory; b'' if they cannot be read.  The range must lie within one page."""
        return kernel.read_memory(self.ids[0], address, length) if address >> 63 == 0 else b""

    def link(self, name: str) -> str:
        """Return the target of a link in the task's folder of /proc, such as `cwd` or `fd/3`; "" if it cannot be read."""
        try:
            return os.readlink(f"{proc()}/{self.ids[0]}/{name}")
        except OSError:
            return ""


class Recorder(Protocol):
    """The recorder of a run: the tracer calls its methods with what happens.  In `learn` it is
    `callfence.learning.watch.Recorder`.

    `raw` is the number and the arguments of a call as one integer: 64 bits each, the number lowest."""

    generation: int
    """A number that changes when the masks that `hot_mask` has returned are no longer valid."""

    def hot_mask(self, arch: int, number: int) -> int:
        """Return the bits of `raw` that distinguish observations of the call `number`, as an integer; `arch` is
        AUDIT_ARCH_*."""

    def counter(self, executable: str, event: Event, site: Callable[[], str]) -> EventCounter:
        """Return the counter of the observation that `event` belongs to; the tally increments its first element.  `site`
        returns the call site (`Caller.site`); it is called only if the observation is new."""

    def look(self, counter: EventCounter, event: Event, caller: Caller) -> bool:
        """Record the names and addresses that the event's pointers point to.  Return whether the next event of the same
        observation is to be passed to `look` as well."""

    def executed(self, before: str, after: str) -> None:
        """Record that a process whose executable was `before` has executed `after`.

        The path '' means that `learn` itself started the program, '?' that the executable could not be read.  Called for each
        execve, even while calls are not recorded."""

    def gap(self, what: str) -> None:
        """Record that something could not be observed; `what` is a sentence about it for the user."""


class Tally:
    """Counts calls by executable and the register bits that distinguish observations; gets counters for new keys only."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._generation = recorder.generation
        self.has_waits = False
        """Whether to record after which waits of its process an observation was made (`session.Waits`)."""
        self._hot: dict[tuple[str, int], Hot] = {}
        self._to_look: dict[str, Hot] = {}
        """Counters by executable and key, of observations for whose next event `Recorder.look` is to be called."""
        self._of_threads: dict[int, Hot] = {}
        """Counters by thread and key, of the last page of each thread."""
        self._former: dict[str, dict[int, int]] = defaultdict(dict)
        """By executable: the keys that were dropped from `_hot`, and the counts that they had then."""
        self.news: dict[str, int] = defaultdict(int)
        """By executable: how many of its calls brought a new observation or new masks."""

    def hot(self, executable: str, entered: int) -> Hot:
        """Return the counters, by key, of `executable` in processes that have begun the waits `entered` (bits of
        tracer.abi.waits; 0 if waits are not recorded): calls before and after a process begins to wait are counted apart."""
        return self._hot.setdefault((executable, entered), {})

    def turn(self, task: Task, threads: int = 0) -> None:
        """Count the calls that the task makes from now on apart from those before, since its process has begun a wait, or
        started a thread: `threads` have been started then."""
        threads = threads or (task.pages[-1].threads if task.pages else 0)
        if not threads:
            task.hot = self.hot(task.executable, task.entered)
            return
        task.pages.append(Page(threads, task.entered))
        task.hot = self._of_threads[task.tid] = {}

    def forget(self, tid: int) -> None:
        """Forget a task that has ended."""
        self._of_threads.pop(tid, None)

    def note_beside(self, task: Task, waiting: Task, wait: int) -> None:
        """Record that `task` might have made its calls after this wait of another thread, if both were there: nobody saw them
        wait for each other, so it may be the other way round the next time."""
        for page in task.pages:
            if page.threads >= waiting.began:
                for counter in page.counters.values():
                    counter[AFTER].add(page.entered | wait)

    def note(self, task: Task, event: Event) -> None:
        """Record that the observation of `event`, which was counted already, was also made after the waits of `task`."""
        self._recorder.counter(task.executable, event, lambda: "?")[AFTER].add(task.entered)

    def _new_counter(self, task: Task, key: int, info: bytearray) -> EventCounter:
        """Return the counter for a key that is new to `task.hot`; `info` is the call's struct ptrace_syscall_info."""
        event = event_of(info, task.tid)
        caller = Caller(task, event, int.from_bytes(info[16:24], "little"))
        looked = self._to_look.setdefault(task.executable, {})
        counter = looked.pop(key, None)
        is_new = counter is None
        if counter is None:
            counter = self._recorder.counter(task.executable, event, caller.site)
        if self.has_waits:
            counter[AFTER].add(task.entered)
            if task.pages:
                task.pages[-1].counters[id(counter)] = counter
        if is_new:
            if self._recorder.generation != self._generation:
                self._generation = self._recorder.generation
                self.news[task.executable] += 1
                self._former[task.executable][key] = counter[COUNT]
                self._drop_keys()
                return counter  # the key belongs to the old masks
            self.news[task.executable] += not counter[COUNT]
        counters = looked if self._recorder.look(counter, event, caller) else task.hot
        if len(counters) >= MAX_KEYS:
            counters.clear()
        counters[key] = counter
        return counter

    def _drop_keys(self) -> None:
        """Drop all keys, since their masks are no longer valid; `_former` keeps their counts."""
        executables = *((executable, hot) for (executable, _), hot in self._hot.items()), *self._to_look.items()
        for executable, hot in executables:
            former = self._former[executable]
            if len(former) + len(hot) > MAX_KEYS:
                former.clear()
            former.update((key, counter[COUNT]) for key, counter in hot.items())
            hot.clear()
        for hot in self._of_threads.values():
            hot.clear()

    def mask_of(self, key: int) -> int:
        """Return the bits of a native key that distinguish observations, as one integer.

        The recorder's mask covers every meaning that an argument can have.  Here the other arguments of the key determine the
        meaning, so bits of addresses are left out."""
        number = key & 0xFFFFFFFF
        mask = self._recorder.hot_mask(_NATIVE, number)
        calls = table(NATIVE)
        if number in calls.by_number:
            registers = [key >> 64 * (index + 1) & _REGISTER for index in range(6)]
            for index, argument in enumerate(calls.arguments(number, registers)):
                if argument.kind.is_pointer or argument.kind is Kind.ADDRESS:
                    mask &= ~(_REGISTER << 64 * (index + 1))
        return mask

    def version(self, executable: str) -> object:
        """Return a value that differs from an earlier one if `counts` has new keys since then, or if there are many more keys
        that it merges into earlier ones."""
        return self._generation, self.news[executable], len(self.hot(executable, 0)).bit_length()

    def counts(self, executable: str) -> dict[int, int]:
        """Return the native calls that an executable has made: key (under `mask_of`) -> a lower bound of how often the call was
        made.  Valid only if waits are not recorded (`has_waits`)."""
        counters = self.hot(executable, 0) | self._to_look.get(executable, {})
        counts: dict[int, int] = {}
        for key, count in (*self._former[executable].items(), *((key, counter[COUNT]) for key, counter in counters.items())):
            if key < COMPAT_KEYS:
                narrow = key & self.mask_of(key)
                counts[narrow] = max(counts.get(narrow, 0), count)
        self._former[executable] = counts.copy()
        return counts

    def count(self, task: Task, arch: int, number: int, info: bytearray) -> None:
        """Count a call of `task`.  `arch` is AUDIT_ARCH_*, `number` has 32 bits, and `info` is the call's struct
        ptrace_syscall_info."""
        key = int.from_bytes(info[24:80], "little") & self._recorder.hot_mask(arch, number)
        if arch != _NATIVE:
            key |= arch << 448
        (task.hot.get(key) or self._new_counter(task, key, info))[COUNT] += 1
