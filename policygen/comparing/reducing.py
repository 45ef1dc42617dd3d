"""Reduce a policy by another, and intersect two policies, exactly on arguments."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import product
from typing import Any

from callfence.policygen.comparing.compare import ARMS, Verdict, compare, compare_resolved
from callfence.policygen.files import algebra
from callfence.policygen.implied.resolve import Resolved, narrowed, resolved
from callfence.policygen.language.normal import normal
from callfence.policygen.model import (
    Action,
    Always,
    And,
    Entry,
    Expression,
    Or,
    Policy,
    alternatives,
    scope_of,
    scopes,
    strictest,
)
from callfence.policygen.phases import START, in_each_reached
from callfence.policygen.sets import region
from callfence.policygen.sets.algebra import FALSE
from callfence.policygen.sets.express import minimise, negated
from callfence.policygen.values import replace
from callfence.tracer.abi import Arch, name_of, table

_MAX_PRODUCTS = 256
"""The most pairs of alternatives for which an intersection is written as alternatives."""

_NEVER = Entry(Always(False))
"""The call gets the policy's default."""

Truth = tuple[bool, bool]
"""Whether the first policy's expression holds, and whether the second's does."""


def reduce(policy: Policy, by: Policy) -> Policy:
    """Return the policy without the permissions that `by` denies: of the calls that `by` names, only what both allow;
    everything else is unchanged.

    A call that is no longer allowed gets the action that `by` writes for it, else the policy's default (if that lets calls run,
    the default of `by`).  An entry has at most two actions; if three are needed, the denials become the strictest of them.
    Raises ValueError if an entry would have to allow, log and deny, or if `by` names a call that is newer than the policy's
    table while the policy lets such calls run."""
    start = resolved(by)

    def reduced(each: Policy, other: Policy, *, is_written: bool) -> Policy:
        limit = resolved(_named(resolved(other), start) if by.phases else other)
        meant = reduce_resolved(resolved(each), limit)
        if each.implied and not is_written:
            return narrowed(each, meant)
        return replace(each, implied=0, entries=meant.entries, files=meant.files)

    ways = [normal(in_each_reached(partial(reduced, is_written=is_written), policy, by)) for is_written in (True, False)]
    return replace(_shortest(ways), phases_optional=policy.phases_optional)


def intersect(policy: Policy, by: Policy) -> Policy:
    """Return the policy that allows exactly what both allow, in each phase that one of them has.

    What is denied gets the stricter of the two actions, as the kernel answers where both filters are in force; an entry has at
    most two actions, so if three are needed, the denials become the strictest of them.  The settings are the narrower ones of
    each pair, the moment of arming the earlier one, and files, ports and hosts those that both grant.  Raises ValueError if the
    policies have no architecture in common, or an entry would have to allow, log and deny."""
    kept = [index for index, each in enumerate((policy, by)) if each.implied]
    ways = [normal(in_each_reached(partial(_intersected, keep=keep), policy, by)) for keep in (None, *kept)]
    return replace(_shortest(ways), phases_optional=policy.phases_optional and by.phases_optional)


def exceeds(policy: Policy, limit: Policy) -> bool:
    """Return whether the policy allows a process anything that `limit` denies it, whichever calls began phases before; files
    and the settings count, too.

    A phase takes away what those before it take away, so it suffices to compare each phase of `limit` with the phase that
    begins at the same call."""
    begun = {trigger: phase.name for phase in policy.phases for trigger in phase.triggers}
    pairs = {(phase.name, begun.get(trigger, START)) for phase in limit.phases for trigger in phase.triggers}
    whole = [compare_resolved(resolved(limit, name), resolved(policy, at)) for name, at in ((START, START), *sorted(pairs))]
    is_milder = policy.phases_optional and bool(limit.phases) and not limit.phases_optional
    return is_milder or any(each.verdict in (Verdict.WIDER, Verdict.INCOMPARABLE) for each in whole)


def _shortest(ways: Sequence[Policy]) -> Policy:
    """Return the policy with the fewest entries that means what the first one does.  The others have an implied set, and where
    phases differ in what they imply, their entries may not say so."""
    exact, *_ = ways
    for way in sorted(ways, key=_length):
        if way is exact or compare(exact, way).verdict is Verdict.EQUAL:
            return way
    return exact


def _length(policy: Policy) -> int:
    """Return how many entries a policy has, in all phases."""
    whole = (policy.entries, *(phase.entries for phase in policy.phases))
    return sum(len(section) for entries in whole for section in entries.values())


def _intersected(*policies: Policy, keep: int | None) -> Policy:
    """Return what two policies without phases both allow, with the implied set of the one with this index, or of none."""
    a, b = policies
    table_ = max(a.table, b.table)
    mine, theirs = (_to_table(resolved(each), table_) for each in policies)
    entries: dict[Arch, dict[int, Entry]] = {}
    default = strictest((a.default, b.default))
    for arch in a.entries.keys() & b.entries.keys():
        numbers = dict.fromkeys((*mine.entries[arch], *theirs.entries[arch]))
        both = {number: _both(arch, number, mine, theirs, default) for number in numbers}
        entries[arch] = {number: entry for number, entry in both.items() if entry != _NEVER}
    if not entries:
        raise ValueError("the two policies have no architecture in common, so nothing is allowed by both")
    settings: dict[str, Any] = {
        "table": table_,
        "default": default,
        "unknown": strictest((a.unknown, b.unknown)),
        "arm": min(a.arm, b.arm, key=ARMS.__getitem__),
        "scope": scope_of({*scopes(a.scope)} | {*scopes(b.scope)}),
        "files": algebra.intersected(a.files, b.files),
    }
    meant = replace(mine, entries=entries, **settings)
    if keep is None:
        return meant.written()
    kept = {arch: policies[keep].entries[arch] for arch in entries}
    return narrowed(replace(policies[keep], entries=kept, **settings), meant)


def _to_table(policy: Resolved, table_: tuple[int, int]) -> Resolved:
    """Return the policy with a table at least as new as `table_`, with entries for the calls that were unknown to it."""
    if policy.table >= table_:
        return policy
    unknown = Entry(Always(True), policy.unknown)
    entries = {}
    for arch, section in policy.entries.items():
        newer = [number for number in table(arch).by_number if table(arch).is_newer(number, policy.table)]
        between = [number for number in newer if not table(arch).is_newer(number, table_)]
        entries[arch] = {**dict.fromkeys(between, unknown), **section}
    return replace(policy, entries=entries, table=table_)


def _both(arch: Arch, number: int, a: Resolved, b: Resolved, default: Action) -> Entry:
    """Return what both policies say of a call, and of each of its arguments the stricter action."""
    mine, theirs = (each.entries[arch].get(number, Entry(Always(False))) for each in (a, b))
    answers = {
        (here, there): strictest(
            (mine.action if here else mine.otherwise or a.default, theirs.action if there else theirs.otherwise or b.default)
        )
        for here, there in product((True, False), repeat=2)
    }
    return _joined(arch, number, mine.expression, theirs.expression, answers, default)


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
                name = name_of(arch, number)
                raise ValueError(f"{name} is newer than the table of the policy, which lets such calls run: raise that table")
    return replace(policy, entries=entries, files=algebra.intersected(policy.files, by.files))


def _named(policy: Resolved, start: Resolved) -> Policy:
    """Return the policy of one phase with an entry for every call that the start names, which may deny the call."""
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
    return _joined(arch, number, mine.expression, theirs.expression, answers, policy.default)


def _joined(
    arch: Arch, number: int, mine: Expression, theirs: Expression, answers: dict[Truth, Action], default: Action
) -> Entry:
    """Return the entry of a call that has these answers, by what holds of two expressions, in a policy with this default."""
    possible = _possible(arch, number, mine, theirs)
    actions = list(dict.fromkeys(answers[truth] for truth in possible))
    denials = [action for action in actions if not action.may_allow]
    if len(actions) > 2:
        if len(actions) - len(denials) > 1:
            raise ValueError(f"{name_of(arch, number)}: an entry cannot allow, log and deny: drop one")
        answers = {truth: action if action.may_allow else strictest(denials) for truth, action in answers.items()}
        actions = list(dict.fromkeys(answers[truth] for truth in possible))
    actions.sort(key=lambda action: (not action.may_allow, action == default))
    if len(actions) == 1:
        return Entry(Always(True), actions[0]) if actions[0] != default or actions[0].may_allow else Entry(Always(False))
    where = frozenset(truth for truth in possible if answers[truth] == actions[0])
    expression = _expression(arch, number, mine, theirs, where, possible)
    return Entry(expression, actions[0], None if actions[1] == default else actions[1])


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
