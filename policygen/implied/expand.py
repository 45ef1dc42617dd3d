"""A policy with its implied set written out: entries that say all that it allows.

Whoever judges a policy (the reference semantics, the compiler, comparisons, the linter) asks `expanded`; only what edits its
text looks at its own entries.  The set adds to a call of which the policy says nothing, and to an entry that only allows.
An entry that denies something explicitly (`deny`, another action, `else`) stays as it is.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from policygen.holds import exact, holds, holds_at
from policygen.implied.tables import capabilities, rows
from policygen.model import ALLOW, Always, Entry, Expression, Not, Or, Policy, alternatives, conjuncts, mentioned
from policygen.sets.algebra import FALSE, TooComplexError
from policygen.sets.express import minimise
from policygen.sets.region import Budget, space, truth
from policygen.values import replace
from tracer.abi import Arch, table
from tracer.named import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from policygen.implied.tables import Capability, Row
    from policygen.model import Action
    from tracer.abi import Argument, Event

Call = tuple[Arch, int]

_TOTAL, _OF_ENTRY, _OF_PART = 1_000_000, 500_000, 50_000
"""What finding out what a policy grants may take, in `Space.work`: a hundred times what the largest policies do."""


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
        names = policy.memo["granted"] = frozenset(_granted(policy))
    return names


def _granted(policy: Policy) -> Iterator[str]:
    left = _TOTAL
    for arch, section in policy.entries.items():
        for one in capabilities(arch):
            if left >= 0 and (one.number in section or policy.default.lets_run):
                grants, work = _grants(section.get(one.number), policy.default, one)
                left -= work
                if grants:
                    yield one.name


def witnessed(event: Event) -> Iterator[Capability]:
    """The capabilities that a call uses."""
    arch = Arch.from_audit(event.arch)
    used = [one for one in capabilities(arch) if one.number == event.number] if arch else []
    for one in used:
        if holds(one.entry.expression, table(one.arch).by_number[one.number].arguments, event.arguments):
            yield one


def least(arch: Arch, name: str) -> tuple[Capability, ...]:
    """The entries with which learning grants a capability; none for those that take the exact calls seen."""
    return tuple(one for one in capabilities(arch) if one.name == name and one.is_least)


def _expansion(policy: Policy) -> Expanded:
    names = granted(policy)
    entries = {}
    added: dict[Call, tuple[Row, ...]] = {}
    for arch, own in policy.entries.items():
        section = entries[arch] = dict(own)
        for number, (given, alone) in _given(policy.implied, arch, names, policy.table).items():
            old = section.get(number)
            taken = given if old is None else tuple(row for row in given if _adds_to(old, row))
            if taken and not policy.default.lets_run:
                added[arch, number] = taken
                section[number] = alone if old is None else _entry(old, taken)
    return Expanded(replace(policy, entries=entries, implied=0, phases=()), names, added)


@lru_cache(64)
def _given(
    version: int, arch: Arch, names: frozenset[str], newest: tuple[int, int]
) -> Mapping[int, tuple[tuple[Row, ...], Entry]]:
    """What an implied set adds to each call in a policy with these capabilities and this table: the rows, and the entry of
    them where the policy has none."""
    found: dict[int, list[Row]] = {}
    last = table(arch).newest(newest)
    for row in rows(version, arch):
        if row.given <= names and row.number <= last:
            found.setdefault(row.number, []).append(row)
    return {number: (tuple(those), _entry(None, those)) for number, those in found.items()}


def _adds_to(old: Entry, row: Row) -> bool:
    """Whether the set may add the row to what the policy says of its call."""
    return old.only_allows and row.entry.action == ALLOW


def _entry(old: Entry | None, added: Sequence[Row]) -> Entry:
    """Return the entry with the rows.  Alternatives may overlap: what covers what takes longer to find out than it saves."""
    if added[0].entry.action != ALLOW or (old is None and len(added) == 1):
        return added[0].entry
    entries = (old, *(row.entry for row in added))
    parts = dict.fromkeys(part for entry in entries if entry for part in alternatives(entry.expression))
    if Always(True) in parts:
        return Entry(Always(True))
    return Entry(Or(tuple(parts)) if len(parts) > 1 else next(iter(parts)))


@lru_cache(4096)
def _grants(entry: Entry | None, default: Action, one: Capability) -> tuple[bool, int]:
    """Whether an entry allows a call that grants the capability, whatever the arguments that its row does not compare; and what
    it took to find out, in `Space.work`.  No, if that takes too much."""
    if entry is None:
        return default.lets_run, 0
    wanted = mentioned(one.entry.expression)
    arguments = table(one.arch).by_number[one.number].arguments
    parts = [part for part in _allowing(entry, default) if mentioned(part) <= wanted | one.held]
    budget = Budget(_OF_ENTRY, _OF_PART)
    return any(_meet(part, one.entry.expression, wanted, arguments, budget) for part in parts), budget.work


def _meet(
    part: Expression, other: Expression, compared: frozenset[int], arguments: Sequence[Argument], budget: Budget
) -> bool:
    """Whether both can hold of one call; `compared`: the arguments that `other` compares."""
    registers = exact(part)
    if compared <= registers.keys() and len(registers) == len(conjuncts(part)):
        return holds_at(other, arguments, registers)  # a tenth of the time
    sets = budget.space()
    try:
        return sets.both(truth(sets, part, arguments), truth(sets, other, arguments)) != FALSE
    except TooComplexError:
        return False


def _allowing(entry: Entry, default: Action) -> Iterator[Expression]:
    """Where an entry lets its call run, as alternatives."""
    if entry.action.lets_run:
        yield from alternatives(entry.expression)
    if (entry.otherwise or default).lets_run:
        yield Not(entry.expression)


def narrowed(policy: Policy, meant: Policy) -> Policy:
    """Return the policy, with its implied set, changed as little as it takes to mean what `meant` says by its entries.

    `meant` has no implied set, the same defaults, and allows no call that `expanded(policy)` does not."""
    result = replace(meant, implied=policy.implied, entries={arch: dict(policy.entries[arch]) for arch in meant.entries})
    while different := _different(expanded(result), meant):
        entries = {arch: dict(section) for arch, section in result.entries.items()}
        for arch, number in different:
            entry = meant.entries[arch].get(number)
            if entry is None:
                entries[arch][number] = Entry(Always(False))
            elif isinstance(entry.expression, Always):
                entries[arch][number] = entry
            else:
                entries[arch][number] = replace(entry, otherwise=entry.otherwise or meant.default)
        after = replace(result, entries=entries)
        if after == result:
            raise AssertionError("an entry that denies explicitly is not what it says")
        result = after
    return result


def _different(one: Policy, other: Policy) -> list[tuple[Arch, int]]:
    """Return the calls that two policies without implied sets and with the same defaults answer differently."""
    found = []
    for arch, section in other.entries.items():
        for number in dict.fromkeys((*one.entries[arch], *section)):
            a, b = one.entries[arch].get(number), section.get(number)
            if a != b and not _same(arch, number, a, b, other):
                found.append((arch, number))
    return found


def _same(arch: Arch, number: int, a: Entry | None, b: Entry | None, policy: Policy) -> bool:
    """Return whether two entries, None for none, answer every call alike."""
    sets, arguments = space(), table(arch).by_number[number].arguments
    answers: list[dict[Action, int]] = []
    for entry in (a or Entry(Always(False)), b or Entry(Always(False))):
        holds = truth(sets, entry.expression, arguments)
        found: dict[Action, int] = {}
        for where, action in ((holds, entry.action), (sets.invert(holds), entry.otherwise or policy.default)):
            if where != FALSE:
                found[action] = sets.either(where, found.get(action, FALSE))
        answers.append(found)
    return answers[0] == answers[1]
