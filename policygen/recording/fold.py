"""Folding of events into observations, fast enough for the tracer's loop.

The loop keeps a cache of its own, from the register bits that may matter to a counter:

    key = raw & mask            # raw: number in bits 0-63, argument i in bits 64*(i+1) and up; mask from `hot_mask`
    slot = cache.get(key)       # a cache for each executable and architecture
    if slot is None:
        slot = folder.slot(executable, event, site)
        if folder.generation changed: forget all cached slots and masks
        cache[raw & folder.hot_mask(arch, number)] = slot
    slot[0] += 1

If the meaning of an argument depends on another one, the mask has the bits of every meaning: a cache may then have several
keys for one slot, as many as there are pointers passed there, so the loop bounds its cache.  The folder itself has one
slot an observation.

How many values of arguments are kept is bounded.  A program can pass ever new values; a policy that lists thousands of them
takes minutes to make, nobody can review it, and no filter has room for it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any

from policygen.recording.model import Observation, Recording, joined, kept
from tracer.abi import Arch, Event, Kind, table

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

    from policygen.evidence.facts import Places, Pointers
    from policygen.evidence.pointed import Caller
    from tracer.abi.table import Table

MANY = 256
"""The most combinations of values of one call's constrained arguments that are kept: four times as many as ordinary programs
make (setsockopt in the tests of a language runtime)."""
MANY_IN_ALL = 2560
"""The most of all calls together: as many rules are made into a policy and a proved filter within three seconds."""

Call = tuple[int, int]
"""AUDIT_ARCH_*, number."""
Values = tuple[int | None, ...]
"""Those of a call's arguments; None where they are not kept."""


class Combinations:
    """The combinations of values of constrained arguments, by call, and the arguments that are given up: of which any value is
    as good as any other from then on."""

    def __init__(self) -> None:
        self.given_up: dict[Call, frozenset[int]] = {}
        self._found: dict[Call, set[Values]] = {}
        self._total = 0

    def constrained(self, calls: Table, seen: Observation) -> Values:
        """Return the values of an observation's arguments that are constrained, as the table says, and not given up."""
        values = kept(calls, seen.event)
        missing = [index for index, value in enumerate(seen.arguments) if value is None]
        return without(values, {*missing, *self.given_up.get((seen.arch, seen.number), ())})

    def add(self, call: Call, values: Values) -> Mapping[Call, frozenset[int]]:
        """Add a combination of a call that a table has; return what is given up because there are too many now."""
        found = self._found.setdefault(call, set())
        self._total += values not in found
        found.add(values)
        now: dict[Call, frozenset[int]] = {}
        if len(found) > MANY:
            now[call] = self._give_up(call, MANY)
        while self._total > MANY_IN_ALL:
            most = max(self._found, key=lambda call: (len(self._found[call]), call))
            now[most] = now.get(most, frozenset()) | self._give_up(most, len(self._found[most]) // 2)
        return now

    def _give_up(self, call: Call, limit: int) -> frozenset[int]:
        """Give up the argument with the most values, and those whose meaning it decides, until no more combinations remain."""
        arch = Arch.from_audit(call[0])
        assert arch is not None
        left, indexes = self._found[call], frozenset[int]()
        while len(left) > limit:
            columns = [len(set(column)) for column in zip(*left, strict=True)]
            index = columns.index(max(columns))
            indexes |= {index} | table(arch).dependents(call[1], index)
            left = {without(values, indexes) for values in left}
        self._total -= len(self._found[call]) - len(left)
        self._found[call] = left
        self.given_up[call] = self.given_up.get(call, frozenset()) | indexes
        return indexes


def without(values: Values, given_up: Collection[int]) -> Values:
    """Return the values, None where the argument is given up."""
    return tuple(None if index in given_up else value for index, value in enumerate(values))


def bounded(recording: Recording) -> Recording:
    """Return the recording within the bounds: together, several runs may be beyond them."""
    sizes = Counter((seen.arch, seen.number) for seen in recording.observations)
    if max(sizes.values(), default=0) <= MANY and sizes.total() <= MANY_IN_ALL:
        return recording
    combinations = Combinations()
    for seen in recording.observations:
        arch = Arch.from_audit(seen.arch)
        if arch is not None and seen.number in table(arch).by_number:
            fitted = seen.fitted(table(arch))
            combinations.add((seen.arch, seen.number), combinations.constrained(table(arch), fitted))
    if not combinations.given_up:
        return recording
    return Recording(recording.runs, _folded(recording.observations, combinations.given_up))


def _folded(observations: Iterable[Observation], given_up: Mapping[Call, Collection[int]]) -> tuple[Observation, ...]:
    """The observations without these arguments; those that are equal then are one, with the site of the earliest."""
    found: dict[object, list[Observation]] = defaultdict(list)
    for seen in observations:
        indexes = given_up.get((seen.arch, seen.number), ())
        left = seen._replace(arguments=without(seen.arguments, indexes)) if indexes else seen
        found[left.key].append(left)
    folded = [_together(equal) for equal in found.values()]
    return tuple(sorted(folded, key=lambda seen: seen.order))


def _together(equal: list[Observation]) -> Observation:
    """Observations with the same key as one."""
    if len(equal) == 1:
        return equal[0]
    with_registers = [seen for seen in equal if any(seen.example)] or equal
    earliest = min(with_registers, key=lambda seen: ([not count for count in seen.counts], seen.site, seen.example))
    return earliest._replace(
        counts=tuple(map(sum, zip(*(seen.counts for seen in equal), strict=True))),
        evidence=joined(tuple(fact for seen in equal for fact in seen.evidence)),
        after=tuple(sorted({waits for seen in equal for waits in seen.after})),
    )


def given_up(seen: Observation, calls: Table) -> frozenset[int]:
    """The arguments of an observation that were given up: learning constrains them, and their values are not kept.

    Of an observation without registers, as logs of the kernel give rise to, nothing but the call is known."""
    if not any(seen.example):
        return frozenset()
    meanings = calls.arguments(seen.number, seen.example)
    return frozenset(
        index
        for index, (meaning, value) in enumerate(zip(meanings, seen.arguments, strict=False))
        if value is None and meaning.kind.is_constrained and meaning.kind is not Kind.TASK
    )


EVIDENCE = 4
"""The most values of an unconstrained argument that are kept.  `--tight` uses no more of them; they also show whether a
policy that a person made narrower still fits."""

LOOKS = 64
"""The most events of an observation whose pointers are followed."""
QUIET = 8
"""Events in a row that tell nothing new after which no more are followed."""

_EVIDENT = frozenset((Kind.FD, Kind.DIRFD, Kind.SIZE, Kind.OFFSET, Kind.ID, Kind.TASK, Kind.MODE, Kind.NUMBER))
"""Kinds whose values are kept although they are not constrained, or only one of them is: all but addresses."""

_NUMBER = (1 << 64) - 1
"""The number's bits in `raw`."""

MANY_NUMBERS = 256
"""The most numbers without a call that are kept: no policy can allow one."""

Slot = list[Any]
"""[count, site, example, facts, looks, after, quiet].

The loop adds to the count; site and example are the first event's; `facts` is a `facts.Union` once there are any; `looks` is
how many more events are to be looked at; `after` takes what `Observation.after` has; `quiet` is how many events in a row have
told nothing new.  Nothing is cheaper to add to.
"""


def _table(arch: int, number: int) -> Table | None:
    """Return the table that has the call, or None."""
    name = Arch.from_audit(arch)
    return table(name) if name is not None and number in table(name).by_number else None


class Folder:
    """The observations of one run, while it runs.

    The result does not depend on the order of the events, except that the call site and the example are those of the
    first event of each observation, and that pointers are followed for its first events alone.
    """

    def __init__(self, where: Callable[[], Places] | None = None) -> None:
        """`where`: what patterns of names call by a sign, asked for once; None follows no pointers."""
        self._where = where
        self._pointers: Pointers | None = None
        self._slots: dict[tuple[int, int], dict[tuple[str, tuple[int | None, ...]], Slot]] = {}
        self._evidence: dict[tuple[int, int], dict[int, set[int]]] = {}
        self._combinations = Combinations()
        self._unlisted = 0
        """How many numbers without a call are kept."""
        self._masks: dict[tuple[int, int], int] = {}
        self.generation = 0
        """Changes when cached slots and masks are no longer valid."""

    def hot_mask(self, arch: int, number: int) -> int:
        """Return the bits of `raw` that can distinguish observations of the call.

        `arch` is AUDIT_ARCH_*.  Valid until `generation` changes.
        """
        mask = self._masks.get((arch, number))
        if mask is None:
            mask = self._mask(arch, number)
            if (arch, number) in self._slots:  # else there may be any number of them
                self._masks[arch, number] = mask
        return mask

    def slot(self, executable: str, event: Event, site: Callable[[], str], unknown: Collection[int] = ()) -> Slot:
        """Return the counter of the observation that the event belongs to; the event itself is not yet counted.

        `site` is called only if the observation is new.  `unknown` are unconstrained arguments
        whose registers are not known: their values are no longer kept.
        """
        call = (event.arch, event.number)
        if call not in self._slots and _table(*call) is None:
            if self._unlisted == MANY_NUMBERS:
                self.gap(f"more than {MANY_NUMBERS} numbers that are no call: the others are not listed")
                return [0, "?", event.arguments, None, 0, set(), 0]
            self._unlisted += 1
        slots = self._slots.setdefault(call, {})
        key = (executable, self._arguments(event, unknown))
        slot = slots.get(key)
        if slot is None:
            self._bound(event)
            key = (executable, self._arguments(event, unknown))
            slot = slots.get(key)
        if slot is None:
            slot = slots[key] = [0, site(), event.arguments, None, LOOKS, set(), 0]
        return slot

    def gap(self, what: str) -> None:
        """Something is not recorded: `what`, in words.  For those who report it."""

    def look(self, slot: Slot, event: Event, caller: Caller) -> bool:
        """Follow the pointers of an event of the slot's observation; whether to do so with its next one, too."""
        if self._where is None or slot[4] <= 0:
            return False
        if self._pointers is None:
            from policygen.evidence.facts import Pointers  # not loaded by a run with nothing new

            self._pointers = Pointers(self._where())
        if not self._pointers.has(event):
            slot[4] = 0
            return False
        slot[3], is_new = self._pointers.follow(event, caller, slot[3])
        slot[6] = 0 if is_new else slot[6] + 1
        slot[4] = 0 if slot[6] >= QUIET else slot[4] - 1
        return bool(slot[4])

    def __len__(self) -> int:
        """The number of observations so far; another thread may ask for it."""
        return sum(map(len, list(self._slots.values())))

    def observations(self) -> tuple[Observation, ...]:
        """Return the observations so far, in the order of `Observation.order`."""
        found = []
        for (arch, number), slots in self._slots.items():
            for (executable, arguments), (count, site, example, those, _, after, _) in slots.items():
                evidence = those.texts() if those else ()
                key = (arch, number, arguments, executable)
                found.append(Observation(*key, (count,), site, example, evidence, tuple(sorted(after))))
        return tuple(sorted(found, key=lambda observation: observation.order))

    def _mask(self, arch: int, number: int) -> int:
        mask = _NUMBER
        known = _table(arch, number)
        if known is None:
            return mask
        plain = known.by_number[number].arguments
        given_up = self._combinations.given_up.get((arch, number), ())
        for variant in known.variants(number):
            for index, argument in enumerate(variant):
                if index in given_up:
                    continue
                if argument.kind is Kind.FIELD:
                    mask |= argument.exact << 64 * (index + 1)
                elif argument.kind.is_constrained:
                    mask |= plain[index].mask << 64 * (index + 1)
        for index in self._evident(arch, number):
            mask |= plain[index].mask << 64 * (index + 1)
        return mask

    def _evident(self, arch: int, number: int) -> dict[int, set[int]]:
        """Return the values seen of each unconstrained argument whose values are still kept, by its index.

        They are kept only if every meaning of the argument allows it: one that can be a pointer would fill the loop's
        cache with addresses.
        """
        if (arch, number) not in self._evidence:
            known = _table(arch, number)
            variants = known.variants(number) if known is not None else ()
            columns = zip(*variants, strict=True)
            self._evidence[arch, number] = {
                index: set() for index, column in enumerate(columns) if all(a.kind in _EVIDENT for a in column)
            }
        return self._evidence[arch, number]

    def _arguments(self, event: Event, unknown: Collection[int]) -> tuple[int | None, ...]:
        known = _table(event.arch, event.number)
        if known is None:
            return ()
        arguments = list(self._constrained(known, event))
        plain = known.by_number[event.number].arguments
        evident = self._evident(event.arch, event.number)
        for index, seen in list(evident.items()):
            value = plain[index].value(event.arguments[index])
            seen.add(value)
            if index in unknown or len(seen) > EVIDENCE:
                self._give_up(event.arch, event.number, (index,))
            else:
                arguments[index] = value
        return tuple(arguments)

    def _constrained(self, known: Table, event: Event) -> tuple[int | None, ...]:
        """Return the values of constrained arguments that are kept."""
        given_up = self._combinations.given_up.get((event.arch, event.number))
        values = kept(known, event)
        return without(values, given_up) if given_up else values

    def _bound(self, event: Event) -> None:
        """Give up arguments if the combinations of their values with those of the event are too many."""
        call = (event.arch, event.number)
        if known := _table(*call):
            for (arch, number), indexes in self._combinations.add(call, self._constrained(known, event)).items():
                self._give_up(arch, number, indexes)

    def _give_up(self, arch: int, number: int, indexes: Collection[int]) -> None:
        """Stop keeping arguments' values, and join the slots that differ in them alone; 0 stays where it is the caller."""
        known = _table(arch, number)
        arguments = known.by_number[number].arguments if known is not None else ()
        given_up = self._combinations.given_up.get((arch, number), ())
        callers = [index for index in indexes if arguments[index].kind is Kind.TASK and index not in given_up]
        for index in indexes:
            self._evidence[arch, number].pop(index, None)
        self._masks.pop((arch, number), None)
        slots = self._slots[arch, number]
        folded: dict[tuple[str, tuple[int | None, ...]], Slot] = {}
        for (executable, values), slot in slots.items():
            own = [index for index in callers if values[index] == 0]
            key = (executable, without(values, [index for index in indexes if index not in own]))
            if key in folded:
                folded[key][0] += slot[0]
                if not any(folded[key][2]):  # an observation without registers is one of a log
                    folded[key][2] = slot[2]
                if folded[key][3] is None:
                    folded[key][3] = slot[3]
                for fact in slot[3] or ():
                    folded[key][3].add(fact)
                folded[key][5] |= slot[5]
            else:
                folded[key] = slot
        slots.clear()
        slots.update(folded)
        self.generation += 1
