"""Sort observations by whether a policy, with its implied set, allows them; and grant the capabilities that they use."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from callfence.policygen.evaluate import opens_others, unnamed
from callfence.policygen.holds import holds
from callfence.policygen.implied.resolve import Call, granted, resolved, witnessed
from callfence.policygen.implied.tables import REACHES_ANY_FILE, Row, capabilities
from callfence.policygen.learning.extend import Judged, sort_out
from callfence.policygen.learning.floor import OPAQUE
from callfence.policygen.model import ENOSYS, Always, Entry, Expression, Or, Policy, alternatives
from callfence.policygen.recording.model import Observation
from callfence.policygen.sets.algebra import FALSE, TooComplexError
from callfence.policygen.sets.express import minimise
from callfence.policygen.sets.region import space, to_bdd
from callfence.policygen.values import replace
from callfence.tracer.abi import Arch, Argument, Event, name_of, table
from callfence.tracer.named import NamedTuple

Placed = dict[Call, tuple[Observation, ...]]
_FAILS = Entry(Always(True), ENOSYS)


class Sorted(NamedTuple):
    """Observations sorted by whether a policy allows them, and that policy with the capabilities that they use."""

    policy: Policy
    granted: Mapping[Call, tuple[Expression, ...]]
    """The rules that were added to the policy to grant capabilities."""
    beyond: Mapping[Call, Judged]
    """The calls whose entries have to be extended, in the order of the observations; with an implied set, only those with
    observations that the policy does not allow, and only these observations."""
    allowed: tuple[tuple[Call, Observation], ...]
    """The observations that a policy with an implied set already allows; none without a set: all are in `beyond` then."""


def sort_by(policy: Policy, placed: Placed, allow_opaque: Collection[str], *, names_only: bool) -> Sorted:
    """Sort observations by whether the policy, with its implied set, allows them.

    A capability is granted by the least entry that has it; the implied set allows the rest.  Each architecture gets its own
    entry, even if another architecture has the capability: otherwise the policy would depend on which of them was observed
    first."""
    if not policy.implied:
        return Sorted(policy, {}, {call: _judge(policy, call, group) for call, group in placed.items()}, ())
    parts = [
        _sort_by(
            _of_one(policy, arch),
            {call: group for call, group in placed.items() if call[0] is arch},
            allow_opaque,
            names_only=names_only,
        )
        for arch in policy.entries
    ]
    return Sorted(
        replace(policy, entries={arch: section for part in parts for arch, section in part.policy.entries.items()}),
        {call: rules for part in parts for call, rules in part.granted.items()},
        {call: judged for part in parts for call, judged in part.beyond.items()},
        tuple(allowed for part in parts for allowed in part.allowed),
    )


def _of_one(policy: Policy, arch: Arch) -> Policy:
    """Return the policy's part for one architecture."""
    return policy if list(policy.entries) == [arch] else replace(policy, entries={arch: policy.entries.get(arch, {})})


def _sort_by(policy: Policy, placed: Placed, allow_opaque: Collection[str], *, names_only: bool) -> Sorted:
    """Sort observations as `sort_by` does, for a policy of one architecture."""
    groups = {call: group for call, group in placed.items() if not _fails(policy, call, allow_opaque)}
    judged = {call: _judge(policy, call, group) for call, group in groups.items()}
    granted_rules: dict[Call, tuple[Expression, ...]] = {}
    if not names_only:
        events = [observation.event for each in judged.values() for observation in (*each.new, *each.refused)]
        policy, granted_rules = _with_capabilities(policy, events)
        if granted_rules:  # which imply other calls
            groups = {call: group for call, group in groups.items() if not _fails(policy, call, allow_opaque)}
            judged |= {call: _judge(policy, call, group) for call, group in groups.items() if judged[call].is_beyond}
    allowed = tuple((call, observation) for call in groups for observation in judged[call].allowed)
    beyond = {call: judged[call]._replace(allowed=()) for call in groups if judged[call].is_beyond}
    return Sorted(policy, granted_rules, beyond, allowed)


def _judge(policy: Policy, call: Call, observations: Sequence[Observation]) -> Judged:
    """Sort the observations of one call by whether the policy, with its implied set, allows them."""
    arch, number = call
    if opens_others(policy, arch, number):
        return Judged((), tuple(observations), ())
    entry = resolved(policy).entries[arch].get(number)
    is_own = number in policy.entries[arch]
    if not is_own and entry == _FAILS:
        entry = None  # it is to be allowed
    judged = sort_out(entry, unnamed(policy, arch, number), observations, table(arch))
    if is_own or not judged.refused:
        return judged
    against = {*judged.new, *judged.refused}
    return judged._replace(new=tuple(each for each in observations if each in against), refused=())


def unimplied(observations: Iterable[Observation], policy: Policy) -> tuple[Observation, ...]:
    """Return the observations that need more than the policy's implied set gives every policy.

    Of those that it allows because the policy has a capability, only the first is returned, with the counts of all: one
    observation for each set of capabilities, since any of these calls makes learning grant them."""
    rows = resolved(policy).added
    result: list[Observation] = []
    places: dict[tuple[Arch, frozenset[str]], int] = {}
    for observation in observations:
        arch = Arch.from_audit(observation.arch)
        implied = rows.get((arch, observation.number), ()) if arch else ()
        arguments = table(arch).by_number[observation.number].arguments if arch and implied else ()
        allowing = (row for row in implied if holds(row.entry.expression, arguments, observation.example))
        given = [row.given - {REACHES_ANY_FILE} for row in allowing]
        if not all(given):
            continue
        place = places.setdefault((arch, given[0]), len(result)) if arch and given else len(result)
        if place == len(result):
            result.append(observation)
        else:
            counts = map(sum, zip(result[place].counts, observation.counts, strict=True))
            result[place] = result[place]._replace(counts=tuple(counts))
    return tuple(result)


def without_covered(policy: Policy, before: Policy) -> Policy:
    """Return an equivalent policy without the rules that it took from `before` and that newly granted capabilities imply.
    Rules that `before` already implied stay, because a person wrote them."""
    if not policy.implied:
        return policy
    parts = [_without_covered(_of_one(policy, arch), _of_one(before, arch)) for arch in policy.entries]
    entries = {arch: section for part in parts for arch, section in part.entries.items()}
    return policy if entries == policy.entries else replace(policy, entries=entries)


def _without_covered(policy: Policy, before: Policy) -> Policy:
    """Return what `without_covered` does, for policies of one architecture."""
    if granted(policy) == granted(before):
        return policy
    for (arch, number), rows in resolved(policy).added.items():
        old = before.entries.get(arch, {}).get(number)
        for part in alternatives(old.expression) if old else ():
            arguments = table(arch).by_number[number].arguments
            entry = policy.entries[arch].get(number)
            if entry is None or part not in alternatives(entry.expression) or not _covers(rows, part, arguments):
                continue
            earlier = resolved(_without(before, arch, number, part)).added.get((arch, number), ())
            less = _without(policy, arch, number, part)
            if not _covers(earlier, part, arguments) and _implies_as_much(less, policy):
                policy = less
    return policy


def _implies_as_much(less: Policy, policy: Policy) -> bool:
    """Return whether `less`, which is `policy` without one alternative, has all capabilities that matter: it may lack a
    capability whose rows other capabilities give."""
    lost = granted(policy) - granted(less)
    remaining = resolved(less).added if lost else {}
    return all(
        _covers(remaining.get((arch, number), ()), row.entry.expression, table(arch).by_number[number].arguments)
        for (arch, number), rows in (resolved(policy).added.items() if lost else ())
        for row in rows
        if row.given & lost
    )


def _without(policy: Policy, arch: Arch, number: int, part: Expression) -> Policy:
    """Return the policy without one alternative of a call's entry."""
    section = dict(policy.entries[arch])
    rest = tuple(rule for rule in alternatives(section[number].expression) if rule != part)
    if rest:
        section[number] = replace(section[number], expression=Or.of(rest))
    else:
        del section[number]
    return replace(policy, entries={**policy.entries, arch: section})


def _covers(rows: Sequence[Row], part: Expression, arguments: Sequence[Argument]) -> bool:
    """Return whether a single row allows all calls of an alternative."""
    sets = space()
    try:
        where = to_bdd(sets, Or(tuple(row.entry.expression for row in rows)), arguments)
        return sets.ite(where, FALSE, to_bdd(sets, part, arguments)) == FALSE
    except TooComplexError:
        return False


def _fails(policy: Policy, call: Call, allow_opaque: Collection[str]) -> bool:
    """Return whether the implied set fails the call because no filter sees its arguments, and no option allows the call."""
    arch, number = call
    name = name_of(arch, number)
    if name not in OPAQUE or name in allow_opaque or number in policy.entries[arch]:
        return False
    return resolved(policy).entries[arch].get(number) == _FAILS


def _with_capabilities(policy: Policy, events: Iterable[Event]) -> tuple[Policy, dict[Call, tuple[Expression, ...]]]:
    """Return the policy with each capability that the events use and learning has an entry for, and the rules added."""
    used = {(capability.arch, capability.name) for event in events for capability in witnessed(event)}
    added: dict[Call, tuple[Expression, ...]] = {}
    for arch in policy.entries:
        for capability in capabilities(arch):  # in the file's order: what another one includes comes after it
            old = policy.entries[arch].get(capability.number)
            if not capability.is_least or (arch, capability.name) not in used or capability.name in granted(policy):
                continue
            if old is not None and not old.only_allows:
                continue  # it denies something explicitly
            before = alternatives(old.expression) if old else ()
            parts = minimise(
                (*before, *alternatives(capability.entry.expression)), table(arch).by_number[capability.number].arguments
            )
            entry = Entry(Or.of(parts))
            policy = replace(policy, entries={**policy.entries, arch: {**policy.entries[arch], capability.number: entry}})
            added[arch, capability.number] = (
                *added.get((arch, capability.number), ()),
                *alternatives(capability.entry.expression),
            )
    return policy, added
