"""Find the dangers of the differences between two policies, and of observations.

Calls that only rehearsed runs made and that the catalogue warns of are left to a person: for example, a crash handler that
executes a debugger.
"""

from __future__ import annotations

from collections.abc import Collection

from callfence.policygen.comparing.compare import Change, Comparison, Difference
from callfence.policygen.evaluate import evaluate
from callfence.policygen.implied.resolve import granted as granted_by
from callfence.policygen.implied.tables import capabilities, rows
from callfence.policygen.learning.generalise import literal
from callfence.policygen.learning.rule import expression
from callfence.policygen.lint.catalogue import Danger, Level, check, granted, leaves_free, of_call, of_setting
from callfence.policygen.model import IMPLIED, Action, Policy, alternatives
from callfence.policygen.phases import START, as_in
from callfence.policygen.recording.model import Key, Observation, Recording
from callfence.policygen.sets.algebra import FALSE, Space, TooComplexError
from callfence.policygen.sets.region import Budget, example, space, to_bdd
from callfence.policygen.values import frozen, replace
from callfence.tracer.abi import Arch, table, table_of
from callfence.tracer.linux import OPAQUE
from callfence.tracer.named import NamedTuple


@frozen
class Ranked:
    """A difference, and the catalogue's dangers that it makes possible, the most serious first."""

    difference: Difference
    dangers: tuple[Danger, ...]
    is_redundant: bool = False
    """Whether the difference grants nothing beyond the rest of the policy, according to the newest implied set."""
    setting: str = ""
    """The setting from whose change alone the difference follows; "" if none does."""

    @property
    def rank(self) -> int:
        """Rank of the most serious danger; -1 if there is none."""
        return self.dangers[0].level.rank if self.dangers else -1


def dangers_of(observation: Observation) -> tuple[Danger, ...]:
    """Return the rows of the catalogue that the calls of an observation match, the most dangerous first."""
    calls, sets = table_of(observation.arch, observation.number), space()
    if calls is None:
        return ()
    arguments = calls.by_number[observation.number].arguments
    region = to_bdd(sets, expression(literal(observation.fitted(calls), calls), arguments), arguments)
    rows = [
        row
        for row in of_call(calls.arch, observation.number)
        if not row.free and granted(sets, row, calls.arch, observation.number, region) != FALSE
    ]
    return tuple(sorted(rows, key=lambda row: -row.level.rank))


def ranked(old: Policy, new: Policy, comparison: Comparison, budget: Budget | None = None) -> tuple[Ranked, ...]:
    """Return the differences of `compare(old, new)`: by architecture, the most serious first, then in `Difference.order`.

    A difference that takes more work than `budget` gets the danger `too-complex`; without a budget, algebra.TooComplexError is
    raised."""
    sides: dict[str, tuple[Policy, Policy, _Beside]] = {}
    for name in {difference.phase for difference in comparison.differences}:
        a, b = (as_in(policy, name or START) if policy.phases else policy for policy in (old, new))
        sides[name] = (a, b, _Beside(granted_by(a), granted_by(b)))
    result = [_ranked(difference, *sides[difference.phase], budget) for difference in comparison.differences]
    return tuple(sorted(result, key=lambda item: (list(Arch).index(item.difference.arch), -item.rank, item.difference.order)))


class _Beside(NamedTuple):
    """The names of the capabilities that each of two policies grants by its own entries."""

    old: frozenset[str]
    new: frozenset[str]


def _ranked(difference: Difference, old: Policy, new: Policy, beside: _Beside, budget: Budget | None) -> Ranked:
    if difference.number is None:
        return Ranked(difference, _of_unnamed(new, difference))
    if difference.region is None:
        raise ValueError("a difference is ranked once: its set of calls is no longer known")
    sets, region = difference.region
    difference = replace(difference, region=None)  # many spaces take much memory
    if budget is not None:
        budget.resume(sets)
    try:
        return _judged(sets, region, difference, old, new, beside)
    except TooComplexError:
        if budget is None:
            raise
        return Ranked(difference, (check("too-complex"),))


def _judged(sets: Space, region: int, difference: Difference, old: Policy, new: Policy, beside: _Beside) -> Ranked:
    dangers = _dangers(sets, difference, region)
    grave = any(row.level.rank >= Level.WARNING.rank for row in dangers)
    is_redundant = not grave and _is_redundant(sets, old, new, difference, region, beside)
    return Ranked(_in_own_words(sets, old, new, difference, region, beside), () if is_redundant else dangers, is_redundant)


def _in_own_words(sets: Space, old: Policy, new: Policy, difference: Difference, region: int, beside: _Beside) -> Difference:
    """Return the difference with only the rules that are new in the policy's text, if an implied set gives its other calls."""
    arch, number = difference.arch, difference.example.number
    own = new.entries.get(arch, {}).get(number)
    if difference.change is not Change.MORE or not new.implied or own is None or own.action != difference.after:
        return difference
    before = old.entries.get(arch, {}).get(number)
    had = alternatives(before.expression) if before else ()
    added = tuple(part for part in alternatives(own.expression) if part not in had)
    arguments = table(arch).by_number[number].arguments
    written = sets.union(to_bdd(sets, part, arguments) for part in added)
    given = [row for row in rows(new.implied, arch) if row.number == number and row.given <= beside.new]
    explained = sets.or_(written, sets.union(to_bdd(sets, row.entry.expression, arguments) for row in given))
    if sets.and_(written, region) == FALSE or sets.and_(region, sets.invert(explained)) != FALSE:
        return difference
    return replace(difference, rules=added, example=example(sets, sets.and_(region, written), arch, number))


def _of_unnamed(new: Policy, difference: Difference) -> tuple[Danger, ...]:
    if difference.change is not Change.MORE or not difference.after.allows:
        return ()
    is_newer = table(difference.arch).is_newer(difference.example.number, new.table)
    return (of_setting("unknown" if is_newer else "default"),)


def _dangers(sets: Space, difference: Difference, region: int) -> tuple[Danger, ...]:
    """Return the dangers of a difference, judged by its set of calls, not by how its rules are written."""
    arch, number = difference.arch, difference.example.number
    if difference.change is not Change.MORE or not difference.after.allows or number not in table(arch).by_number:
        return ()
    rows = [
        row
        for row in of_call(arch, number)
        if (
            leaves_free(sets, region, row, arch, number)
            if row.free
            else granted(sets, row, arch, number, region) != FALSE
        )
    ]
    return tuple(sorted(rows, key=lambda row: -row.level.rank))


def _is_redundant(sets: Space, old: Policy, new: Policy, difference: Difference, region: int, beside: _Beside) -> bool:
    """Return whether the policy that allows the calls of a difference would have all of them by an implied set."""
    before = (old, difference.before, beside.old, beside.new)
    after = (new, difference.after, beside.new, beside.old)
    sides = {Change.MORE: (after,), Change.LESS: (before,), Change.OTHER: (after, before)}[difference.change]
    return any(_is_implied(sets, difference, region, *side) for side in sides)


def _is_implied(
    sets: Space, difference: Difference, region: int, policy: Policy, answer: Action, own: frozenset[str], other: frozenset[str]
) -> bool:
    """Return whether an implied set gives all calls of a region the action `answer`, in a policy with the capabilities `own`;
    `other` has those of the other policy.  False for a region that itself grants a capability which the other policy lacks."""
    arch, number = difference.arch, difference.example.number
    arguments = table(arch).by_number[number].arguments
    rows_given = [row for row in rows(IMPLIED[-1], arch) if row.number == number and row.given <= own]
    given = [to_bdd(sets, row.entry.expression, arguments) for row in rows_given if row.entry.action == answer]
    if not given or sets.and_(region, sets.invert(sets.union(given))) != FALSE:
        return False
    if number not in policy.entries[arch]:
        return True
    added = [each for each in capabilities(arch) if each.number == number and each.name in own - other]
    return sets.and_(region, sets.union(to_bdd(sets, each.entry.expression, arguments) for each in added)) == FALSE


def held_back(recording: Recording, policy: Policy | None, allow_opaque: Collection[str] = ()) -> frozenset[Key]:
    """Return the keys of the observations of rehearsed runs that learning leaves to a person: those that the catalogue warns of
    and the policy does not allow; if one of them executes programs, also those of programs that no ordinary run executed."""
    rehearsed = [
        observation
        for observation in recording.observations
        if recording.rehearsed(observation) and not (policy and evaluate(policy, observation.event).allows)
    ]
    dangerous = {observation.key for observation in rehearsed if needs_a_person(observation, allow_opaque)}
    if not any(observation.name in ("execve", "execveat") for observation in rehearsed if observation.key in dangerous):
        return frozenset(dangerous)
    ordinary = {observation.executable for observation in recording.plain().observations}
    return frozenset(dangerous | {observation.key for observation in rehearsed if observation.executable not in ordinary})


def needs_a_person(observation: Observation, allow_opaque: Collection[str] = ()) -> bool:
    """Return whether the catalogue warns of granting the calls of an observation.  An opaque call is learned to fail, which
    grants nothing, unless it is in `allow_opaque`."""
    if observation.name in OPAQUE and observation.name not in allow_opaque:
        return False
    return any(danger.level.rank >= Level.WARNING.rank for danger in dangers_of(observation))
