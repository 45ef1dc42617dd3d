"""The changes between two versions of a policy, to be judged one by one.

A *change* is an alternative of an entry that allows more than the old entry did, or something that cannot be judged in
parts: an entry that answers differently, a setting.  What only allows less is not a change.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from policygen.comparing.compare import Change, Verdict, compare
from policygen.files.algebra import differences as file_differences
from policygen.language.naming import format_action
from policygen.language.normal import normal_entry
from policygen.model import Entry, Expression, Or, Policy, alternatives
from policygen.review.risk import Ranked, ranked
from policygen.sets.algebra import FALSE
from policygen.sets.region import space, truth
from policygen.values import frozen, replace
from tracer.abi import Arch, table

if TYPE_CHECKING:
    from collections.abc import Iterator

SETTINGS = ("table", "arm", "default", "unknown", "scope")


@frozen
class SettingChange:
    word: str
    """One of `SETTINGS`; `arch NAME` for a section whose unnamed calls are newly allowed; a line about files or ports, up to
    its colon."""
    before: str
    """The value, as the policy language writes it; '' for a section."""
    after: str
    found: tuple[Ranked, ...]
    """Differences over the calls that no entry names; none for `arm` and `scope`."""


@frozen
class EntryChange:
    arch: Arch
    number: int
    before: Entry | None
    """The old entry."""
    after: Entry | None
    """The new entry, with only one alternative unless `whole`.  None if the new policy has no entry."""
    whole: bool
    """Whether the change can only be judged as a whole."""
    found: tuple[Ranked, ...]
    """Differences from the old policy with this change alone."""

    @property
    def replaced(self) -> tuple[Expression, ...]:
        """The old alternatives whose calls this alternative includes."""
        if self.whole or self.before is None or self.after is None:
            return ()
        sets = space()
        arguments = table(self.arch).by_number[self.number].arguments
        outside = sets.invert(truth(sets, self.after.expression, arguments))
        parts = alternatives(self.before.expression)
        return tuple(part for part in parts if sets.both(truth(sets, part, arguments), outside) == FALSE)


PolicyChange = SettingChange | EntryChange


def changes(old: Policy, new: Policy) -> tuple[PolicyChange, ...]:
    """Return the changes, the most dangerous first; settings before entries, entries by architecture and name.

    Raises TooComplexError."""
    found: list[PolicyChange] = [*_settings(old, new)]
    for arch in Arch:
        before, after = old.entries.get(arch, {}), new.entries.get(arch, {})
        numbers = sorted({*before, *after}, key=lambda number: table(arch).by_number[number].name)
        for number in numbers:
            if arch in new.entries and before.get(number) != after.get(number):
                found += _of_call(old, new, arch, number)
    return tuple(sorted(found, key=lambda change: -max((one.rank for one in change.found), default=-1)))


def _settings(old: Policy, new: Policy) -> Iterator[SettingChange]:
    for word in SETTINGS:
        before, after = getattr(old, word), getattr(new, word)
        policy = replace(old, **{word: after})
        comparison = compare(old, policy)
        wider = comparison.verdict in (Verdict.WIDER, Verdict.INCOMPARABLE)
        if wider or any(one.change is Change.OTHER for one in comparison.differences):
            yield SettingChange(word, _value(before), _value(after), ranked(old, policy, comparison))
    for arch in new.entries:
        if arch not in old.entries and new.default.may_run:
            without = replace(old, entries={})
            yield SettingChange(f"arch {arch}", "", "", _found(without, replace(new, entries={arch: {}})))
    before, after = old.files.lines(), new.files.lines()
    for line, more, _ in file_differences(old.files, new.files):
        if more:
            yield SettingChange(line, before.get(line, ""), after.get(line, "not confined"), ())


def _value(value: object) -> str:
    if isinstance(value, tuple):
        return ".".join(map(str, value))
    return value or "none" if isinstance(value, str) else format_action(value)  # type: ignore[arg-type]


def _of_call(old: Policy, new: Policy, arch: Arch, number: int) -> list[EntryChange]:
    """Return the changes of one call, judged under the old settings, since new settings may be rejected."""
    before, after = old.entries.get(arch, {}).get(number), new.entries[arch].get(number)
    whole = after is None or not _in_parts(before, after, old)
    ones = [after] if whole or after is None else [
        replace(after, expression=part)
        for part in alternatives(after.expression)
        if before is None or part not in alternatives(before.expression)
    ]
    made = [with_found(old, EntryChange(arch, number, before, one, whole, ()), new.table) for one in ones]
    return [change for change in made if any(one.difference.change is not Change.LESS for one in change.found)]


def _in_parts(before: Entry | None, after: Entry, old: Policy) -> bool:
    """Whether each alternative of the entry only allows calls, so that each can be judged alone."""
    if not after.action.may_run or (after.otherwise or old.default).may_run:
        return False
    return before is None or (before.action, before.otherwise) == (after.action, after.otherwise)


def with_found(old: Policy, change: EntryChange, newest: tuple[int, int]) -> EntryChange:
    """Return the change with its differences from the old policy; `newest` is the new policy's table.

    Raises TooComplexError."""
    after = change.after
    if after is not None and not change.whole and change.before is not None:
        parts = (*alternatives(change.before.expression), *alternatives(after.expression))
        after = normal_entry(change.arch, change.number, replace(after, expression=Or(parts)))
    base = replace(old, table=max(old.table, newest))
    one, other = (
        replace(base, entries={change.arch: {} if entry is None else {change.number: entry}})
        for entry in (change.before, after)
    )
    return replace(change, found=_found(one, other))


def _found(old: Policy, new: Policy) -> tuple[Ranked, ...]:
    return ranked(old, new, compare(old, new))
