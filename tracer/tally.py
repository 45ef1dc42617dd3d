"""Counting events with as few Python operations a stop as possible.

The recorder says which bits of a call distinguish observations; the registers under that mask are the key of a counter.
Only a new key costs more than a look-up.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any, Final, Protocol

from tracer.abi import Arch, Event, Kind, table
from tracer.kernel import event_of
from tracer.watch.caller import Caller

if TYPE_CHECKING:
    from collections.abc import Callable

    from tracer.task import Hot, Task

MANY_KEYS: Final = 65536
"""Keys, and masks, kept for one executable before they are dropped: this bounds memory, not what is recorded.  Calls whose keys
were dropped are looked at once more, and stop where a late filter would have let them run."""

I386_KEYS: Final = 1 << 448
"""The keys of other architectures are at least so large."""
_REGISTER: Final = (1 << 64) - 1
_AFTER: Final = 5
"""Where a counter has the sets of waits after which its observation was made, as bits of tracer.abi.waits."""


class Recorder(Protocol):
    """Takes the events.  `raw` is number and arguments as one integer: 64 bits each, the number lowest."""

    generation: int
    """Changes when earlier masks are out of date."""

    def hot_mask(self, arch: int, number: int) -> int:
        """The bits of `raw` that distinguish observations; `arch` is an AUDIT_ARCH_* number."""

    def counter(self, executable: str, event: Event, site: Callable[[], str]) -> list[Any]:
        """The counter (its first element) of the observation that `event` belongs to."""

    def look(self, counter: list[Any], event: Event, caller: Caller) -> bool:
        """Take what the event's pointers point to; whether to show the next event of that observation, too."""

    def executed(self, before: str, after: str) -> None:
        """A process has executed `after`; its executable was `before`.

        '' is the starter of the program, '?' an executable that could not be read.  Called for each execve, also while
        calls are not recorded.
        """

    def gap(self, what: str) -> None:
        """Something could not be observed: `what`, in words."""


class Tally:
    """The counters by executable, and the masks of the calls."""

    def __init__(self, recorder: Recorder) -> None:
        self.masks: dict[int, int] = {}
        """x86_64's masks by number; the loop reads them directly."""
        self._recorder = recorder
        self._generation = recorder.generation
        self.has_waits = False
        """Whether the recorder's counters take the waits after which an observation was made (`tracer.session.Waits`)."""
        self._hot: dict[tuple[str, int], Hot] = {}
        self._looked: dict[str, Hot] = {}
        """Counters by executable and masked registers, of observations whose next event is to be looked at."""
        self._former: dict[str, dict[int, int]] = defaultdict(dict)
        """Keys that were dropped from `_hot`, by executable, and what their counters were at: the calls were seen."""
        self.news: dict[str, int] = defaultdict(int)
        """By executable, how often a call brought something new."""

    def hot(self, executable: str, entered: int) -> Hot:
        """The counters of an executable in processes that have begun these waits."""
        return self._hot.setdefault((executable, entered), {})

    def note(self, task: Task, event: Event) -> None:
        """Have a counted call of a task stand after the waits that it has begun, as well."""
        self._recorder.counter(task.executable, event, lambda: "?")[_AFTER].add(task.entered)

    def mask(self, number: int) -> int:
        """x86_64's mask for a number whose mask is not known yet."""
        if len(self.masks) >= MANY_KEYS:
            self.masks.clear()
        mask = self.masks[number] = self._recorder.hot_mask(Arch.X86_64.audit, number)
        return mask

    def counter(self, task: Task, key: int, info: bytearray) -> list[Any]:
        """The counter for a key that is new to `task.hot`; `info` is the call's struct ptrace_syscall_info."""
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
                self.masks.clear()
                self.news[task.executable] += 1
                self._former[task.executable][key] = counter[0]
                by_executable = *((one, hot) for (one, _), hot in self._hot.items()), *self._looked.items()
                for executable, hot in by_executable:
                    former = self._former[executable]
                    if len(former) + len(hot) > MANY_KEYS:
                        former.clear()
                    former.update((one, counter[0]) for one, counter in hot.items())
                    hot.clear()
                return counter  # the key belongs to the old masks
            self.news[task.executable] += not counter[0]
        elif self.has_waits:
            counter[_AFTER].add(task.entered)
        known = looked if self._recorder.look(counter, event, caller) else task.hot
        if len(known) >= MANY_KEYS:
            known.clear()
        known[key] = counter
        return counter

    def mask_of(self, key: int) -> int:
        """The bits of a key of x86_64 that distinguish observations, as things are now: `masks` has those of every meaning that
        an argument can have, and here the others tell the meaning, so that addresses do not count."""
        number = key & 0xFFFFFFFF
        mask = self.masks.get(number) or self.mask(number)
        calls = table(Arch.X86_64)
        if number in calls.by_number:
            registers = [key >> 64 * (index + 1) & _REGISTER for index in range(6)]
            for index, argument in enumerate(calls.arguments(number, registers)):
                if argument.kind.is_pointer or argument.kind is Kind.ADDRESS:
                    mask &= ~(_REGISTER << 64 * (index + 1))
        return mask

    def version(self, executable: str) -> object:
        """Differs if `known` has grown by more than a few keys of known observations."""
        return self._generation, self.news[executable], len(self.hot(executable, 0)).bit_length()

    def known(self, executable: str) -> dict[int, int]:
        """The calls of x86_64 that an executable has made, where waits are not followed: their keys, with how often an
        observation was seen at least."""
        counters = self.hot(executable, 0) | self._looked.get(executable, {})
        counts = [*self._former[executable].items(), *((key, counter[0]) for key, counter in counters.items())]
        known: dict[int, int] = {}
        for key, count in counts:
            if key < I386_KEYS:
                narrow = key & self.mask_of(key)
                known[narrow] = max(known.get(narrow, 0), count)
        self._former[executable] = known.copy()
        return known

    def count(self, task: Task, info: bytearray) -> None:
        """Count one call of any architecture; the loop does the same inline for x86_64."""
        event = event_of(info, task.tid)
        raw = int.from_bytes(info[24:80], "little")
        if event.arch == Arch.X86_64.audit:
            key = raw & (self.masks.get(event.number) or self.mask(event.number))
        else:
            key = raw & self._recorder.hot_mask(event.arch, event.number) | event.arch << 448
        (task.hot.get(key) or self.counter(task, key, info))[0] += 1
