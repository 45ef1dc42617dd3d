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
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from policygen.recording.bounds import Combinations, without
from policygen.recording.observation import Observation, kept
from tracer.abi import Arch, Event, Kind, table

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from policygen.evidence.facts import Places
    from policygen.evidence.pointed import Caller
    from policygen.evidence.run import Pointers
    from tracer.abi.table import Table

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
            from policygen.evidence.run import Pointers  # not loaded by a run with nothing new

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
