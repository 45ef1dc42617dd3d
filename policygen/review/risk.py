"""The dangers of what one policy allows and another does not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from policygen.learning.generalise import literal
from policygen.learning.rule import expression
from policygen.review.catalogue import Danger, of_call, of_setting
from policygen.review.lint import granted, leaves_free
from policygen.sets.algebra import FALSE
from policygen.sets.compare import Change, Comparison, Difference, answers
from policygen.sets.region import space, truth
from tracer.abi import Arch, table

if TYPE_CHECKING:
    from policygen.model import Policy
    from policygen.recording.observation import Observation


@dataclass(frozen=True, slots=True)
class Ranked:
    """A difference, and the dangers of the catalogue that it makes possible, the most serious first."""

    difference: Difference
    dangers: tuple[Danger, ...]

    @property
    def rank(self) -> int:
        """Rank of the most serious danger; -1 without one."""
        return self.dangers[0].level.rank if self.dangers else -1


def dangers_of(seen: Observation) -> tuple[Danger, ...]:
    """What of the catalogue the calls are that an observation stands for, the most dangerous first."""
    arch = Arch.from_audit(seen.arch)
    if arch is None or seen.number not in table(arch).by_number:
        return ()
    calls, sets = table(arch), space()
    arguments = calls.by_number[seen.number].arguments
    region = truth(sets, expression(literal(seen.fitted(calls), calls), arguments), arguments)
    found = [
        row
        for row in of_call(arch, seen.number)
        if not row.free and granted(sets, row, arch, seen.number, region) != FALSE
    ]
    return tuple(sorted(found, key=lambda row: -row.level.rank))


def ranked(old: Policy, new: Policy, comparison: Comparison) -> tuple[Ranked, ...]:
    """Return the differences of `compare(old, new)`: by architecture, the most serious first, then in `Difference.order`."""
    found = [Ranked(one, _dangers(old, new, one)) for one in comparison.differences]
    return tuple(sorted(found, key=lambda one: (list(Arch).index(one.difference.arch), -one.rank, one.difference.order)))


def _dangers(old: Policy, new: Policy, difference: Difference) -> tuple[Danger, ...]:
    """Return the dangers of a difference, by its set of calls, so that the words of the difference do not matter."""
    if difference.change is not Change.MORE or not difference.after.lets_run:
        return ()
    arch, number = difference.arch, difference.example.number
    if difference.number is None:
        return (of_setting("default" if number <= table(arch).newest(new.table) else "unknown"),)
    rows = of_call(arch, number) if number in table(arch).by_number else ()
    sets = space()
    region = FALSE
    for where, before in answers(sets, old, arch, number):
        for there, after in answers(sets, new, arch, number):
            if (before, after) == (difference.before, difference.after):
                region = sets.either(sets.both(where, there), region)
    found = [
        row
        for row in rows
        if (
            any(leaves_free(rule, row, arch, number) for rule in difference.rules)
            if row.free
            else granted(sets, row, arch, number, region) != FALSE
        )
    ]
    return tuple(sorted(found, key=lambda row: -row.level.rank))
