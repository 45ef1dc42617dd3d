"""Resolve what a policy means: one `Resolved` policy for each of its phases, whose entries are all that is allowed there.

Code that judges a policy (the reference semantics, the compiler, comparisons, the linter) takes this type; only code that
edits a policy's text looks at its own entries.  An implied set adds to a call of which the policy says nothing, and to an
entry that only allows.  An entry that denies something explicitly (`deny`, another action, `else`) is unchanged.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType

from callfence.policygen.grants import Files
from callfence.policygen.holds import exact, holds, holds_at
from callfence.policygen.implied.restricting import restricting, with_restrictions
from callfence.policygen.implied.tables import REACHES_ANY_FILE, Capability, Row, capabilities, rows
from callfence.policygen.model import (
    ALLOW,
    Action,
    Always,
    Arm,
    Entries,
    Entry,
    Expression,
    HasEntries,
    Not,
    Or,
    Policy,
    alternatives,
    conjuncts,
    mentioned,
)
from callfence.policygen.phases import START, phase_policies
from callfence.policygen.sets.algebra import FALSE, TooComplexError
from callfence.policygen.sets.express import minimise
from callfence.policygen.sets.region import Budget, space, to_bdd
from callfence.policygen.values import as_dict, frozen, replace
from callfence.tracer.abi import Arch, Argument, Event, table

Call = tuple[Arch, int]
"""An architecture and the number of a system call."""

_TOTAL, _OF_ENTRY, _OF_PART = 1_000_000, 500_000, 50_000
"""Budgets for finding the capabilities of a policy, of an entry, and of an alternative, in `Space.work`: a hundred times what
the largest policies need."""


@frozen
class Resolved(HasEntries):
    """The meaning of a policy in one phase: its settings and its entries, with the implied set's entries added."""

    entries: Entries
    """The entries, as in `Policy`; the fields below are those of `Policy` as well."""
    table: tuple[int, int]
    arm: Arm
    default: Action
    unknown: Action
    scope: str
    files: Files
    added: Mapping[Call, tuple[Row, ...]] = MappingProxyType({})
    """The rows that the implied set adds to each call."""

    def written(self) -> Policy:
        """Return a policy with the same meaning that has neither an implied set nor phases."""
        return Policy(**{name: value for name, value in as_dict(self).items() if name != "added"})


def resolve(policy: Policy) -> Mapping[str, Resolved]:
    """Return the meaning of a policy in each of its phases, by name, START first.  It is computed once for each policy."""
    resolution = policy.memo.get("resolution")
    if not isinstance(resolution, MappingProxyType):
        phases = {name: _resolved(written) for name, written in phase_policies(policy)}
        resolution = policy.memo["resolution"] = MappingProxyType(phases)
    return resolution


def resolved(policy: Policy, phase: str = START) -> Resolved:
    """Return the meaning of a policy in a phase.  Raises ValueError if the policy has no phase of that name."""
    in_full = resolve(policy).get(phase)
    if in_full is None:
        raise ValueError(f"no phase is named {phase}; the phases are {', '.join(resolve(policy))}")
    return in_full


def resolved_at(policy: Policy, phase: str) -> Resolved:
    """Return the meaning of a policy in a phase, or in START if the policy has no phase of that name."""
    return resolve(policy).get(phase, resolve(policy)[START])


def tidy(policy: Policy) -> Policy:
    """Return the policy without redundant alternatives, which others of the entry cover, to be shown to people."""

    def fewest(arch: Arch, number: int, entry: Entry) -> Entry:
        parts = alternatives(entry.expression)
        if len(parts) < 2:
            return entry
        return replace(entry, expression=Or.of(minimise(parts, table(arch).by_number[number].arguments)))

    return policy.changed(fewest)


def granted(policy: Policy) -> frozenset[str]:
    """Return the names of the capabilities that the policy's own entries grant, on any of its architectures."""
    names = policy.memo.get("granted")
    if not isinstance(names, frozenset):
        names = policy.memo["granted"] = frozenset(_granted(policy))
    return names


def _granted(policy: Policy) -> Iterator[str]:
    budget = _TOTAL
    for arch, section in policy.entries.items():
        for capability in capabilities(arch):
            if budget >= 0 and (capability.number in section or policy.default.allows):
                grants, work = _grants(section.get(capability.number), policy.default, capability)
                budget -= work
                if grants:
                    yield capability.name


def witnessed(event: Event) -> Iterator[Capability]:
    """Yield the capabilities whose entry an event's call matches: a program that makes the call needs them."""
    arch = Arch.from_audit(event.arch)
    used = [capability for capability in capabilities(arch) if capability.number == event.number] if arch else []
    for capability in used:
        if holds(capability.entry.expression, table(capability.arch).by_number[capability.number].arguments, event.arguments):
            yield capability


def least(arch: Arch, name: str) -> tuple[Capability, ...]:
    """Return the capabilities of this name whose entries learning adds to grant it; () if learning does not grant the
    capability, but allows only the observed calls."""
    return tuple(capability for capability in capabilities(arch) if capability.name == name and capability.is_least)


def _resolved(policy: Policy) -> Resolved:
    """Return what a policy without phases means."""
    entries: Mapping[Arch, Mapping[int, Entry]] = policy.entries
    added: dict[Call, tuple[Row, ...]] = {}
    if policy.implied:
        capabilities = granted(policy)
        given_names = capabilities | {REACHES_ANY_FILE} if policy.files.paths is None else capabilities
        sections: dict[Arch, dict[int, Entry | _Given]] = {arch: {**section} for arch, section in entries.items()}
        for arch in () if policy.default.allows else entries:
            own = _restricted(arch, entries[arch])
            sections[arch].update(own)
            for number, given in _given(policy.implied, arch, given_names, policy.table).items():
                old = own.get(number)
                taken = given.rows
                if old is not None:
                    taken = tuple(row for row in given.rows if old.only_allows and row.entry.action == ALLOW)
                if taken:
                    added[arch, number] = taken
                    sections[arch][number] = given if old is None else _entry(old, taken)
        entries = {arch: _Section(section) for arch, section in sections.items()}
    return Resolved(entries, policy.table, policy.arm, policy.default, policy.unknown, policy.scope, policy.files, added)


class _Given:
    """The rows that an implied set adds to a call of which a policy says nothing, and the entry that they make."""

    __slots__ = ("_entry", "rows")

    def __init__(self, rows: tuple[Row, ...]) -> None:
        self.rows = rows
        self._entry: Entry | None = None

    def entry(self) -> Entry:
        """Return the entry; the rows are parsed at the first call."""
        if self._entry is None:
            self._entry = _entry(None, self.rows)
        return self._entry


class _Section(Mapping[int, "Entry"]):
    """The entries of one architecture, by call number; those of the implied set are parsed when they are first read."""

    __slots__ = ("_entries",)

    def __init__(self, entries: Mapping[int, Entry | _Given]) -> None:
        self._entries = entries

    def __getitem__(self, number: int) -> Entry:
        entry = self._entries[number]
        return entry.entry() if isinstance(entry, _Given) else entry

    def __contains__(self, number: object) -> bool:
        return number in self._entries

    def __iter__(self) -> Iterator[int]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __repr__(self) -> str:
        return repr(dict(self))


@lru_cache(64)
def _given(version: int, arch: Arch, names: frozenset[str], newest: tuple[int, int]) -> Mapping[int, _Given]:
    """Return what an implied set adds to each call of which a policy with these capabilities and this table says nothing."""
    result: dict[int, list[Row]] = {}
    for row in rows(version, arch):
        if row.given <= names and not table(arch).is_newer(row.number, newest):
            result.setdefault(row.number, []).append(row)
    return {number: _Given(tuple(group)) for number, group in result.items()}


def _restricted(arch: Arch, section: Mapping[int, Entry]) -> dict[int, Entry]:
    """Return the entries of an architecture, each with the bits that only restrict."""
    extended = {number: with_restrictions(arch, number, section[number]) for number in restricting(arch) if number in section}
    return {**section, **extended}


def _entry(old: Entry | None, added: Sequence[Row]) -> Entry:
    """Return the entry with the rows added.  Alternatives may overlap: removing these would take longer than it saves."""
    if added[0].entry.action != ALLOW or (old is None and len(added) == 1):
        return added[0].entry
    entries = (old, *(row.entry for row in added))
    parts = dict.fromkeys(part for entry in entries if entry for part in alternatives(entry.expression))
    if Always(True) in parts:
        return Entry(Always(True))
    return Entry(Or(tuple(parts)) if len(parts) > 1 else next(iter(parts)))


@lru_cache(4096)
def _grants(entry: Entry | None, default: Action, capability: Capability) -> tuple[bool, int]:
    """Return whether an entry allows a call that grants the capability and restricts only arguments that the capability
    compares or holds; False if this exceeds its budget.  Also return the work, in `Space.work`."""
    if entry is None:
        return default.allows, 0
    wanted = mentioned(capability.entry.expression)
    arguments = table(capability.arch).by_number[capability.number].arguments
    parts = [part for part in _allowing(entry, default) if mentioned(part) <= wanted | capability.held]
    budget = Budget(_OF_ENTRY, _OF_PART)
    return any(_meet(part, capability.entry.expression, wanted, arguments, budget) for part in parts), budget.work


def _meet(part: Expression, other: Expression, compared: frozenset[int], arguments: Sequence[Argument], budget: Budget) -> bool:
    """Return whether both expressions can hold for one call; `compared`: the arguments that `other` compares."""
    registers = exact(part)
    if compared <= registers.keys() and len(registers) == len(conjuncts(part)):
        return holds_at(other, arguments, registers)  # a tenth of the time
    sets = budget.space()
    try:
        return sets.and_(to_bdd(sets, part, arguments), to_bdd(sets, other, arguments)) != FALSE
    except TooComplexError:
        return False


def _allowing(entry: Entry, default: Action) -> Iterator[Expression]:
    """Yield the alternatives in which an entry allows its call."""
    if entry.action.allows:
        yield from alternatives(entry.expression)
    if (entry.otherwise or default).allows:
        yield Not(entry.expression)


def narrowed(policy: Policy, meant: Resolved) -> Policy:
    """Return the policy `policy` changed to mean the same as `meant`, with its implied set kept and as few entries as possible
    changed.  `meant` must have the same defaults, and must not allow a call that `policy` denies."""
    written = meant.written()
    result = replace(written, implied=policy.implied, entries={arch: dict(policy.entries[arch]) for arch in meant.entries})
    while different := _different(resolved(result), meant):
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


def _different(policy: Resolved, other: Resolved) -> list[Call]:
    """Return the calls for which two policies with the same defaults differ."""
    calls = []
    for arch, section in other.entries.items():
        for number in dict.fromkeys((*policy.entries[arch], *section)):
            a, b = policy.entries[arch].get(number), section.get(number)
            if a != b and not _same(arch, number, a, b, other.default):
                calls.append((arch, number))
    return calls


def _same(arch: Arch, number: int, a: Entry | None, b: Entry | None, default: Action) -> bool:
    """Return whether two entries give every call the same action; None is a call without an entry."""
    sets, arguments = space(), table(arch).by_number[number].arguments
    answers: list[dict[Action, int]] = []
    for entry in (a or Entry(Always(False)), b or Entry(Always(False))):
        holds = to_bdd(sets, entry.expression, arguments)
        regions: dict[Action, int] = {}
        for where, action in ((holds, entry.action), (sets.invert(holds), entry.otherwise or default)):
            if where != FALSE:
                regions[action] = sets.or_(where, regions.get(action, FALSE))
        answers.append(regions)
    return answers[0] == answers[1]
