"""Counting events with as few Python operations a stop as possible.

The recorder says which bits of a call distinguish observations; the registers under that mask are the key of a counter.
Only a new key costs more than a look-up.
"""

from __future__ import annotations

import os
from collections import defaultdict
from typing import TYPE_CHECKING, Any, Final, Protocol

from tracer import kernel, linux
from tracer.abi import Arch, Event, Kind, table
from tracer.kernel import event_of
from tracer.proc import proc
from tracer.unwind import Registers, call_site

if TYPE_CHECKING:
    from collections.abc import Callable

    from tracer.task import Hot, Task

MANY_KEYS: Final = 65536
"""Keys kept for one executable before they are dropped: this bounds memory, not what is recorded.  Calls whose keys
were dropped are looked at once more, and stop where a late filter would have allowed them."""

_X86_64: Final = Arch.X86_64.audit
I386_KEYS: Final = 1 << 448
"""The keys of other architectures are at least so large."""
_REGISTER: Final = (1 << 64) - 1
_AFTER: Final = 5
"""Where a counter has the sets of waits after which its observation was made, as bits of tracer.abi.waits."""


class Caller:
    """A task that is stopped in a call, as the recorder may ask about it meanwhile."""

    __slots__ = ("_event", "_sp", "ids")

    def __init__(self, task: Task, event: Event, sp: int) -> None:
        self._event = event
        self._sp = sp
        self.ids = (task.tid, task.tgid)

    def site(self) -> str:
        """Return where the call came from (`unwind.call_site`)."""
        tid = self.ids[0]
        if self._event.arch != Arch.X86_64.audit:
            return call_site(tid, Registers(self._event.ip, self._sp, 0))
        return call_site(tid, Registers(self._event.ip, self._sp, kernel.peek_user(tid, linux.RBP)), self.read)

    def read(self, address: int, length: int) -> bytes:
        """Return bytes within one page of the task's memory; fewer, or none, where they cannot be read."""
        return kernel.read_memory(self.ids[0], address, length) if address >> 63 == 0 else b""

    def link(self, name: str) -> str:
        """Return where a link in the task's folder of /proc leads (`cwd`, `fd/3`); "" if that cannot be read."""
        try:
            return os.readlink(f"{proc()}/{self.ids[0]}/{name}")
        except OSError:
            return ""


class Recorder(Protocol):
    """Takes the events.  `raw` is number and arguments as one integer: 64 bits each, the number lowest."""

    generation: int
    """Changes when earlier masks are out of date."""

    def hot_mask(self, arch: int, number: int) -> int:
        """Return the bits of `raw` that distinguish observations; `arch` is an AUDIT_ARCH_* number."""

    def counter(self, executable: str, event: Event, site: Callable[[], str]) -> list[Any]:
        """Return the counter (its first element) of the observation that `event` belongs to."""

    def look(self, counter: list[Any], event: Event, caller: Caller) -> bool:
        """Take what the event's pointers point to; return whether to show the next event of that observation, too."""

    def executed(self, before: str, after: str) -> None:
        """Take that a process has executed `after`; its executable was `before`.

        '' is the starter of the program, '?' an executable that could not be read.  Called for each execve, also while
        calls are not recorded.
        """

    def gap(self, what: str) -> None:
        """Take that something could not be observed: `what`, in words."""


class Tally:
    """The counters by executable, and the masks of the calls."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._generation = recorder.generation
        self.has_waits = False
        """Whether the recorder's counters take the waits after which an observation was made (`session.Waits`)."""
        self._hot: dict[tuple[str, int], Hot] = {}
        self._looked: dict[str, Hot] = {}
        """Counters by executable and masked registers, of observations whose next event is to be looked at."""
        self._former: dict[str, dict[int, int]] = defaultdict(dict)
        """Keys that were dropped from `_hot`, by executable, and what their counters were at: the calls were seen."""
        self.news: dict[str, int] = defaultdict(int)
        """By executable, how often a call brought something new."""

    def hot(self, executable: str, entered: int) -> Hot:
        """Return the counters of an executable in processes that have begun these waits."""
        return self._hot.setdefault((executable, entered), {})

    def note(self, task: Task, event: Event) -> None:
        """Record that a call of a task that is counted already came after the waits that it has begun, as well."""
        self._recorder.counter(task.executable, event, lambda: "?")[_AFTER].add(task.entered)

    def _slot(self, task: Task, key: int, info: bytearray) -> list[Any]:
        """Return the counter for a key that is new to `task.hot`; `info` is the call's struct ptrace_syscall_info."""
        event = event_of(info, task.tid)
        caller = Caller(task, event, int.from_bytes(info[16:24], "little"))
        looked = self._looked.setdefault(task.executable, {})
        counter = looked.pop(key, None)
        if counter is None:
            counter = self._recorder.counter(task.executable, event, caller.site)
            if self.has_waits:
                counter[_AFTER].add(task.entered)
            if self._recorder.generation != self._generation:
                self._generation = self._recorder.generation
                self.news[task.executable] += 1
                self._former[task.executable][key] = counter[0]
                self._drop_keys()
                return counter  # the key belongs to the old masks
            self.news[task.executable] += not counter[0]
        elif self.has_waits:
            counter[_AFTER].add(task.entered)
        counters = looked if self._recorder.look(counter, event, caller) else task.hot
        if len(counters) >= MANY_KEYS:
            counters.clear()
        counters[key] = counter
        return counter

    def _drop_keys(self) -> None:
        """Forget all keys, whose masks are out of date, but for what their counters were at."""
        executables = *((executable, hot) for (executable, _), hot in self._hot.items()), *self._looked.items()
        for executable, hot in executables:
            former = self._former[executable]
            if len(former) + len(hot) > MANY_KEYS:
                former.clear()
            former.update((key, counter[0]) for key, counter in hot.items())
            hot.clear()

    def mask_of(self, key: int) -> int:
        """Return the bits of a key of x86_64 that distinguish observations now.

        The recorder's mask has those of every meaning that an argument can have; here the other arguments decide the meaning,
        so that addresses do not count."""
        number = key & 0xFFFFFFFF
        mask = self._recorder.hot_mask(_X86_64, number)
        calls = table(Arch.X86_64)
        if number in calls.by_number:
            registers = [key >> 64 * (index + 1) & _REGISTER for index in range(6)]
            for index, argument in enumerate(calls.arguments(number, registers)):
                if argument.kind.is_pointer or argument.kind is Kind.ADDRESS:
                    mask &= ~(_REGISTER << 64 * (index + 1))
        return mask

    def version(self, executable: str) -> object:
        """Return a value that changes when `counts` has grown by more than a few keys of recorded observations."""
        return self._generation, self.news[executable], len(self.hot(executable, 0)).bit_length()

    def counts(self, executable: str) -> dict[int, int]:
        """Return the keys of the x86_64 calls that an executable has made, with how often each was made at least.

        Only where waits are not followed."""
        counters = self.hot(executable, 0) | self._looked.get(executable, {})
        counts: dict[int, int] = {}
        for key, count in (*self._former[executable].items(), *((key, counter[0]) for key, counter in counters.items())):
            if key < I386_KEYS:
                narrow = key & self.mask_of(key)
                counts[narrow] = max(counts.get(narrow, 0), count)
        self._former[executable] = counts.copy()
        return counts

    def count(self, task: Task, arch: int, number: int, info: bytearray) -> None:
        """Count one call of any architecture, AUDIT_ARCH_*."""
        key = int.from_bytes(info[24:80], "little") & self._recorder.hot_mask(arch, number)
        if arch != _X86_64:
            key |= arch << 448
        (task.hot.get(key) or self._slot(task, key, info))[0] += 1
