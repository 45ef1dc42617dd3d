"""Fold events into observations, fast enough for the tracer's loop.

The loop (`tracer.tally.Tally`, which knows the aggregator as its `Recorder`) keeps caches of its own, from the register bits
that may matter to a counter:

    key = raw & mask            # raw: number in bits 0-63, argument i in bits 64*(i+1) and up; mask from `hot_mask`
    counter = cache.get(key)    # a cache for each executable, and for what its process has begun to wait for
    if counter is None:
        counter = aggregator.counter(executable, event, site)
        if aggregator.generation changed: forget all cached counters and masks
        if not aggregator.look(counter, event, caller): cache[raw & aggregator.hot_mask(arch, number)] = counter
    counter[COUNT] += 1

If the meaning of an argument depends on another one, the mask has the bits of every meaning: a cache may then have several
keys for one counter, as many as there are pointers passed there, so the loop bounds its cache.  The aggregator itself has one
counter an observation.

The number of recorded values of arguments is bounded: a program can pass ever new values, and a policy that lists thousands of
them takes minutes to make, cannot be reviewed, and fits in no filter.  An argument that exceeds the bound is *given up*: its
values are no longer recorded, and the policy allows any.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING

from callfence.policygen.recording.model import Observation, Recording, joined, recorded_values
from callfence.tracer.abi import AFTER, COUNT, Event, EventCounter, Kind, table_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

    from callfence.policygen.evidence.facts import Places, Pointers
    from callfence.policygen.evidence.pointed import Caller
    from callfence.tracer.abi.table import Table

MAX_COMBINATIONS = 256
"""The most combinations of values of one call's constrained arguments that are recorded: four times as many as ordinary
programs make (setsockopt in the tests of a language runtime)."""
MAX_COMBINATIONS_IN_ALL = 2560
"""The most combinations of all calls together: so many rules become a policy and a proved filter within three seconds."""

Call = tuple[int, int]
"""AUDIT_ARCH_*, number."""
Values = tuple[int | None, ...]
"""The values of a call's arguments; None where a value is not recorded."""


class Combinations:
    """The recorded combinations of values of constrained arguments, by call; and the arguments that are *given up*: their
    values are no longer recorded."""

    def __init__(self) -> None:
        self.given_up: dict[Call, frozenset[int]] = {}
        self._values: dict[Call, set[Values]] = {}
        self._total = 0

    def add(self, call: Call, values: Values) -> Mapping[Call, frozenset[int]]:
        """Record a combination of values for a call that the tables have.  If there are too many combinations now, give up
        arguments, and return these: call -> indexes of the arguments."""
        combinations = self._values.setdefault(call, set())
        self._total += values not in combinations
        combinations.add(values)
        now: dict[Call, frozenset[int]] = {}
        if len(combinations) > MAX_COMBINATIONS:
            now[call] = self._give_up(call, MAX_COMBINATIONS)
        while self._total > MAX_COMBINATIONS_IN_ALL:
            most = max(self._values, key=lambda call: (len(self._values[call]), call))
            now[most] = now.get(most, frozenset()) | self._give_up(most, len(self._values[most]) // 2)
        return now

    def _give_up(self, call: Call, limit: int) -> frozenset[int]:
        """Give up the argument with the most values, and arguments whose meaning it decides, until at most `limit` combinations
        remain; return their indexes."""
        calls = table_of(*call)
        assert calls is not None
        remaining, indexes = self._values[call], frozenset[int]()
        while len(remaining) > limit:
            columns = [len(set(column)) for column in zip(*remaining, strict=True)]
            index = columns.index(max(columns))
            indexes |= {index} | calls.dependents(call[1], index)
            remaining = {without(values, indexes) for values in remaining}
        self._total -= len(self._values[call]) - len(remaining)
        self._values[call] = remaining
        self.given_up[call] = self.given_up.get(call, frozenset()) | indexes
        return indexes


def without(values: Values, given_up: Collection[int]) -> Values:
    """Return the values with None in place of the values of the arguments `given_up`, which are indexes."""
    return tuple(None if index in given_up else value for index, value in enumerate(values)) if given_up else values


def bounded(recording: Recording) -> Recording:
    """Return the recording within the bounds on combinations, which merged runs may exceed: arguments are given up."""
    sizes = Counter((observation.arch, observation.number) for observation in recording.observations)
    if max(sizes.values(), default=0) <= MAX_COMBINATIONS and sizes.total() <= MAX_COMBINATIONS_IN_ALL:
        return recording
    combinations = Combinations()
    for observation in recording.observations:
        call = (observation.arch, observation.number)
        if calls := table_of(*call):
            unrecorded = [index for index, value in enumerate(observation.fitted(calls).arguments) if value is None]
            given_up = {*unrecorded, *combinations.given_up.get(call, ())}
            combinations.add(call, without(recorded_values(calls, observation.event), given_up))
    if not combinations.given_up:
        return recording
    return Recording(recording.runs, _folded(recording.observations, combinations.given_up))


def _folded(observations: Iterable[Observation], given_up: Mapping[Call, Collection[int]]) -> tuple[Observation, ...]:
    """Return the observations without the values of these arguments; equal ones are joined, with the earliest's site."""
    groups: defaultdict[object, list[Observation]] = defaultdict(list)
    for observation in observations:
        arguments = without(observation.arguments, given_up.get((observation.arch, observation.number), ()))
        folded = observation._replace(arguments=arguments)
        groups[folded.key].append(folded)
    return tuple(sorted(map(_joined, groups.values()), key=lambda observation: observation.order))


def _joined(equal: list[Observation]) -> Observation:
    """Return observations with the same key, joined into one."""
    if len(equal) == 1:
        return equal[0]
    with_registers = [observation for observation in equal if any(observation.example)] or equal
    earliest = min(with_registers, key=lambda each: ([not count for count in each.counts], each.site, each.example))
    return earliest._replace(
        counts=tuple(map(sum, zip(*(observation.counts for observation in equal), strict=True))),
        evidence=joined([fact for observation in equal for fact in observation.evidence]),
        after=tuple(sorted({waits for observation in equal for waits in observation.after})),
    )


def arguments_given_up(observation: Observation, calls: Table) -> frozenset[int]:
    """Return the indexes of the arguments of an observation that were given up: learning constrains them, but their values are
    not recorded.  Empty for an observation without registers, as kernel logs give, since only its call is known."""
    if not any(observation.example):
        return frozenset()
    meanings = calls.arguments(observation.number, observation.example)
    return frozenset(
        index
        for index, (meaning, value) in enumerate(zip(meanings, observation.arguments, strict=False))
        if value is None and meaning.kind.is_constrained and meaning.kind is not Kind.TASK
    )


FREE_VALUES = 4
"""The most recorded values of an unconstrained argument.  `--tight` needs no more of them; they also show whether a policy that
a person has narrowed still fits."""

MAX_FOLLOWED = 64
"""The most events of an observation whose pointers are followed."""
QUIET_EVENTS = 8
"""The number of events in a row without new facts after which pointers are no longer followed."""

_FREE_KINDS = frozenset((Kind.FD, Kind.DIRFD, Kind.SIZE, Kind.OFFSET, Kind.ID, Kind.TASK, Kind.MODE, Kind.NUMBER))
"""Kinds whose values are recorded although learning does not constrain them, or constrains only one value: all but
addresses."""

_NUMBER = (1 << 64) - 1
"""The number's bits in `raw`."""

MAX_NUMBERS = 256
"""The most numbers that belong to no call and are recorded: no policy can allow them."""

_SITE, _EXAMPLE, _FACTS, _LEFT, _QUIETLY = range(2, 7)
"""The indexes, in an observation's counter (`tracer.abi.EventCounter`), of: the call site and the registers of the first event;
its facts, None or a `facts.Union`; the number of events whose pointers may still be followed; the number of events in a row
without new facts."""


class Aggregator:
    """The observations of one run, while the run goes on.

    The result does not depend on the order of the events, with two exceptions: the call site and the example are those of the
    first event of each observation, and pointers are followed only for its first events."""

    def __init__(self, where: Callable[[], Places] | None = None) -> None:
        """`where` returns the folders that patterns abbreviate, and is called at most once; with None, no pointers are
        followed."""
        self._where = where
        self._pointers: Pointers | None = None
        self._counters: dict[Call, dict[tuple[str, Values], EventCounter]] = {}
        self._free: dict[Call, dict[int, set[int]]] = {}
        self._combinations = Combinations()
        self._unlisted = 0
        """Number of recorded numbers that belong to no call."""
        self._masks: dict[Call, int] = {}
        self.generation = 0
        """Changes when cached counters and masks are no longer valid."""

    def hot_mask(self, arch: int, number: int) -> int:
        """Return the bits of `raw` that can distinguish observations of the call `number`, as an integer.  `arch` is
        AUDIT_ARCH_*.  The result is valid until `generation` changes."""
        mask = self._masks.get((arch, number))
        if mask is None:
            mask = self._mask((arch, number))
            if (arch, number) in self._counters:  # else there may be any number of them
                self._masks[arch, number] = mask
        return mask

    def counter(self, executable: str, event: Event, site: Callable[[], str], unknown: Collection[int] = ()) -> EventCounter:
        """Return the counter of the observation that the event belongs to, without counting the event.

        `site` returns the call site; it is called only if the observation is new.  `unknown` are the indexes of unconstrained
        arguments whose registers are unknown: their values are no longer recorded."""
        call = (event.arch, event.number)
        calls = table_of(*call)
        if call not in self._counters and calls is None:
            if self._unlisted == MAX_NUMBERS:
                self.gap(f"more than {MAX_NUMBERS} numbers that belong to no call: the others are not recorded")
                return [0, set(), "?", event.arguments, None, 0, 0]
            self._unlisted += 1
        counters = self._counters.setdefault(call, {})
        key = (executable, self._record_values(calls, event, unknown))
        if key not in counters and calls is not None:
            for too_many, indexes in self._combinations.add(call, self._constrained(calls, event)).items():
                self._stop_recording(too_many, indexes)
            key = (executable, self._record_values(calls, event, unknown))
        if key not in counters:
            counters[key] = [0, set(), site(), event.arguments, None, MAX_FOLLOWED, 0]
        return counters[key]

    def gap(self, what: str) -> None:
        """Do nothing.  A subclass can override this to report that something is not recorded; `what` is a sentence about it."""

    def look(self, counter: EventCounter, event: Event, caller: Caller) -> bool:
        """Add the facts of an event to its observation's counter; return whether `look` is to get the next event, too."""
        if self._where is None or counter[_LEFT] <= 0:
            return False
        if self._pointers is None:
            from callfence.policygen.evidence.facts import Pointers  # not loaded by a run with nothing new

            self._pointers = Pointers(self._where())
        if not self._pointers.has(event):
            counter[_LEFT] = 0
            return False
        counter[_FACTS], is_new = self._pointers.follow(event, caller, counter[_FACTS])
        counter[_QUIETLY] = 0 if is_new else counter[_QUIETLY] + 1
        counter[_LEFT] = 0 if counter[_QUIETLY] >= QUIET_EVENTS else counter[_LEFT] - 1
        return bool(counter[_LEFT])

    def __len__(self) -> int:
        """Return the number of observations so far; safe to call from another thread."""
        return sum(map(len, list(self._counters.values())))

    def observations(self) -> tuple[Observation, ...]:
        """Return the observations so far, in the order of `Observation.order`."""
        observations = []
        for (arch, number), counters in self._counters.items():
            for (executable, arguments), (count, after, site, example, facts, _, _) in counters.items():
                evidence = facts.texts() if facts else ()
                key = (arch, number, arguments, executable)
                observations.append(Observation(*key, (count,), site, example, evidence, tuple(sorted(after))))
        return tuple(sorted(observations, key=lambda observation: observation.order))

    def _mask(self, call: Call) -> int:
        mask = _NUMBER
        calls = table_of(*call)
        if calls is None:
            return mask
        plain = calls.by_number[call[1]].arguments
        given_up = self._combinations.given_up.get(call, ())
        for variant in calls.variants(call[1]):
            for index, argument in enumerate(variant):
                if index in given_up:
                    continue
                if argument.kind is Kind.FIELD:
                    mask |= argument.exact << 64 * (index + 1)
                elif argument.kind.is_constrained:
                    mask |= plain[index].mask << 64 * (index + 1)
        for index in self._free_values(calls, call):
            mask |= plain[index].mask << 64 * (index + 1)
        return mask

    def _free_values(self, calls: Table, call: Call) -> dict[int, set[int]]:
        """Return the sets of the values so far of unconstrained arguments whose values are still recorded, by their indexes.

        Only arguments that are a pointer in none of their meanings have recorded values: addresses would fill the loop's cache.
        """
        if call not in self._free:
            columns = enumerate(zip(*calls.variants(call[1]), strict=True))
            free = [index for index, column in columns if all(argument.kind in _FREE_KINDS for argument in column)]
            self._free[call] = {index: set() for index in free}
        return self._free[call]

    def _record_values(self, calls: Table | None, event: Event, unknown: Collection[int]) -> Values:
        """Record the event's values of unconstrained arguments, and give up arguments that have more than `FREE_VALUES`; return
        the values of all arguments by which its observation is known."""
        if calls is None:
            return ()
        call = (event.arch, event.number)
        arguments = list(self._constrained(calls, event))
        plain = calls.by_number[event.number].arguments
        for index, values in list(self._free_values(calls, call).items()):
            value = plain[index].value(event.arguments[index])
            values.add(value)
            if index in unknown or len(values) > FREE_VALUES:
                self._stop_recording(call, (index,))
            else:
                arguments[index] = value
        return tuple(arguments)

    def _constrained(self, calls: Table, event: Event) -> Values:
        """Return the values of the event's constrained arguments, None where they are not recorded."""
        return without(recorded_values(calls, event), self._combinations.given_up.get((event.arch, event.number), ()))

    def _stop_recording(self, call: Call, indexes: Collection[int]) -> None:
        """Stop recording the values of arguments, but for a 0 that means the caller; join counters that differ only in them."""
        calls = table_of(*call)
        assert calls is not None
        arguments = calls.by_number[call[1]].arguments
        given_up = self._combinations.given_up.get(call, ())
        callers = [index for index in indexes if arguments[index].kind is Kind.TASK and index not in given_up]
        for index in indexes:
            self._free[call].pop(index, None)
        self._masks.pop(call, None)
        counters = self._counters[call]
        folded: dict[tuple[str, Values], EventCounter] = {}
        for (executable, values), counter in counters.items():
            own = [index for index in callers if values[index] == 0]
            key = (executable, without(values, [index for index in indexes if index not in own]))
            whole = folded.setdefault(key, counter)
            if whole is counter:
                continue
            whole[COUNT] += counter[COUNT]
            if not any(whole[_EXAMPLE]):  # an observation without registers is one of a log
                whole[_EXAMPLE] = counter[_EXAMPLE]
            if whole[_FACTS] is None:
                whole[_FACTS] = counter[_FACTS]
            for fact in counter[_FACTS] or ():
                whole[_FACTS].add(fact)
            whole[AFTER] |= counter[AFTER]
        counters.clear()
        counters.update(folded)
        self.generation += 1
