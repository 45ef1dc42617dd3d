"""The bound on how many values of arguments are kept.

A program can pass ever new values.  A policy that lists thousands of them takes minutes to make, nobody can review it, and no
filter has room for it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING

from policygen.recording.observation import joined, kept
from policygen.recording.runs import Recording
from tracer.abi import Arch, Kind, table

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from policygen.recording.observation import Observation
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
