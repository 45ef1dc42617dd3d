"""What of the observations goes beyond a policy and its implied set, and the capabilities that they take."""

from __future__ import annotations

from typing import TYPE_CHECKING

from policygen.holds import holds
from policygen.implied.expand import expanded, expansion, granted, witnessed
from policygen.implied.tables import capabilities
from policygen.learning.extend import sort_out
from policygen.learning.floor import OPAQUE
from policygen.model import ENOSYS, Always, Entry, Expression, Or, Policy, alternatives
from policygen.recording.model import Observation
from policygen.sets.algebra import FALSE, TooComplexError
from policygen.sets.express import minimise
from policygen.sets.region import space, truth
from policygen.values import replace
from tracer.abi import Arch, table
from tracer.named import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from policygen.implied.tables import Row
    from tracer.abi import Argument

Call = tuple[Arch, int]
Placed = dict[Call, tuple[Observation, ...]]
_FAILS = Entry(Always(True), ENOSYS)


class Beyond(NamedTuple):
    """A policy with the capabilities that observations take, and the observations that go beyond it all the same."""

    policy: Policy
    granted: Mapping[Call, tuple[Expression, ...]]
    """The alternatives that were added to it."""
    new: Placed
    """In the order of the observations."""
    allowed: tuple[tuple[Call, Observation], ...]
    """The other observations, which the policy allows."""


def beyond(policy: Policy, placed: Placed, allow_opaque: Collection[str], *, names_only: bool) -> Beyond:
    """Sort observations by a policy.  Without an implied set all of them are new: `extend` knows what entries say.

    A capability is granted as the least call that has it: what else it gives is implied.  Each architecture gets its own,
    though one of another architecture would do: otherwise the policy would depend on which was seen first."""
    if not policy.implied:
        return Beyond(policy, {}, placed, ())
    found = []
    for arch in policy.entries:
        mine = {call: seen for call, seen in placed.items() if call[0] is arch}
        found.append(_beyond(_of_one(policy, arch), mine, allow_opaque, names_only))
    return Beyond(
        replace(policy, entries={arch: section for one in found for arch, section in one.policy.entries.items()}),
        {call: parts for one in found for call, parts in one.granted.items()},
        {call: seen for one in found for call, seen in one.new.items()},
        tuple(allowed for one in found for allowed in one.allowed),
    )


def _of_one(policy: Policy, arch: Arch) -> Policy:
    """The policy's part for one architecture."""
    return policy if list(policy.entries) == [arch] else replace(policy, entries={arch: policy.entries.get(arch, {})})


def _beyond(policy: Policy, placed: Placed, allow_opaque: Collection[str], names_only: bool) -> Beyond:
    """For a policy of one architecture."""
    new = _new(policy, placed, allow_opaque)
    added: dict[Call, tuple[Expression, ...]] = {}
    if not names_only:
        policy, added = _with_capabilities(policy, new)
        new = _new(policy, new, allow_opaque) if added else new
    failing = {call for call in placed if _fails(policy, call, allow_opaque)}
    beyond_it = {call: set(seen) for call, seen in new.items()}
    allowed = tuple(
        (call, one)
        for call, seen in placed.items()
        if call not in failing
        for one in seen
        if one not in beyond_it.get(call, ())
    )
    return Beyond(policy, added, new, allowed)


def unimplied(observations: Iterable[Observation], policy: Policy) -> tuple[Observation, ...]:
    """Return the observations that need something else than the policy's implied set."""
    rows = expansion(policy).rows
    found = []
    for one in observations:
        arch = Arch.from_audit(one.arch)
        implied = rows.get((arch, one.number), ()) if arch else ()
        arguments = table(arch).by_number[one.number].arguments if arch and implied else ()
        if not any(holds(row.entry.expression, arguments, one.example) for row in implied):
            found.append(one)
    return tuple(found)


def without_covered(policy: Policy, before: Policy) -> Policy:
    """The policy less alternatives that it took from `before` and that capabilities granted since imply.

    What the rest of `before` implied already stays: a person wrote it.  Nothing changes of what the policy allows."""
    if not policy.implied:
        return policy
    parts = [_without_covered(_of_one(policy, arch), _of_one(before, arch)) for arch in policy.entries]
    entries = {arch: section for part in parts for arch, section in part.entries.items()}
    return policy if entries == policy.entries else replace(policy, entries=entries)


def _without_covered(policy: Policy, before: Policy) -> Policy:
    """For policies of one architecture."""
    if granted(policy) == granted(before):
        return policy
    for (arch, number), rows in expansion(policy).rows.items():
        old = before.entries.get(arch, {}).get(number)
        for part in alternatives(old.expression) if old else ():
            arguments = table(arch).by_number[number].arguments
            entry = policy.entries[arch].get(number)
            if entry is None or part not in alternatives(entry.expression) or not _covers(rows, part, arguments):
                continue
            earlier = expansion(_without(before, arch, number, part)).rows.get((arch, number), ())
            less = _without(policy, arch, number, part)
            if not _covers(earlier, part, arguments) and _implies_as_much(less, policy):
                policy = less
    return policy


def _implies_as_much(less: Policy, policy: Policy) -> bool:
    """Whether a policy that lacks an alternative of another one implies all that this one's capabilities do: it may lack one
    that others include."""
    lost = granted(policy) - granted(less)
    remaining = expansion(less).rows if lost else {}
    return all(
        _covers(remaining.get((arch, number), ()), row.entry.expression, table(arch).by_number[number].arguments)
        for (arch, number), rows in (expansion(policy).rows.items() if lost else ())
        for row in rows
        if row.given & lost
    )


def _without(policy: Policy, arch: Arch, number: int, part: Expression) -> Policy:
    """The policy without one alternative of a call."""
    section = dict(policy.entries[arch])
    rest = tuple(one for one in alternatives(section[number].expression) if one != part)
    if rest:
        section[number] = replace(section[number], expression=rest[0] if len(rest) == 1 else Or(rest))
    else:
        del section[number]
    return replace(policy, entries={**policy.entries, arch: section})


def _covers(rows: Sequence[Row], part: Expression, arguments: Sequence[Argument]) -> bool:
    """Whether one of the rows holds wherever an alternative does."""
    sets = space()
    try:
        where = truth(sets, Or(tuple(row.entry.expression for row in rows)), arguments)
        return sets.choose(where, FALSE, truth(sets, part, arguments)) == FALSE
    except TooComplexError:
        return False


def _new(policy: Policy, placed: Placed, allow_opaque: Collection[str]) -> Placed:
    """What the policy denies of the observations, explicitly or not."""
    decided = expanded(policy)
    found: Placed = {}
    for (arch, number), seen in placed.items():
        if _fails(policy, (arch, number), allow_opaque):
            continue
        entry = decided.entries[arch].get(number)
        if number not in policy.entries[arch] and entry == _FAILS:
            entry = None  # it is to be allowed
        known = sort_out(entry, policy.default, seen, table(arch))
        against = {*known.new, *known.refused}
        if against:
            found[arch, number] = tuple(one for one in seen if one in against)
    return found


def _fails(policy: Policy, call: Call, allow_opaque: Collection[str]) -> bool:
    """Whether the implied set fails the call, because its arguments cannot be seen, and nobody wants it allowed."""
    arch, number = call
    name = table(arch).by_number[number].name
    if name not in OPAQUE or name in allow_opaque or number in policy.entries[arch]:
        return False
    return expanded(policy).entries[arch].get(number) == _FAILS


def _with_capabilities(policy: Policy, new: Placed) -> tuple[Policy, dict[Call, tuple[Expression, ...]]]:
    """The policy with every capability that the observations use and learning has an entry for."""
    used = {(arch, one.name) for (arch, _), seen in new.items() for each in seen for one in witnessed(each.event)}
    added: dict[Call, tuple[Expression, ...]] = {}
    for arch in policy.entries:
        for one in capabilities(arch):  # in the file's order: what another one includes comes after it
            old = policy.entries[arch].get(one.number)
            if not one.is_least or (arch, one.name) not in used or one.name in granted(policy):
                continue
            if old is not None and not old.only_allows:
                continue  # it denies something explicitly
            before = alternatives(old.expression) if old else ()
            parts = minimise((*before, *alternatives(one.entry.expression)), table(arch).by_number[one.number].arguments)
            entry = Entry(parts[0] if len(parts) == 1 else Or(parts))
            policy = replace(policy, entries={**policy.entries, arch: {**policy.entries[arch], one.number: entry}})
            added[arch, one.number] = (*added.get((arch, one.number), ()), *alternatives(one.entry.expression))
    return policy, added
