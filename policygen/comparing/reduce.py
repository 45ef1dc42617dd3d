"""A policy reduced by another one: of the calls that the other names, it allows only what both allow."""

from __future__ import annotations

from itertools import product

from policygen.files.algebra import met
from policygen.implied.resolve import Resolved, narrowed, resolved
from policygen.language.normal import normal
from policygen.model import Action, Always, And, Entry, Expression, Or, Policy, alternatives, strictest
from policygen.phases import in_each
from policygen.sets import region
from policygen.sets.algebra import FALSE
from policygen.sets.express import minimise, negated
from policygen.values import replace
from tracer.abi import Arch, table

_MAX_PRODUCTS = 256
"""The most pairs of alternatives for which an intersection is written as alternatives."""

Truth = tuple[bool, bool]
"""Whether the first policy's expression holds, and the second's."""


def reduce(policy: Policy, by: Policy) -> Policy:
    """Return the policy without what the other one does not allow of the calls that it names; everything else stays.

    A call that was allowed and no longer is meets the action that the other writes for it, else the policy's default
    (else, if that lets calls run, the other's).  An entry has two actions; if three are needed, the denials become the
    strictest of them.  Raises ValueError if no entry can have the actions.
    """
    if policy.phases or by.phases:
        start = resolved(by)
        return normal(in_each(lambda each, other: reduce(each, _named(resolved(other), start)), policy, by))
    reduced = reduce_resolved(resolved(policy), resolved(by))
    return normal(
        narrowed(policy, reduced) if policy.implied else replace(policy, entries=reduced.entries, files=reduced.files)
    )


def reduce_resolved(policy: Resolved, by: Resolved) -> Resolved:
    """Return `reduce` for policies in one phase.  Raises what it does."""
    entries = {}
    for arch, section in policy.entries.items():
        entries[arch] = dict(section)
        for number, entry in by.entries.get(arch, {}).items():
            if number <= table(arch).newest(policy.table):
                entries[arch][number] = _entry(arch, number, policy, section.get(number, Entry(Always(False))), by, entry)
            elif policy.unknown.may_run:
                name = table(arch).by_number[number].name
                raise ValueError(f"{name} is newer than the table of the policy, which lets such calls run: raise its table")
    return replace(policy, entries=entries, files=met(policy.files, by.files))


def _named(policy: Resolved, start: Resolved) -> Policy:
    """The policy of a phase, which names what the start does, too: what is gone is denied."""
    gone = Entry(Always(False))
    entries = {arch: {**dict.fromkeys(start.entries[arch], gone), **section} for arch, section in policy.entries.items()}
    return replace(policy.written(), entries=entries)


def _entry(arch: Arch, number: int, policy: Resolved, mine: Entry, by: Resolved, theirs: Entry) -> Entry:
    answers: dict[Truth, Action] = {}
    for here, there in product((True, False), repeat=2):
        own = mine.action if here else mine.otherwise or policy.default
        other = theirs.action if there else theirs.otherwise or by.default
        written = there or theirs.otherwise is not None
        if own.may_run and not other.may_run and not written and not policy.default.may_run:
            other = policy.default
        answers[here, there] = strictest((own, other)) if own.may_run else own
    possible = _possible(arch, number, mine.expression, theirs.expression)
    actions = list(dict.fromkeys(answers[truth] for truth in possible))
    denials = [action for action in actions if not action.may_run]
    if len(actions) > 2:
        if len(actions) - len(denials) > 1:
            raise ValueError(f"{table(arch).by_number[number].name}: no entry can allow, log and deny")
        answers = {truth: action if action.may_run else strictest(denials) for truth, action in answers.items()}
        actions = list(dict.fromkeys(answers[truth] for truth in possible))
    actions.sort(key=lambda action: (not action.may_run, action == policy.default))
    if len(actions) == 1:
        return Entry(Always(True), actions[0]) if actions[0] != policy.default or actions[0].may_run else Entry(Always(False))
    where = frozenset(truth for truth in possible if answers[truth] == actions[0])
    expression = _expression(arch, number, mine.expression, theirs.expression, where, possible)
    return Entry(expression, actions[0], None if actions[1] == policy.default else actions[1])


def _possible(arch: Arch, number: int, mine: Expression, theirs: Expression) -> list[Truth]:
    """Return the combinations that occur for some arguments."""
    space, arguments = region.space(), table(arch).by_number[number].arguments
    a, b = (region.truth(space, expression, arguments) for expression in (mine, theirs))
    sets = {True: (a, b), False: (space.invert(a), space.invert(b))}
    return [(x, y) for x, y in product((True, False), repeat=2) if space.both(sets[x][0], sets[y][1]) != FALSE]


def _expression(
    arch: Arch, number: int, mine: Expression, theirs: Expression, where: frozenset[Truth], possible: list[Truth]
) -> Expression:
    """Return an expression that holds in the combinations `where` and in no other possible one."""

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
    """Return where both hold, as alternatives without empty and redundant ones."""
    left, right = alternatives(mine), alternatives(theirs)
    if len(left) * len(right) > _MAX_PRODUCTS:
        return And((mine, theirs))
    space, arguments = region.space(), table(arch).by_number[number].arguments
    rules: list[Expression] = []
    for a, b in product(left, right):
        x, y = region.truth(space, a, arguments), region.truth(space, b, arguments)
        both = space.both(x, y)
        if both != FALSE:
            rules.append(a if both == x else b if both == y else And((a, b)))
    return Or(minimise(rules, arguments))
