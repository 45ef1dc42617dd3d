"""The changes between two versions of a policy, to be judged one by one.

A *change* is an alternative of an entry that allows more than the old entry did, or something that cannot be split: an entry
with other actions, or a setting.  Something that only allows less is not a change.

`decisions.resolve` returns the policy that remains when the changes have been judged.
"""

from __future__ import annotations

from collections.abc import Iterator, Set

from callfence.policygen.comparing.compare import Change, Verdict, compare
from callfence.policygen.files.algebra import differences as file_differences
from callfence.policygen.language.naming import format_action
from callfence.policygen.language.normal import normal_entry
from callfence.policygen.lint.catalogue import Level
from callfence.policygen.lint.files import judged as judged_lines
from callfence.policygen.model import KILL, Entry, Expression, Or, Policy, alternatives
from callfence.policygen.review.judgement import settings
from callfence.policygen.review.risk import Ranked, ranked
from callfence.policygen.sets.algebra import FALSE
from callfence.policygen.sets.region import space, to_bdd
from callfence.policygen.values import frozen, replace
from callfence.tracer.abi import Arch, name_of, table

SETTINGS = ("table", "arm", "default", "unknown", "scope", "implied")
PHASES = "phases"
"""The word of the change of phases: what they no longer deny."""
NOT_CONFINED = "not confined"
"""What a policy without a line of its kind about files or ports grants, as `SettingChange.after`."""


@frozen
class SettingChange:
    word: str
    """One of `SETTINGS`; PHASES; `arch NAME` for a new section that has no entries, or whose unnamed calls are newly allowed; a
    line about files or ports, up to its colon."""
    before: str
    """The old value, as the policy language writes it; '' for a section and for PHASES."""
    after: str
    differences: tuple[Ranked, ...]
    """The differences for calls that no entry names, or that a phase newly allows; () for `arm` and `scope`."""


@frozen
class EntryChange:
    arch: Arch
    number: int
    before: Entry | None
    """The old entry; None if the old policy has none."""
    after: Entry | None
    """The new entry, with only one alternative unless `whole`; None if the new policy has none."""
    whole: bool
    """Whether the change can only be judged as a whole."""
    differences: tuple[Ranked, ...]
    """The differences that this change alone makes to the old policy."""

    @property
    def replaced(self) -> tuple[Expression, ...]:
        """The old alternatives whose calls this alternative contains."""
        if self.whole or self.before is None or self.after is None:
            return ()
        sets = space()
        arguments = table(self.arch).by_number[self.number].arguments
        outside = sets.invert(to_bdd(sets, self.after.expression, arguments))
        parts = alternatives(self.before.expression)
        return tuple(part for part in parts if sets.and_(to_bdd(sets, part, arguments), outside) == FALSE)


PolicyChange = SettingChange | EntryChange


def changes(old: Policy, new: Policy) -> tuple[PolicyChange, ...]:
    """Return the changes, the most dangerous first; settings before entries, entries by architecture and name.  Raises
    TooComplexError."""
    result: list[PolicyChange] = [*_settings(old, new)]
    for arch in Arch:
        before, after = old.entries.get(arch, {}), new.entries.get(arch, {})
        numbers = sorted({*before, *after}, key=lambda number: name_of(arch, number))
        for number in numbers:
            if arch in new.entries and before.get(number) != after.get(number):
                result += _of_call(old, new, arch, number)
    result += _phases(old, new, {(change.arch, change.number) for change in result if isinstance(change, EntryChange)})
    levels: dict[str, int] = {}
    for word, level in (
        *((PHASES if setting.word.startswith("phase") else setting.word, setting.level) for setting in settings(old, new)),
        *((line.name, Level(line.level)) for line in judged_lines(old, new)),
    ):
        if level is not Level.NOTE:
            levels[word] = max(levels.get(word, -1), level.rank)

    def rank(change: PolicyChange) -> int:
        own = levels.get(change.word, -1) if isinstance(change, SettingChange) else -1
        return max((own, *(ranked.rank for ranked in change.differences)))

    return tuple(sorted(result, key=lambda change: -rank(change)))


def _settings(old: Policy, new: Policy) -> Iterator[SettingChange]:
    for word in SETTINGS:
        before, after = getattr(old, word), getattr(new, word)
        policy = replace(old, **{word: after})
        comparison = compare(old, policy)
        wider = comparison.verdict in (Verdict.WIDER, Verdict.INCOMPARABLE)
        if wider or any(difference.change is Change.OTHER for difference in comparison.differences):
            yield SettingChange(word, _value(before), _value(after), ranked(old, policy, comparison))
    for arch in new.entries:
        if arch not in old.entries:
            unnamed = _ranked(replace(old, entries={}), replace(new, entries={arch: {}}))
            if not new.entries[arch] or any(each.difference.change is Change.MORE for each in unnamed):
                yield SettingChange(f"arch {arch}", "", "", unnamed)
    before, after = old.files.lines(), new.files.lines()
    for line, more, _ in file_differences(old.files, new.files):
        if more:
            yield SettingChange(line, before.get(line, ""), (after.get(line) or more) if line in after else NOT_CONFINED, ())


def _phases(old: Policy, new: Policy, asked: Set[tuple[Arch, int]]) -> Iterator[SettingChange]:
    """Yield the change of the phases of `old` that deny less in `new`.  `asked` are the calls with changes of their own.  There
    is none if `new` has a phase that `old` has not: what was in force before cannot be restored beside it."""
    before, after = ({phase.name: phase.triggers for phase in policy.phases} for policy in (old, new))
    if not old.phases or not before.keys() >= after.keys():
        return
    parts = [f"no phase {name}" for name in before if name not in after]
    for name, triggers in after.items():
        if not {*before[name]} <= {*triggers}:
            parts.append(f"{name} begins after {', '.join(triggers)}, not after {', '.join(before[name])}")
    if new.phases_optional and not old.phases_optional:
        parts.append("optional")
    moved = [each for each in _ranked(old, new) if each.difference.phase and each.difference.change is not Change.LESS]
    moved = [
        each for each in moved if (each.difference.arch, each.difference.example.number) not in asked and not each.is_redundant
    ]
    names = [name_of(each.difference.arch, each.difference.number) for each in moved if each.difference.number]
    if names:
        parts.append(f"not only at the start: {', '.join(dict.fromkeys(names))}")
    if parts:
        yield SettingChange(PHASES, "", "; ".join(parts), tuple(moved))


def _value(value: object) -> str:
    if isinstance(value, tuple):
        return ".".join(map(str, value))
    return str(value or "none") if isinstance(value, (str, int)) else format_action(value)  # type: ignore[arg-type]


def _of_call(old: Policy, new: Policy, arch: Arch, number: int) -> list[EntryChange]:
    """Return the changes of one call, judged under the old settings, since new settings may be rejected."""
    before, after = old.entries.get(arch, {}).get(number), new.entries[arch].get(number)
    whole = after is None or not _in_parts(before, after, old)
    entries = [after] if whole or after is None else [
        replace(after, expression=part)
        for part in alternatives(after.expression)
        if before is None or part not in alternatives(before.expression)
    ]
    changed = [with_differences(old, EntryChange(arch, number, before, entry, whole, ()), new.table) for entry in entries]
    return [change for change in changed if any(ranked.difference.change is not Change.LESS for ranked in change.differences)]


def _in_parts(before: Entry | None, after: Entry, old: Policy) -> bool:
    """Return whether each alternative of the entry only allows calls, so that each can be judged alone."""
    if not after.action.may_allow or (after.otherwise or old.default).may_allow:
        return False
    return before is None or (before.action, before.otherwise) == (after.action, after.otherwise)


def with_differences(old: Policy, change: EntryChange, newest: tuple[int, int]) -> EntryChange:
    """Return the change with its differences from the old policy; `newest` is the new policy's table.  Raises
    TooComplexError."""
    after = change.after
    if after is not None and not change.whole and change.before is not None:
        parts = (*alternatives(change.before.expression), *alternatives(after.expression))
        after = normal_entry(change.arch, change.number, replace(after, expression=Or(parts)))
    base = replace(old, table=max(old.table, newest))
    if change.arch not in old.entries:  # all of its calls are killed
        base = replace(base, default=KILL, unknown=KILL, implied=0)
    rest = {number: entry for number, entry in old.entries.get(change.arch, {}).items() if number != change.number}
    policy, changed_policy = (
        replace(base, entries={**old.entries, change.arch: rest if entry is None else {**rest, change.number: entry}})
        for entry in (change.before, after)
    )
    return replace(change, differences=_ranked(policy, changed_policy))


def _ranked(old: Policy, new: Policy) -> tuple[Ranked, ...]:
    return ranked(old, new, compare(old, new))
