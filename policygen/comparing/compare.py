"""Compare two policies exactly, each difference with an example call."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import StrEnum

from callfence.policygen.evaluate import answers
from callfence.policygen.files import algebra
from callfence.policygen.files.algebra import Difference as FileDifference
from callfence.policygen.implied.resolve import Resolved, resolved, resolved_at
from callfence.policygen.model import Action, ActionKind, Always, Arm, Expression, Policy, alternatives, scopes
from callfence.policygen.phases import names_of
from callfence.policygen.sets import region
from callfence.policygen.sets.algebra import FALSE, TRUE, Space, TooComplexError
from callfence.policygen.sets.express import express, minimise
from callfence.policygen.sets.region import Region, example
from callfence.policygen.values import frozen, replace, uncompared
from callfence.tracer.abi import Arch, Event, name_of, table

ARMS = {Arm.NOW: 0, Arm.EXEC: 1, Arm.ENTRY: 2}
"""Rank of each moment at which a filter takes effect: the higher, the more calls run unfiltered before it."""
MILDEST_LAST = (
    ActionKind.KILL, ActionKind.TRAP, ActionKind.ERRNO, ActionKind.NOTIFY, ActionKind.LOG, ActionKind.ALLOW
)  # fmt: skip
"""The actions by what they let the program do: be killed, handle a signal, go on, or make the call."""
_MAX_RULES = 8
"""The most alternatives that describe a difference; a difference that takes more has none, only its example."""


class Verdict(StrEnum):
    """The result of comparing two policies: how much the second allows, compared with the first."""

    EQUAL = "equal"
    DIFFERENT = "different"
    """The second allows the same calls, but answers some differently: a denied one by another action, or a log entry."""
    NARROWER = "narrower"
    WIDER = "wider"
    INCOMPARABLE = "incomparable"
    """The second allows some calls that the first denies, and denies some that the first allows."""


class Change(StrEnum):
    MORE = "+"
    """The calls became possible."""
    LESS = "-"
    """The calls are no longer possible."""
    OTHER = "~"
    """The calls get another action, but none becomes possible or impossible."""


@frozen
class Difference:
    """A set of calls of one number for which the action was `before` and is now `after`."""

    arch: Arch
    number: int | None
    """The call's number; None for the calls that neither policy names, in as many of the two tables as `example` is."""
    change: Change
    before: Action
    after: Action
    rules: tuple[Expression, ...]
    """The calls as alternatives joined by OR, in the policy language; empty if there would be more than `_MAX_RULES`."""
    example: Event
    region: Region | None = uncompared()
    """The exact set of calls; all differences of a call share one space. None once the difference has been ranked."""
    phase: str = ""
    """The only phase in which the policies differ for these calls; "" if they differ from the start on."""

    @property
    def order(self) -> tuple[object, ...]:
        """A total sort key."""
        name = "" if self.number is None else name_of(self.arch, self.number)
        arch = list(Arch).index(self.arch)
        change = ("+-~".index(self.change), self.before.kind, self.before.errno, self.after.kind, self.after.errno)
        return (arch, self.number is None, name, *change, self.example.number, self.phase)


@frozen
class Comparison:
    differences: tuple[Difference, ...]
    """Sorted by `Difference.order`; empty if the two filters give every call the same answer."""
    arms: tuple[Arm, Arm]
    scopes: tuple[str, str] = ("", "")
    files: tuple[FileDifference, ...] = ()
    """The files and ports that became reachable, or no longer are."""
    triggers: tuple[Change, ...] = ()
    """One entry for each phase of both policies whose triggers differ: LESS if the new triggers include all of the old, else
    MORE; and one if only one of two policies with phases has `phases optional`: MORE if that is the new one."""
    unjudged: tuple[tuple[Arch, int], ...] = ()
    """Calls that are too complex to compare, ascending."""

    @property
    def verdict(self) -> Verdict:
        """The verdict over everything that was compared: calls, files, ports, scopes, triggers of phases, and the moments at
        which the filters take effect."""
        changes = {difference.change for difference in self.differences}
        had, has = ({*scopes(words)} for words in self.scopes)
        changes |= ({Change.LESS} if has - had else set()) | ({Change.MORE} if had - has else set())
        changes |= {Change.MORE for difference in self.files if difference.more} | {
            Change.LESS for difference in self.files if difference.less
        }
        changes |= {*self.triggers} | ({Change.MORE, Change.LESS} if self.unjudged else set())
        before, after = (ARMS[arm] for arm in self.arms)
        if before != after:
            changes.add(Change.MORE if after > before else Change.LESS)
        return verdict(changes)

    @property
    def is_milder(self) -> bool:
        """Whether a call gets a less strict answer: its process goes on where it was killed, or it is no longer logged."""
        return any(
            MILDEST_LAST.index(each.after.kind) > MILDEST_LAST.index(each.before.kind)
            for each in self.differences
            if each.change is Change.OTHER
        )


def verdict(changes: Iterable[Change]) -> Verdict:
    kinds = set(changes)
    if Change.MORE in kinds:
        return Verdict.INCOMPARABLE if Change.LESS in kinds else Verdict.WIDER
    if Change.LESS in kinds:
        return Verdict.NARROWER
    return Verdict.DIFFERENT if kinds else Verdict.EQUAL


def compare(old: Policy, new: Policy, budget: region.Budget | None = None) -> Comparison:
    """Return every call, file and port for which the two policies differ, sorted by architecture, call and phase.

    A call is `unjudged` if comparing it would exceed `budget`.  Without a budget, algebra.TooComplexError is raised if the sets
    of a call are too complex to compute."""
    whole = compare_resolved(resolved(old), resolved(new), budget)
    if not old.phases and not new.phases:
        return whole
    all_differences, unjudged = list(whole.differences), {*whole.unjudged}
    for name in names_of(new, old):
        reported = {replace(difference, phase="", example=_NO_CALL) for difference in all_differences}
        later = compare_resolved(resolved_at(old, name), resolved_at(new, name), budget)
        all_differences += [
            replace(difference, phase=name)
            for difference in later.differences
            if replace(difference, example=_NO_CALL) not in reported
        ]
        unjudged |= {*later.unjudged}
    before, after = ({phase.name: {*phase.triggers} for phase in policy.phases} for policy in (old, new))
    changed = [name for name in before if name in after and before[name] != after[name]]
    triggers = tuple(Change.LESS if before[name] < after[name] else Change.MORE for name in changed)
    if old.phases_optional != new.phases_optional and old.phases and new.phases:
        triggers += (Change.MORE if new.phases_optional else Change.LESS,)
    differences = tuple(sorted(all_differences, key=lambda difference: difference.order))
    return replace(whole, differences=differences, triggers=triggers, unjudged=tuple(sorted(unjudged)))


_NO_CALL = Event(0, 0, (0, 0, 0, 0, 0, 0))


def compare_resolved(old: Resolved, new: Resolved, budget: region.Budget | None = None) -> Comparison:
    """Return every difference between one phase of `old` and one of `new`.  Results, `budget` and errors are those of
    `compare`."""
    all_differences: list[Difference] = []
    unjudged = set()
    make = budget.space if budget else region.space
    for arch in Arch:
        if arch in old.entries or arch in new.entries:
            named = {*old.entries.get(arch, ()), *new.entries.get(arch, ())}
            for number in sorted(named):
                try:
                    all_differences += _call(old, new, arch, number, make)
                except TooComplexError:
                    if budget is None:
                        raise
                    unjudged.add((arch, number))
            for number in _others(old, new, arch, named):
                all_differences += [replace(difference, number=None) for difference in _call(old, new, arch, number, make)]
    files = algebra.differences(old.files, new.files)
    differences = tuple(sorted(all_differences, key=lambda difference: difference.order))
    return Comparison(differences, (old.arm, new.arm), (old.scope, new.scope), files, unjudged=tuple(sorted(unjudged)))


def _others(old: Resolved, new: Resolved, arch: Arch, named: set[int]) -> list[int]:
    """Return one call that neither policy names from each range of numbers: in both tables, in one, in none, private."""
    calls = table(arch)
    ends = sorted({calls.newest(policy.table) for policy in (old, new)})
    starts = [0, *(end + 1 for end in ends)]
    ranges = [range(start, end + 1) for start, end in zip(starts, [*ends, ends[-1] + 1], strict=True)]
    examples = []
    for numbers in (*ranges, calls.private):
        unnamed = [number for number in numbers if number not in named]
        examples += sorted(unnamed, key=lambda number: (number not in calls.by_number, number))[:1]
    return examples


def _call(old: Resolved, new: Resolved, arch: Arch, number: int, make: Callable[[], Space]) -> list[Difference]:
    if _is_same(old, new, arch, number):
        return []
    space = make()
    regions: dict[tuple[Change, Action, Action], int] = {}
    after = answers(space, new, arch, number)
    for where, action in answers(space, old, arch, number):
        for there, other in after:
            both = space.and_(where, there)
            if both != FALSE and action != other:
                key = (change_of(action, other), action, other)
                regions[key] = space.or_(regions.get(key, FALSE), both)
    return [
        Difference(
            arch,
            number,
            *key,
            _rules(space, where, key[0], old, new, arch, number),
            example(space, where, arch, number),
            Region(space, where),
        )
        for key, where in regions.items()
    ]


def _is_same(old: Resolved, new: Resolved, arch: Arch, number: int) -> bool:
    """Whether both policies have the same entry for a call, and the same settings that decide the rest."""
    if arch not in old.entries or arch not in new.entries:
        return False
    settings = [(policy.default, policy.unknown, policy.table) for policy in (old, new)]
    return settings[0] == settings[1] and old.entries[arch].get(number) == new.entries[arch].get(number)


def change_of(before: Action, after: Action) -> Change:
    """Return whether a call for which the action changes from `before` to `after` becomes possible (MORE), is no longer
    possible (LESS), or neither (OTHER)."""
    now, then = ((action.may_allow, action.allows) for action in (after, before))  # so `notify` is between deny and allow
    return Change.OTHER if now == then else Change.MORE if now > then else Change.LESS


def _rules(
    space: Space, where: int, change: Change, old: Resolved, new: Resolved, arch: Arch, number: int
) -> tuple[Expression, ...]:
    """Return the set as alternatives: those of the policy that allows it if they are exactly the set, else computed ones."""
    if where == TRUE or number not in table(arch).by_number:
        return (Always(True),) if where == TRUE else ()
    policy = old if change is Change.LESS else new
    entry = policy.entries[arch].get(number) if arch in policy.entries else None
    if entry is not None:
        arguments = table(arch).by_number[number].arguments
        rest, rules = where, []
        for alternative in alternatives(entry.expression):
            holds = region.to_bdd(space, alternative, arguments)
            if holds != FALSE and space.and_(holds, space.invert(where)) == FALSE:
                rest = space.and_(rest, space.invert(holds))
                rules.append(alternative)
        if rest == FALSE and rules:
            return minimise(rules, arguments)  # an implied set repeats what the entry says
    expressed = express(space, where, arch, number, _MAX_RULES)
    return () if expressed is None else alternatives(expressed)
