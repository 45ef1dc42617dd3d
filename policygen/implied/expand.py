"""A policy with its implied set written out: entries that say all that it allows.

Whoever judges a policy (the reference semantics, the compiler, comparisons, the linter) asks `expanded`; only what edits its
text looks at its own entries.  The set adds to a call of which the policy says nothing, and to an entry that only allows.
An entry that denies something explicitly (`deny`, another action, `else`) stays as it is.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from policygen.holds import holds
from policygen.implied.rows import capabilities, rows
from policygen.model import ALLOW, Always, And, Condition, Entry, Expression, Not, Or, Policy, alternatives
from policygen.sets.algebra import FALSE, TooComplexError
from policygen.sets.minimise import minimise
from policygen.sets.region import space, truth
from policygen.values import replace
from tracer.abi import Arch, table

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from policygen.implied.rows import Capability, Row
    from policygen.model import Action
    from tracer.abi import Event

Call = tuple[Arch, int]


class Expanded(NamedTuple):
    """A policy, its implied set written out, and where each addition comes from."""

    policy: Policy
    """Without an implied set: its entries say everything."""
    capabilities: frozenset[str]
    """Names of what the policy's own entries grant."""
    rows: Mapping[Call, tuple[Row, ...]]
    """What the set adds to each call."""


def expanded(policy: Policy) -> Policy:
    """The policy that allows the same by its entries alone; itself if it has no implied set."""
    return expansion(policy).policy if policy.implied else policy


def expansion(policy: Policy) -> Expanded:
    """The policy with its implied set written out.  Computed once for each policy."""
    if not policy.implied:
        return Expanded(policy, frozenset(), {})
    made = policy.memo.get("expansion")
    if not isinstance(made, Expanded):
        made = policy.memo["expansion"] = _expansion(policy)
    return made


def tidy(policy: Policy) -> Policy:
    """Return the policy without alternatives that others cover, for people."""
    entries = {}
    for arch, section in policy.entries.items():
        entries[arch] = dict(section)
        for number, entry in section.items():
            parts = alternatives(entry.expression)
            if len(parts) > 1:
                fewest = minimise(parts, table(arch).by_number[number].arguments)
                entries[arch][number] = replace(entry, expression=fewest[0] if len(fewest) == 1 else Or(fewest))
    return replace(policy, entries=entries)


def granted(policy: Policy) -> frozenset[str]:
    """The names of the capabilities that the policy's own entries grant, on any of its architectures."""
    names = policy.memo.get("granted")
    if not isinstance(names, frozenset):
        names = policy.memo["granted"] = frozenset(
            one.name
            for arch, section in policy.entries.items()
            for one in capabilities(arch)
            if (one.number in section or policy.default.lets_run) and _grants(section.get(one.number), policy.default, one)
        )
    return names


def witnessed(event: Event) -> Iterator[Capability]:
    """The capabilities that a call uses."""
    arch = Arch.from_audit(event.arch)
    for one in capabilities(arch) if arch else ():
        arguments = table(one.arch).by_number[one.number].arguments
        if one.number == event.number and holds(one.entry.expression, arguments, event.arguments):
            yield one


def least(arch: Arch, name: str) -> tuple[Capability, ...]:
    """The entries with which learning grants a capability; none for those that take the exact calls seen."""
    return tuple(one for one in capabilities(arch) if one.name == name and one.is_least)


def _expansion(policy: Policy) -> Expanded:
    names = granted(policy)
    entries = {arch: dict(section) for arch, section in policy.entries.items()}
    added: dict[Call, tuple[Row, ...]] = {}
    for arch, section in entries.items():
        for row in rows(policy.implied, arch):
            old = policy.entries[arch].get(row.number)
            if row.given <= names and row.number <= table(arch).newest(policy.table) and _takes(row, old, policy):
                added[arch, row.number] = (*added.get((arch, row.number), ()), row)
        for (of, number), found in added.items():
            if of is arch:
                section[number] = _entry(section.get(number), found)
    return Expanded(replace(policy, entries=entries, implied=0, phases=()), names, added)


def _takes(row: Row, old: Entry | None, policy: Policy) -> bool:
    """Whether the set may add the row to what the policy says of its call."""
    if old is None:
        return not policy.default.lets_run
    return old.only_allows and row.entry.action == ALLOW and not policy.default.lets_run


def _entry(old: Entry | None, added: tuple[Row, ...]) -> Entry:
    """Return the entry with the rows.  Alternatives may overlap: what covers what takes longer to find out than it saves."""
    if added[0].entry.action != ALLOW:
        return added[0].entry
    entries = (old, *(row.entry for row in added))
    parts = dict.fromkeys(part for entry in entries if entry for part in alternatives(entry.expression))
    if Always(True) in parts:
        return Entry(Always(True))
    return Entry(Or(tuple(parts)) if len(parts) > 1 else next(iter(parts)))


@lru_cache(4096)
def _grants(entry: Entry | None, default: Action, one: Capability) -> bool:
    """Whether an entry allows a call that grants the capability, whatever the arguments that its row does not compare."""
    if entry is None:
        return default.lets_run
    compared = mentioned(one.entry.expression) | one.held
    arguments = table(one.arch).by_number[one.number].arguments
    sets = space()
    try:
        grants = truth(sets, one.entry.expression, arguments)
        for part in _allowing(entry, default):
            if mentioned(part) <= compared and sets.both(truth(sets, part, arguments), grants) != FALSE:
                return True
    except TooComplexError:
        return False
    return False


def _allowing(entry: Entry, default: Action) -> Iterator[Expression]:
    """Where an entry lets its call run, as alternatives."""
    if entry.action.lets_run:
        yield from alternatives(entry.expression)
    if (entry.otherwise or default).lets_run:
        yield Not(entry.expression)


def mentioned(expression: Expression) -> frozenset[int]:
    """The arguments that an expression compares anywhere."""
    match expression:
        case Condition(index):
            return frozenset((index,))
        case And(parts) | Or(parts):
            return frozenset().union(*map(mentioned, parts))
        case Not(part):
            return mentioned(part)
        case Always():
            return frozenset()
