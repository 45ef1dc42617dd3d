"""The policy that remains when the changes between two versions have been judged, with the reasons of those who judged."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from enum import StrEnum
from itertools import groupby

from callfence.policygen.files.algebra import differences, intersected, united, with_lines
from callfence.policygen.grants import EVERYTHING, is_grant_line
from callfence.policygen.language.document import Document
from callfence.policygen.language.layout import Comments, Remarks, Section
from callfence.policygen.language.normal import normal_entry
from callfence.policygen.lint.catalogue import Level, able, combinations
from callfence.policygen.lint.findings import WHY, Finding, dangerous_together
from callfence.policygen.model import And, Entry, Expression, Or, Policy, alternatives
from callfence.policygen.phases import in_each, phase_policies, within_start
from callfence.policygen.review.changes import NOT_CONFINED, PHASES, SETTINGS, EntryChange, PolicyChange, SettingChange, changes
from callfence.policygen.sets.algebra import FALSE
from callfence.policygen.sets.join import join_entries
from callfence.policygen.sets.region import Budget, space, to_bdd
from callfence.policygen.values import frozen, replace
from callfence.tracer.abi import Arch, Argument, table


class Answer(StrEnum):
    ACCEPT = "accepted"
    REJECT = "rejected"
    SKIP = "undecided"
    """The change is undecided: it stays in the policy, like an accepted change."""


@frozen
class Decision:
    answer: Answer
    instead: Entry | None = None
    """The entry that is accepted in place of the change."""
    why: str = ""
    """Text of the change's `# why:` comment; one line."""


_UNDECIDED = Decision(Answer.SKIP)


def resolve(
    old: Document,
    new: Document,
    decisions: Mapping[PolicyChange, Decision],
    known_changes: Sequence[PolicyChange] | None = None,
) -> Document:
    """Return the new document without its rejected changes, and with the reasons for the accepted ones.

    It allows nothing beyond `new`, except edited entries, and what the old form of a rejected setting or whole entry allowed.
    What a rejected change replaced is restored; a rejected table stays if an entry needs it.  Comments stay; an entry that is
    as in `old` has its comments where they were.  Decisions about other changes are ignored.  `known_changes` are the changes,
    if they are already computed.  Raises TooComplexError."""
    if known_changes is None:
        known_changes = changes(old.policy, new.policy)
    judged = {change: decisions.get(change, _UNDECIDED) for change in known_changes}
    policy = _with_entries(old.policy, new.policy, judged)
    asked = {(change.arch, change.number) for change in judged if isinstance(change, EntryChange)}
    rejected = [change.word for change, decision in _settings(judged) if decision.answer is Answer.REJECT]
    policy = _without_lines(old.policy, policy, [word for word in rejected if is_grant_line(word)])
    for word in rejected:
        if not is_grant_line(word):
            policy = _without_setting(old.policy, policy, word, asked)
    if not policy.entries:  # every section is rejected, and a policy has at least one
        policy = replace(policy, entries=old.policy.entries)
    document = _with_old_comments(old, new, policy).with_policy(within_start(_decided_in_phases(old.policy, policy, judged)))
    for change, decision in judged.items():
        if decision.why and decision.answer is Answer.ACCEPT:
            document = _with_reason(document, change, decision)
    return document


def with_accepted(document: Document, new: Policy, taken: Mapping[PolicyChange, Decision]) -> Document:
    """Return the document with the accepted changes allowed in every phase, and their reasons; nothing else changes.  `new` is
    the policy without phases that the changes lead to.  Raises JoinError, TooComplexError."""
    document = document.with_policy(in_each(lambda policy: _joined(policy, new, taken), document.policy))
    for change, decision in taken.items():
        if decision.why:
            document = _with_reason(document, change, decision)
    return document


def _joined(policy: Policy, new: Policy, taken: Mapping[PolicyChange, Decision]) -> Policy:
    """Return a policy without phases with the accepted changes added."""
    entries = {arch: dict(section) for arch, section in policy.entries.items()}
    policy = _with_settings(policy, new, [change.word for change, _ in _settings(taken)])
    for change, decision in taken.items():
        if isinstance(change, EntryChange) and (entry := decision.instead or change.after) is not None:
            section = entries.setdefault(change.arch, {})
            joined = join_entries(change.arch, change.number, section.get(change.number), entry, policy.default)
            if joined is not None:
                section[change.number] = joined
    return replace(policy, entries=entries)


def _settings(judged: Mapping[PolicyChange, Decision]) -> Iterator[tuple[SettingChange, Decision]]:
    return ((change, decision) for change, decision in judged.items() if isinstance(change, SettingChange))


def _with_settings(policy: Policy, new: Policy, words: Sequence[str]) -> Policy:
    settings = {word: getattr(new, word) for word in words if not is_grant_line(word) and not word.startswith("arch ")}
    return replace(policy, files=with_lines(policy.files, filter(is_grant_line, words), new.files), **settings)


def _with_entries(old: Policy, new: Policy, judged: Mapping[PolicyChange, Decision]) -> Policy:
    entries = {arch: dict(section) for arch, section in new.entries.items()}
    of_calls = [change for change in judged if isinstance(change, EntryChange)]
    of_calls.sort(key=lambda change: (change.arch, change.number))
    for (arch, number), group in groupby(of_calls, key=lambda change: (change.arch, change.number)):
        entry = _judged(new.entries[arch].get(number), {change: judged[change] for change in group})
        if entry is None:
            entries[arch].pop(number, None)
        else:
            entries[arch][number] = entry
    sections = {arch: section for arch, section in entries.items() if section or arch in old.entries or not new.entries[arch]}
    return replace(new, entries=sections)


def _judged(new: Entry | None, decisions: Mapping[EntryChange, Decision]) -> Entry | None:
    """Return the entry of one call, given all decisions about its changes."""
    rejected = [change for change, decision in decisions.items() if decision.answer is Answer.REJECT or decision.instead]
    if not rejected:
        return new
    first = rejected[0]
    instead = [decision.instead for decision in decisions.values() if decision.instead]
    if first.whole or new is None:
        return instead[0] if instead else first.before
    dropped = [change.after.expression for change in rejected if change.after]
    rest = [part for part in alternatives(new.expression) if part not in dropped]
    parts = [*rest, *_restored(first, rest, dropped), *(entry.expression for entry in instead)]
    if not parts and (first.before is None or not alternatives(first.before.expression)):
        return first.before
    if not parts and new.otherwise is None:  # all that was allowed had been replaced by hand, and that is rejected
        return None
    return normal_entry(first.arch, first.number, replace(new, expression=Or(tuple(parts))))


def _restored(change: EntryChange, rest: Sequence[Expression], dropped: Sequence[Expression]) -> Iterator[Expression]:
    """Yield what of the old entry only dropped alternatives of the new one allow, in the old words if possible."""
    if change.before is None:
        return
    sets = space()
    arguments = table(change.arch).by_number[change.number].arguments
    still, lost = (to_bdd(sets, Or(tuple(parts)), arguments) if parts else FALSE for parts in (rest, dropped))
    for part in alternatives(change.before.expression):
        missing = sets.and_(to_bdd(sets, part, arguments), sets.invert(still))
        if sets.and_(missing, lost) != FALSE:
            whole = sets.and_(missing, sets.invert(lost)) == FALSE
            yield part if whole else And((part, Or(tuple(dropped))))


def _decided_in_phases(old: Policy, policy: Policy, judged: Mapping[PolicyChange, Decision]) -> Policy:
    """Return the policy with what is restored or edited at the start restored or edited in each phase, too."""
    edits: defaultdict[tuple[Arch, int], list[tuple[Entry, Entry]]] = defaultdict(list)
    for change, decision in judged.items():
        if isinstance(change, EntryChange) and change.after and decision.instead:
            instead = normal_entry(change.arch, change.number, decision.instead)
            edits[change.arch, change.number].append((change.after, instead))
    phases, before = [], {phase.name: phase.entries for phase in old.phases}
    for phase in policy.phases:
        entries = {arch: dict(section) for arch, section in phase.entries.items()}
        for arch, number, now in phase.each():
            start, former, earlier = (
                of.get(arch, {}).get(number) for of in (policy.entries, old.entries, before.get(phase.name, {}))
            )
            if start is None:
                continue
            if (start.action, start.otherwise) == (now.action, now.otherwise):
                arguments = table(arch).by_number[number].arguments
                entries[arch][number] = _completed(now, start, earlier, edits[arch, number], arguments)
            elif start == former and phase.name in before:  # restored as a whole
                del entries[arch][number]
                entries[arch] |= {number: earlier} if earlier else {}
        phases.append(replace(phase, entries=entries))
    return replace(policy, phases=tuple(phases))


def _completed(
    now: Entry, start: Entry, earlier: Entry | None, edits: Sequence[tuple[Entry, Entry]], arguments: Sequence[Argument]
) -> Entry:
    """Return a phase's entry of a call, `now`, with the alternatives of `start`, the entry at the start, that it has lost only
    in words: those which the old phase had in `earlier`, and which `now` allows already; and with what is put in the place of
    one of `edits` (what was edited, what it is edited to) where `now` has that."""
    here = alternatives(now.expression)
    lacking = [part for part in alternatives(start.expression) if part not in here]
    if not lacking:
        return now
    sets = space()
    others = sets.invert(to_bdd(sets, now.expression, arguments))
    parts = [part for part in lacking if earlier and part in alternatives(earlier.expression)]
    parts = [part for part in parts if sets.and_(to_bdd(sets, part, arguments), others) == FALSE]
    for after, instead in edits:
        if {*alternatives(after.expression)} <= {*here}:
            parts += alternatives(instead.expression)
    return replace(now, expression=Or((*here, *parts)))


def _without_lines(old: Policy, policy: Policy, lines: Sequence[str]) -> Policy:
    if not lines:
        return policy
    rejected, kept = with_lines(policy.files, lines, old.files), intersected(old.files, policy.files)
    if any(difference.more for difference in differences(rejected, kept)):  # a line has replaced others
        rejected = united(rejected, kept)
    return replace(policy, files=rejected)


def _without_setting(old: Policy, policy: Policy, word: str, asked: Set[tuple[Arch, int]]) -> Policy:
    if word == PHASES:
        return _with_old_phases(old, policy, asked)
    if word.startswith("arch "):
        removed = Arch(word.removeprefix("arch "))
        return replace(policy, entries={arch: section for arch, section in policy.entries.items() if arch is not removed})
    newer = any(table(arch).is_newer(number, old.table) for arch, number, _ in policy.each())
    return policy if word == "table" and newer else replace(policy, **{word: getattr(old, word)})


def _with_old_phases(old: Policy, policy: Policy, asked: Set[tuple[Arch, int]]) -> Policy:
    """Return the policy with the phases of the old one, except for calls that are `asked` about by themselves."""
    entries = {arch: dict(section) for arch, section in policy.entries.items()}
    for phase in old.phases:  # its triggers have to be allowed
        for arch, section in entries.items():
            calls = [table(arch).by_name[name].number for name in phase.triggers if name in table(arch).by_name]
            section |= {call: old.entries[arch][call] for call in calls if call not in section and call in old.entries[arch]}
    now = {phase.name: phase.entries for phase in policy.phases}
    phases, previous = [], entries
    for phase in old.phases:
        own = now.get(phase.name, previous)
        previous = {
            arch: {
                number: entry
                for number in section
                if (entry := (own if (arch, number) in asked else phase.entries).get(arch, {}).get(number)) is not None
            }
            for arch, section in entries.items()
        }
        phases.append(replace(phase, entries=previous))
    return replace(policy, entries=entries, phases=tuple(phases), phases_optional=old.phases_optional)


def _with_old_comments(old: Document, new: Document, policy: Policy) -> Document:
    """Return the new document, with the comments of unchanged entries on the same lines as before if they are unchanged."""
    sections = dict(new.layout.sections)
    for arch, section in sections.items():
        before, entries = old.layout.sections.get(arch, Section()), dict(section.entries)
        for number, remarks in entries.items():
            earlier = before.entries.get(number, Remarks())
            same = policy.entries.get(arch, {}).get(number) == old.policy.entries.get(arch, {}).get(number)
            if same and sorted(earlier.all()) == sorted(remarks.all()):
                entries[number] = earlier
        sections[arch] = replace(section, entries=entries)
    return Document(new.policy, replace(new.layout, sections=sections))


def reasons_needed(document: Document, findings: Iterable[Finding], change: PolicyChange) -> tuple[str, ...]:
    """Return the ids of the document's `findings`, unaccepted warnings at least, that a reason on the change's line settles."""
    rules: set[str] = set()
    if isinstance(change, EntryChange) and change.after is not None:
        rules |= {*_combined_with(document, change.arch, change.number, change.after)}
    names: set[tuple[Arch | None, int | str | None]] = set()
    names.add((None, change.word) if isinstance(change, SettingChange) else (change.arch, change.number))
    if isinstance(change, SettingChange) and change.word == PHASES:
        names |= {(None, "phases"), *((None, f"phase {phase.name}") for phase in document.policy.phases)}
    names |= {(ranked.difference.arch, ranked.difference.number) for ranked in change.differences}
    dangers = {row.id for ranked in change.differences for row in ranked.dangers}
    result = []
    for finding in findings:
        number: int | str = table(finding.arch).by_name[finding.name].number if finding.arch else finding.name
        own = (finding.arch, number) in names and (finding.arch is None or finding.rule in dangers)
        if not finding.accepted and finding.level is not Level.NOTE and (own or finding.rule in rules):
            result.append(finding.rule)
    return tuple(dict.fromkeys(result))


def _combined_with(document: Document, arch: Arch, number: int, entry: Entry) -> tuple[str, ...]:
    """Return the ids of the combinations, not accepted, in which the calls that an entry allows take part."""
    policy = phase_policies(document.policy)[0][1]
    abilities = able(replace(policy, entries={arch: {number: entry}}, implied=0))
    parts = {row.id: {*row.parts} for row in combinations()}
    together = dangerous_together(replace(document, policy=policy), Budget())
    return tuple(finding.rule for finding in together if not finding.accepted and abilities & parts[finding.rule])


def takes_reason(document: Document, change: PolicyChange) -> bool:
    """Return whether a `# why:` comment can be written on the change; False if the entry is in an included file."""
    if isinstance(change, SettingChange):
        return True
    section = document.layout.sections.get(change.arch, Section())
    return not any(change.number in include.entries.get(change.arch, {}) for include in section.includes)


def _with_reason(document: Document, change: PolicyChange, decision: Decision) -> Document:
    comment = Comments((), f"{WHY} {decision.why}")
    layout = document.layout
    if isinstance(change, SettingChange):
        if change.word == PHASES:
            return _with_reason_for_phases(document, change, comment)
        if is_grant_line(change.word):
            if change.after == NOT_CONFINED:  # a line that says so takes the comment
                explicit = Policy({}, files=EVERYTHING)
                document = replace(document, policy=_with_settings(document.policy, explicit, [change.word]))
            files = {**layout.files, change.word: layout.files.get(change.word, Comments()).join(comment)}
            return Document(document.policy, replace(layout, files=files))
        if change.word not in SETTINGS:
            arch = Arch(change.word.removeprefix("arch "))
            section = layout.sections.get(arch, Section())
            return _with_section(document, arch, replace(section, arch=section.arch.join(comment)))
        settings = {**layout.settings, change.word: layout.settings.get(change.word, Comments()).join(comment)}
        return Document(document.policy, replace(layout, settings=settings))
    entry = decision.instead or change.after
    now = document.policy.entries[change.arch].get(change.number)
    if entry is None or now is None:
        return document
    if together := _combined_with(document, change.arch, change.number, entry):
        comment = Comments((), f"{WHY} {', '.join(together)}: {decision.why}")
    section = layout.sections.get(change.arch, Section())
    remarks = section.entries.get(change.number, Remarks())
    part = next((part for part in alternatives(entry.expression) if part in alternatives(now.expression)), None)
    if isinstance(now.expression, Or) and part is not None:
        comments = {**remarks.alternatives, part: remarks.alternatives.get(part, Comments()).join(comment)}
        remarks = replace(remarks, alternatives=comments)
    else:
        remarks = replace(remarks, entry=remarks.entry.join(comment))
    entries = {**section.entries, change.number: remarks.settled(now.expression)}
    return _with_section(document, change.arch, replace(section, entries=entries))


def _with_reason_for_phases(document: Document, change: SettingChange, comment: Comments) -> Document:
    """Return the document with the reason on the lines of the phases, and on each entry that a phase newly allows."""
    policy, settings = document.policy, dict(document.layout.settings)
    for word in (*(f"phase {phase.name}" for phase in policy.phases), *(["phases"] if policy.phases_optional else [])):
        settings[word] = settings.get(word, Comments()).join(comment)
    document = Document(policy, replace(document.layout, settings=settings))
    for arch, number in dict.fromkeys((each.difference.arch, each.difference.number) for each in change.differences):
        section = document.layout.sections.get(arch, Section())
        if number is not None and number in policy.entries[arch]:
            remarks = section.entries.get(number, Remarks())
            entries = {**section.entries, number: replace(remarks, entry=remarks.entry.join(comment))}
            document = _with_section(document, arch, replace(section, entries=entries))
    return document


def _with_section(document: Document, arch: Arch, section: Section) -> Document:
    return Document(document.policy, replace(document.layout, sections={**document.layout.sections, arch: section}))
