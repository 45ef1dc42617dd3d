"""Compare two policies exactly, each difference with an example call; and reduce a policy by another."""

from __future__ import annotations

from enum import StrEnum
from itertools import product
from typing import TYPE_CHECKING

from policygen.evaluate import answers
from policygen.files import algebra
from policygen.implied.resolve import Resolved, narrowed, resolved, resolved_at
from policygen.language.normal import normal
from policygen.model import Action, ActionKind, Always, And, Arm, Entry, Expression, Or, Policy, alternatives, scopes, strictest
from policygen.phases import in_each, names_of
from policygen.sets import region
from policygen.sets.algebra import FALSE, TRUE, Space, TooComplexError
from policygen.sets.express import express, minimise, negated
from policygen.sets.region import Region, example
from policygen.values import frozen, replace, uncompared
from tracer.abi import Arch, Event, table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from policygen.files.algebra import Difference as FileDifference

_ARMS = {Arm.NOW: 0, Arm.EXEC: 1, Arm.ENTRY: 2}
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
        name = "" if self.number is None else table(self.arch).by_number[self.number].name
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
        before, after = (_ARMS[arm] for arm in self.arms)
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
    """Return the set as alternatives of the policy language: those of the policy that allows it if they are exactly the set,
    else computed ones."""
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


_MAX_PRODUCTS = 256
"""The most pairs of alternatives for which an intersection is written as alternatives."""

Truth = tuple[bool, bool]
"""Whether the first policy's expression holds, and whether the second's does."""


def reduce(policy: Policy, by: Policy) -> Policy:
    """Return the policy without the permissions that `by` denies: of the calls that `by` names, only what both allow;
    everything else is unchanged.

    A call that is no longer allowed gets the action that `by` writes for it, else the policy's default (if that lets calls run,
    the default of `by`).  An entry has at most two actions; if three are needed, the denials become the strictest of them.
    Raises ValueError if an entry would have to allow, log and deny, or if `by` names a call that is newer than the policy's
    table while the policy lets such calls run."""
    if policy.phases or by.phases:
        start = resolved(by)
        return normal(in_each(lambda each, other: reduce(each, _named(resolved(other), start)), policy, by))
    reduced = reduce_resolved(resolved(policy), resolved(by))
    return normal(
        narrowed(policy, reduced) if policy.implied else replace(policy, entries=reduced.entries, files=reduced.files)
    )


def reduce_resolved(policy: Resolved, by: Resolved) -> Resolved:
    """Return one phase of a policy with, of the calls that `by` names, only what both allow, and with the files and ports that
    both grant; the settings are the policy's.  `by` is one phase of the other policy.  `reduce` says which actions the denied
    calls get, and when ValueError is raised."""
    entries = {}
    for arch, section in policy.entries.items():
        entries[arch] = dict(section)
        for number, entry in by.entries.get(arch, {}).items():
            if not table(arch).is_newer(number, policy.table):
                entries[arch][number] = _entry(arch, number, policy, section.get(number, Entry(Always(False))), by, entry)
            elif policy.unknown.may_allow:
                name = table(arch).by_number[number].name
                raise ValueError(f"{name} is newer than the table of the policy, which lets such calls run: raise that table")
    return replace(policy, entries=entries, files=algebra.intersected(policy.files, by.files))


def _named(policy: Resolved, start: Resolved) -> Policy:
    """Return the policy of one phase with an entry for every call that the start names: a call that the phase no longer allows
    is denied."""
    removed = Entry(Always(False))
    entries = {arch: {**dict.fromkeys(start.entries[arch], removed), **section} for arch, section in policy.entries.items()}
    return replace(policy.written(), entries=entries)


def _entry(arch: Arch, number: int, policy: Resolved, mine: Entry, by: Resolved, theirs: Entry) -> Entry:
    answers: dict[Truth, Action] = {}
    for here, there in product((True, False), repeat=2):
        own = mine.action if here else mine.otherwise or policy.default
        other = theirs.action if there else theirs.otherwise or by.default
        written = there or theirs.otherwise is not None
        if own.may_allow and not other.may_allow and not written and not policy.default.may_allow:
            other = policy.default
        answers[here, there] = strictest((own, other)) if own.may_allow else own
    possible = _possible(arch, number, mine.expression, theirs.expression)
    actions = list(dict.fromkeys(answers[truth] for truth in possible))
    denials = [action for action in actions if not action.may_allow]
    if len(actions) > 2:
        if len(actions) - len(denials) > 1:
            raise ValueError(f"{table(arch).by_number[number].name}: an entry cannot allow, log and deny: drop one")
        answers = {truth: action if action.may_allow else strictest(denials) for truth, action in answers.items()}
        actions = list(dict.fromkeys(answers[truth] for truth in possible))
    actions.sort(key=lambda action: (not action.may_allow, action == policy.default))
    if len(actions) == 1:
        return Entry(Always(True), actions[0]) if actions[0] != policy.default or actions[0].may_allow else Entry(Always(False))
    where = frozenset(truth for truth in possible if answers[truth] == actions[0])
    expression = _expression(arch, number, mine.expression, theirs.expression, where, possible)
    return Entry(expression, actions[0], None if actions[1] == policy.default else actions[1])


def _possible(arch: Arch, number: int, mine: Expression, theirs: Expression) -> list[Truth]:
    """Return the combinations of truth values of the two expressions that occur for some arguments."""
    space, arguments = region.space(), table(arch).by_number[number].arguments
    a, b = (region.to_bdd(space, expression, arguments) for expression in (mine, theirs))
    sets = {True: (a, b), False: (space.invert(a), space.invert(b))}
    return [(x, y) for x, y in product((True, False), repeat=2) if space.and_(sets[x][0], sets[y][1]) != FALSE]


def _expression(
    arch: Arch, number: int, mine: Expression, theirs: Expression, where: frozenset[Truth], possible: list[Truth]
) -> Expression:
    """Return an expression that holds in the combinations `where`, and in none of the other possible ones."""

    for chosen, negative in ((where, False), (frozenset(possible) - where, True)):
        simple = None
        if chosen == {(True, True)}.intersection(possible):
            simple = _conjunction(arch, number, mine, theirs)
        elif chosen == {(True, True), (True, False)}.intersection(possible):
            simple = mine
        elif chosen == {(True, True), (False, True)}.intersection(possible):
            simple = theirs
        if simple is not None:
            return negated(simple) if negative else simple
    return Or(tuple(And((mine if a else negated(mine), theirs if b else negated(theirs))) for a, b in sorted(where)))


def _conjunction(arch: Arch, number: int, mine: Expression, theirs: Expression) -> Expression:
    """Return the conjunction of two expressions as alternatives, without empty and redundant ones."""
    left, right = alternatives(mine), alternatives(theirs)
    if len(left) * len(right) > _MAX_PRODUCTS:
        return And((mine, theirs))
    space, arguments = region.space(), table(arch).by_number[number].arguments
    rules: list[Expression] = []
    for a, b in product(left, right):
        x, y = region.to_bdd(space, a, arguments), region.to_bdd(space, b, arguments)
        both = space.and_(x, y)
        if both != FALSE:
            rules.append(a if both == x else b if both == y else And((a, b)))
    return Or(minimise(rules, arguments))
