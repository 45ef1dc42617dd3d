"""Events into observations, cheaply enough for the tracer's loop.

The loop keeps a cache of its own, from the register bits that may matter to a counter:

    key = raw & mask            # raw: number in bits 0-63, argument i in bits 64*(i+1) and up; mask from `hot_mask`
    slot = cache.get(key)       # a cache for each executable and architecture
    if slot is None:
        slot = folder.slot(executable, event, site)
        if folder.generation changed: forget all cached slots and masks
        cache[raw & folder.hot_mask(arch, number)] = slot
    slot[0] += 1

Where the meaning of an argument hangs on another one, the mask has the bits of every meaning: a cache may then have
several keys for one slot, as many as there are pointers passed there, so the loop bounds its cache.  The folder itself
holds one slot an observation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from policygen.recording.observation import Observation, kept
from tracer.abi import Arch, Event, Kind, table

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from tracer.abi.table import Table

EVIDENCE = 4
"""How many values of an unconstrained argument are kept.  They serve `--tight`, which takes no more of them, and show
whether a policy that a person made narrower still fits."""

_EVIDENT = frozenset((Kind.FD, Kind.DIRFD, Kind.SIZE, Kind.OFFSET, Kind.ID, Kind.MODE, Kind.NUMBER))
"""Kinds of which values are kept: all that are not constrained, but for addresses."""

_NUMBER = (1 << 64) - 1
"""The number's bits in `raw`."""

Slot = list[Any]
"""[count, site, example]: the loop adds to the count, the rest is the first event's.  Nothing is cheaper to add to."""


def _table(arch: int, number: int) -> Table | None:
    """The table that has the call, if any has."""
    name = Arch.from_audit(arch)
    return table(name) if name is not None and number in table(name).by_number else None


class Folder:
    """The observations of one run, while it runs.

    The result does not depend on the order of the events, but for the call site and the example, which are
    those of the first event of each observation.
    """

    def __init__(self) -> None:
        self._slots: dict[tuple[int, int], dict[tuple[str, tuple[int | None, ...]], Slot]] = {}
        self._evidence: dict[tuple[int, int], dict[int, set[int]]] = {}
        self._masks: dict[tuple[int, int], int] = {}
        self.generation = 0
        """Changes when cached slots and masks are no longer valid."""

    def hot_mask(self, arch: int, number: int) -> int:
        """The bits of `raw` that may tell one observation of the call from another.

        `arch` is AUDIT_ARCH_*.  Valid until `generation` changes.
        """
        mask = self._masks.get((arch, number))
        if mask is None:
            mask = self._masks[arch, number] = self._mask(arch, number)
        return mask

    def slot(self, executable: str, event: Event, site: Callable[[], str], unknown: Collection[int] = ()) -> Slot:
        """The counter of the observation that the event folds to; the event itself is not yet counted in it.

        `site` is called only if the observation is new.  `unknown` are arguments, none that is constrained, whose
        registers are not known: of them no values are kept from then on.
        """
        call = (event.arch, event.number)
        slots = self._slots.setdefault(call, {})
        key = (executable, self._arguments(event, unknown))
        slot = slots.get(key)
        if slot is None:
            slot = slots[key] = [0, site(), event.arguments]
        return slot

    def __len__(self) -> int:
        """How many observations there are until now; may be asked by another thread."""
        return sum(map(len, list(self._slots.values())))

    def observations(self) -> tuple[Observation, ...]:
        """What was folded until now, in the order of `Observation.order`."""
        found = [
            Observation(arch, number, arguments, executable, (count,), site, example)
            for (arch, number), slots in self._slots.items()
            for (executable, arguments), (count, site, example) in slots.items()
        ]
        return tuple(sorted(found, key=lambda observation: observation.order))

    def _mask(self, arch: int, number: int) -> int:
        mask = _NUMBER
        known = _table(arch, number)
        if known is None:
            return mask
        plain = known.by_number[number].arguments
        for variant in known.variants(number):
            for index, argument in enumerate(variant):
                if argument.kind is Kind.FIELD:
                    mask |= argument.exact << 64 * (index + 1)
                elif argument.kind.is_constrained:
                    mask |= plain[index].mask << 64 * (index + 1)
        for index in self._evident(arch, number):
            mask |= plain[index].mask << 64 * (index + 1)
        return mask

    def _evident(self, arch: int, number: int) -> dict[int, set[int]]:
        """The values seen of each unconstrained argument that is still kept, by its index.

        It is kept only if every meaning it can have may be kept: one that is a pointer at times would fill the
        loop's cache with addresses.
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
        arguments = list(kept(known, event))
        plain = known.by_number[event.number].arguments
        evident = self._evident(event.arch, event.number)
        for index, seen in list(evident.items()):
            value = plain[index].value(event.arguments[index])
            seen.add(value)
            if index in unknown or len(seen) > EVIDENCE:
                self._give_up(event.arch, event.number, index)
            else:
                arguments[index] = value
        return tuple(arguments)

    def _give_up(self, arch: int, number: int, index: int) -> None:
        """Stops keeping an argument's values, and folds together the slots that only it told apart."""
        del self._evidence[arch, number][index]
        self._masks.pop((arch, number), None)
        slots = self._slots[arch, number]
        folded: dict[tuple[str, tuple[int | None, ...]], Slot] = {}
        for (executable, arguments), slot in slots.items():
            key = (executable, (*arguments[:index], None, *arguments[index + 1 :]))
            if key in folded:
                folded[key][0] += slot[0]
            else:
                folded[key] = slot
        slots.clear()
        slots.update(folded)
        self.generation += 1
