"""Observations by what a policy and its implied set say of them, and the capabilities that they take."""

from __future__ import annotations

from typing import TYPE_CHECKING

from policygen.holds import holds
from policygen.implied.resolve import granted, resolved, witnessed
from policygen.implied.tables import capabilities
from policygen.learning.extend import Known, sort_out
from policygen.learning.floor import OPAQUE
from policygen.model import ENOSYS, Always, Entry, Expression, Or, Policy, alternatives
from policygen.recording.model import Observation
from policygen.sets.algebra import FALSE, TooComplexError
from policygen.sets.express import minimise
from policygen.sets.region import space, to_bdd
from policygen.values import replace
from tracer.abi import Arch, table
from tracer.named import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from policygen.implied.tables import Row
    from tracer.abi import Argument, Event

Call = tuple[Arch, int]
Placed = dict[Call, tuple[Observation, ...]]
_FAILS = Entry(Always(True), ENOSYS)


class Sorted(NamedTuple):
    """Observations by what a policy says of them, and the policy with the capabilities that they take."""

    policy: Policy
    granted: Mapping[Call, tuple[Expression, ...]]
    """The rules that were added to it, which grant capabilities."""
    beyond: Mapping[Call, Known]
    """What is to be extended, in the order of the observations: with an implied set, calls of which the policy does not allow
    all, and of them only the observations that it does not allow."""
    allowed: tuple[tuple[Call, Observation], ...]
    """What a policy with an implied set allows."""


def sort_by(policy: Policy, placed: Placed, allow_opaque: Collection[str], *, names_only: bool) -> Sorted:
    """Sort observations by what the policy, with its implied set, says of them.

    A capability is granted as the least call that has it: what else it gives is implied.  Each architecture gets its own,
    though one of another architecture would do: otherwise the policy would depend on which was seen first."""
    if not policy.implied:
        return Sorted(policy, {}, {call: _known(policy, call, group) for call, group in placed.items()}, ())
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
        {call: known for part in parts for call, known in part.beyond.items()},
        tuple(allowed for part in parts for allowed in part.allowed),
    )


def _of_one(policy: Policy, arch: Arch) -> Policy:
    """The policy's part for one architecture."""
    return policy if list(policy.entries) == [arch] else replace(policy, entries={arch: policy.entries.get(arch, {})})


def _sort_by(policy: Policy, placed: Placed, allow_opaque: Collection[str], *, names_only: bool) -> Sorted:
    """For a policy of one architecture."""
    judged = {call: group for call, group in placed.items() if not _fails(policy, call, allow_opaque)}
    known = {call: _known(policy, call, group) for call, group in judged.items()}
    granted_rules: dict[Call, tuple[Expression, ...]] = {}
    if not names_only:
        events = [observation.event for each in known.values() for observation in (*each.new, *each.refused)]
        policy, granted_rules = _with_capabilities(policy, events)
        if granted_rules:  # which imply other calls
            judged = {call: group for call, group in judged.items() if not _fails(policy, call, allow_opaque)}
            known |= {
                call: _known(policy, call, judged[call]) for call, group in known.items() if call in judged and group.is_beyond
            }
    allowed = tuple((call, observation) for call in judged for observation in known[call].allowed)
    beyond = {call: known[call]._replace(allowed=()) for call in judged if known[call].is_beyond}
    return Sorted(policy, granted_rules, beyond, allowed)


def _known(policy: Policy, call: Call, observations: Sequence[Observation]) -> Known:
    """What the policy, with its implied set, says of observations of one call."""
    arch, number = call
    entry = resolved(policy).entries[arch].get(number)
    is_own = number in policy.entries[arch]
    if not is_own and entry == _FAILS:
        entry = None  # it is to be allowed
    known = sort_out(entry, policy.default, observations, table(arch))
    if is_own or not known.refused:
        return known
    against = {*known.new, *known.refused}
    return known._replace(new=tuple(each for each in observations if each in against), refused=())


def unimplied(observations: Iterable[Observation], policy: Policy) -> tuple[Observation, ...]:
    """Return the observations that need more than the policy's implied set."""
    rows = resolved(policy).added
    result = []
    for observation in observations:
        arch = Arch.from_audit(observation.arch)
        implied = rows.get((arch, observation.number), ()) if arch else ()
        arguments = table(arch).by_number[observation.number].arguments if arch and implied else ()
        if not any(holds(row.entry.expression, arguments, observation.example) for row in implied):
            result.append(observation)
    return tuple(result)


def without_covered(policy: Policy, before: Policy) -> Policy:
    """Return the policy without the rules that it took from `before` and that capabilities granted since then imply.  Rules
    that `before` implied already stay, because a person wrote them.  The policy allows the same."""
    if not policy.implied:
        return policy
    parts = [_without_covered(_of_one(policy, arch), _of_one(before, arch)) for arch in policy.entries]
    entries = {arch: section for part in parts for arch, section in part.entries.items()}
    return policy if entries == policy.entries else replace(policy, entries=entries)


def _without_covered(policy: Policy, before: Policy) -> Policy:
    """For policies of one architecture."""
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
    """Whether a policy that lacks an alternative of another one implies all that this one's capabilities do: it may lack one
    that others include."""
    lost = granted(policy) - granted(less)
    remaining = resolved(less).added if lost else {}
    return all(
        _covers(remaining.get((arch, number), ()), row.entry.expression, table(arch).by_number[number].arguments)
        for (arch, number), rows in (resolved(policy).added.items() if lost else ())
        for row in rows
        if row.given & lost
    )


def _without(policy: Policy, arch: Arch, number: int, part: Expression) -> Policy:
    """The policy without one alternative of a call."""
    section = dict(policy.entries[arch])
    rest = tuple(rule for rule in alternatives(section[number].expression) if rule != part)
    if rest:
        section[number] = replace(section[number], expression=rest[0] if len(rest) == 1 else Or(rest))
    else:
        del section[number]
    return replace(policy, entries={**policy.entries, arch: section})


def _covers(rows: Sequence[Row], part: Expression, arguments: Sequence[Argument]) -> bool:
    """Whether one of the rows holds wherever an alternative does."""
    sets = space()
    try:
        where = to_bdd(sets, Or(tuple(row.entry.expression for row in rows)), arguments)
        return sets.ite(where, FALSE, to_bdd(sets, part, arguments)) == FALSE
    except TooComplexError:
        return False


def _fails(policy: Policy, call: Call, allow_opaque: Collection[str]) -> bool:
    """Whether the implied set fails the call, because its arguments cannot be seen, and no option allows it."""
    arch, number = call
    name = table(arch).by_number[number].name
    if name not in OPAQUE or name in allow_opaque or number in policy.entries[arch]:
        return False
    return resolved(policy).entries[arch].get(number) == _FAILS


def _with_capabilities(policy: Policy, events: Iterable[Event]) -> tuple[Policy, dict[Call, tuple[Expression, ...]]]:
    """The policy with every capability that calls use and learning has an entry for."""
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
            entry = Entry(parts[0] if len(parts) == 1 else Or(parts))
            policy = replace(policy, entries={**policy.entries, arch: {**policy.entries[arch], capability.number: entry}})
            added[arch, capability.number] = (
                *added.get((arch, capability.number), ()),
                *alternatives(capability.entry.expression),
            )
    return policy, added
