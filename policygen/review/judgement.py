"""What a reviewer needs to know about a change from one policy to another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import starmap

from callfence.policygen.comparing.compare import MILDEST_LAST, Comparison, Difference, compare
from callfence.policygen.language.document import Document
from callfence.policygen.language.naming import format_action
from callfence.policygen.lint.catalogue import Combined, Level, check, completed, listed
from callfence.policygen.lint.files import judged
from callfence.policygen.lint.findings import Finding, lint
from callfence.policygen.model import ENTER, NOTIFY, SIGNALS, Action, ActionKind, Arm, Entry, Policy, alternatives, scopes
from callfence.policygen.phases import START, WAITS, as_in, names_of
from callfence.policygen.review.risk import Ranked, ranked
from callfence.policygen.sets.region import Budget
from callfence.policygen.values import frozen, replace
from callfence.tracer.abi import Arch, name_of, table

_FATE = {
    ActionKind.ALLOW: "are allowed, though no one has considered them",
    ActionKind.LOG: "are allowed, though no one has considered them, and logged",
    ActionKind.NOTIFY: "are put to a supervisor, which may allow them",
    ActionKind.ERRNO: "fail, and the program goes on",
    ActionKind.TRAP: "send SIGSYS, which the program may handle and go on",
    ActionKind.KILL: "end the process",
}
_HELD = {
    Arm.NOW: "before the program starts",
    Arm.EXEC: "at the program's first instruction",
    Arm.ENTRY: "after the dynamic loader, which runs without a filter",
}


@frozen
class Setting:
    """A setting in which two policies differ."""

    word: str
    """The setting's word in the policy language."""
    level: Level
    what: str
    """The old and the new value, as the policy language writes them."""
    says: str
    """What the new value means, as one clause."""
    lint: str = ""
    """The id of the finding that lint has for the new value; "" if it has none."""

    @property
    def rule(self) -> str:
        """The stable id, which other tools store; that of the catalogue's row if there is one."""
        if self.level is Level.DANGER and self.word in ("default", "unknown"):
            return f"{self.word}-allow"
        return self.lint or f"setting-{self.word.split()[0]}"


def settings(old: Policy, new: Policy) -> tuple[Setting, ...]:
    """Return the settings that differ, the most dangerous first."""
    return tuple(sorted(_settings(old, new), key=lambda setting: -setting.level.rank))


def _phases(old: Policy, new: Policy) -> Iterator[Setting]:
    before, after = ({phase.name: phase.triggers for phase in policy.phases} for policy in (old, new))
    for name in dict.fromkeys((*before, *after)):
        earlier, now = (f"after {', '.join(triggers[name])}" if name in triggers else "" for triggers in (before, after))
        if earlier == now:
            continue
        word = f"phase {name}"
        if not earlier:
            yield Setting(word, Level.NOTE, f"{word} {now}", "a process loses what is marked `until` when it makes such a call")
        elif not now:
            yield Setting(word, Level.WARNING, f"no {word}", "what was allowed only during the start stays allowed")
        else:
            level = Level.NOTE if {*before[name]} < {*after[name]} else Level.WARNING
            unusual = [trigger for trigger in after[name] if trigger not in (*before[name], *WAITS, ENTER, NOTIFY)]
            if unusual and level is Level.WARNING:
                row = check("phase-trigger")
                says = f"it {row.grants.format(listed(unusual))}, and {row.why}"
                yield Setting(word, row.level, f"{word} {earlier} -> {now}", says, row.id)
            else:
                yield Setting(word, level, f"{word} {earlier} -> {now}", "the phase begins at another call")


def _settings(old: Policy, new: Policy) -> Iterator[Setting]:
    calls = (("default", "calls that no entry names"), ("unknown", "calls that are newer than its table"))
    for word, which in calls:
        before, after = getattr(old, word), getattr(new, word)
        if before != after:
            what = f"{word} {format_action(before)} -> {format_action(after)}"
            yield Setting(word, _level(before, after), what, f"{which} {_FATE[after.kind]}")
    if old.arm != new.arm:
        later = [*_HELD].index(new.arm) > [*_HELD].index(old.arm)
        level = Level.WARNING if later else Level.NOTE
        yield Setting("arm", level, f"arm {old.arm} -> {new.arm}", f"the filter takes effect {_HELD[new.arm]}")
    for arch in new.entries:
        if arch not in old.entries:
            yield Setting(f"arch {arch}", Level.WARNING, f"arch {arch}", f"programs of {arch} are no longer killed")
    for arch in old.entries:
        if arch not in new.entries:
            yield Setting(f"arch {arch}", Level.NOTE, f"no arch {arch}", f"programs of {arch} are killed")
    yield from _phases(old, new)
    if old.phases_optional != new.phases_optional:
        what = ("required", "optional")[new.phases_optional]
        says = "goes on with its start-up permissions" if new.phases_optional else "is killed"
        level, rule = (Level.DANGER, "phases-optional") if new.phases_optional else (Level.NOTE, "")
        yield Setting("phases", level, f"phases {what}", f"a process that cannot enter its phase {says}", rule)
    had, has = scopes(old.scope), scopes(new.scope)
    lost, added = [what for what in had if what not in has], [what for what in has if what not in had]
    for level, words, whom, rule in (
        (Level.WARNING, lost, "any process of its user", "signals-outside" if SIGNALS in lost else ""),
        (Level.NOTE, added, "only processes of the program", ""),
    ):
        if words:
            says = f"{' and '.join(words)} reach {whom}"
            yield Setting("scope", level, f"scope {old.scope or 'none'} -> {new.scope or 'none'}", says, rule)
    if old.implied != new.implied:
        says = (
            "calls that grant nothing beyond its entries are allowed without an entry"
            if new.implied
            else "calls that grant nothing beyond its entries need an entry again"
        )
        yield Setting("implied", Level.NOTE, f"implied {old.implied or 'none'} -> {new.implied or 'none'}", says)
    if old.portable != new.portable:
        what = "portable" if new.portable else "no portable"
        does = "adds" if new.portable else "no longer adds"
        yield Setting("portable", Level.NOTE, what, f"learn {does} what other C libraries call instead")
    if old.table != new.table:
        names = [".".join(map(str, policy.table)) for policy in (old, new)]
        says = "calls that are newer than this kernel get the action `unknown`, older ones `default`"
        yield Setting("table", Level.NOTE, f"table {names[0]} -> {names[1]}", says)


def _level(before: Action, after: Action) -> Level:
    if after.allows:
        return Level.NOTE if before.allows else Level.DANGER
    return Level.WARNING if MILDEST_LAST.index(after.kind) > MILDEST_LAST.index(before.kind) else Level.NOTE


@frozen
class Headline:
    """What a review reports first: a setting that differs, or a combination that the new policy completes."""

    level: Level
    rule: str
    """The stable id of the setting or combination."""
    arch: Arch | None
    """The architecture; None for a setting."""
    name: str
    """The word of the setting, or the first call that completes the combination."""
    subject: str
    """What differs; a report writes `says` after it, with a colon."""
    says: str
    why: str = ""
    safer: str = ""
    completing: tuple[str, ...] = ()
    """The calls that complete a combination."""


@frozen
class Reason:
    """Why a finding is accepted, as a `# why:` comment says."""

    text: str
    is_new: bool
    """Whether the comment is new in the change that it accepts."""

    def __str__(self) -> str:
        return f"accepted {'in this change' if self.is_new else 'before'}, for this reason: {self.text}"


@frozen
class Judgement:
    comparison: Comparison
    headlines: tuple[Headline, ...]
    """The headlines, the most dangerous first; among equals, settings first."""
    differences: tuple[Ranked, ...]
    """The differences by architecture, the most dangerous first."""
    reasons: Mapping[tuple[Arch | None, str, str], Reason]
    """(architecture, name, rule) of what the new policy accepts -> the reason."""
    findings: tuple[Finding, ...] = ()
    """The findings of the new policy, the most dangerous first, accepted findings included."""

    def reason(self, headline: Headline) -> Reason | None:
        """Return why a headline is accepted; None if it is not.  A combination can be accepted on any call of its architecture
        that takes part."""
        about = (headline.arch, headline.rule)
        named = ((name, reason) for (arch, name, rule), reason in self.reasons.items() if (arch, rule) == about)
        return next((reason for name, reason in named if headline.arch or name == headline.name), None)

    @property
    def relevant(self) -> tuple[Ranked, ...]:
        """The differences that grant something, or no longer grant it, except for those that follow from a setting alone."""
        return tuple(ranked for ranked in self.differences if not ranked.is_redundant and not ranked.setting)

    @property
    def by_setting(self) -> tuple[Ranked, ...]:
        """The differences that follow from a setting alone, which has a headline."""
        return tuple(ranked for ranked in self.differences if ranked.setting)

    @property
    def redundant(self) -> tuple[Ranked, ...]:
        """The differences of calls that grant nothing beyond the rest of the policy, allowed or no longer allowed."""
        return tuple(ranked for ranked in self.differences if ranked.is_redundant and not ranked.setting)


def judge(old: Document, new: Document, budget: Budget | None = None) -> Judgement:
    """Judge the change from one policy to another.  A difference beyond `budget` is reported first, as a danger."""
    budget = budget or Budget()
    result = judge_differences(old.policy, new.policy, budget)
    complex_ones = [ranked.difference for ranked in result.differences if check("too-complex") in ranked.dangers]
    unjudged = {(ranked.arch, ranked.example.number) for ranked in complex_ones}
    headlines = [
        *starmap(_of_unjudged, sorted({*result.comparison.unjudged, *unjudged})),
        *map(_of_setting, settings(old.policy, new.policy)),
        *map(_of_combination, completed(old.policy, new.policy, budget.space)),
        *(Headline(Level(risk.level), risk.rule, None, *risk[2:]) for risk in judged(old.policy, new.policy)),
    ]
    headlines.sort(key=lambda headline: -headline.level.rank)
    findings = with_reasons_before(old, new, budget)
    reasons = {
        (finding.arch, finding.name, finding.rule): Reason(finding.accepted, finding.accepted != before)
        for finding, before in findings
        if finding.accepted
    }
    only_new = tuple(finding for finding, _ in findings)
    return replace(result, headlines=tuple(headlines), reasons=reasons, findings=only_new)


def judge_differences(old: Policy, new: Policy, budget: Budget | None = None) -> Judgement:
    """Judge only the differences, without headlines and reasons."""
    budget = budget or Budget()
    comparison = compare(old, new, budget)
    differences = ranked(old, new, comparison, budget)
    if old.default != new.default:
        differences = tuple(
            replace(each, setting="default") if _is_by_default(old, new, each.difference) else each for each in differences
        )
    return Judgement(comparison, (), differences, {})


def _is_by_default(old: Policy, new: Policy, difference: Difference) -> bool:
    """Return whether calls are answered differently only because the defaults differ."""
    if (difference.before, difference.after) != (old.default, new.default):
        return False
    before, after = (policy.entries.get(difference.arch, {}) for policy in (old, new))
    return difference.number is None or before.get(difference.number) == after.get(difference.number)


def with_reasons_before(old: Document, new: Document, budget: Budget | None = None) -> list[tuple[Finding, str]]:
    """Return the findings of the new policy, each with the reason for which the old policy accepted it; '' if it did not, or if
    what it accepted was less."""
    before = {(finding.arch, finding.name, finding.rule): finding for finding in lint(old, budget)}
    result = []
    for finding in lint(new, budget):
        earlier = before.get((finding.arch, finding.name, finding.rule))
        same = earlier and earlier.level.rank >= finding.level.rank and not _is_more(old.policy, new.policy, finding)
        result.append((finding, earlier.accepted if earlier and same else ""))
    return result


def _is_more(old: Policy, new: Policy, finding: Finding) -> bool:
    """Return whether the line that a finding is about may grant more than it did: an entry has a new rule or another action in
    some phase, a setting, or a line about files or ports, another value."""
    if finding.arch is None:
        is_setting = any(each.word == finding.name and each.level is not Level.NOTE for each in settings(old, new))
        return is_setting or old.files.lines().get(finding.name) != new.files.lines().get(finding.name)
    number = table(finding.arch).by_name[finding.name].number
    section = finding.arch
    return any(
        _has_more(*(as_in(policy, name).entries.get(section, {}).get(number) for policy in (old, new)))
        for name in (START, *names_of(new, old))
    )


def _has_more(before: Entry | None, after: Entry | None) -> bool:
    """Return whether an entry has a new rule or another action; an entry that only allows has not where it is gone."""
    if before is None or after is None or (before.action, before.otherwise) != (after.action, after.otherwise):
        return before != after and not (after is None and before is not None and before.only_allows)
    return not {*alternatives(after.expression)} <= {*alternatives(before.expression)}


def _of_unjudged(arch: Arch, number: int) -> Headline:
    name, row = name_of(arch, number), check("too-complex")
    return Headline(row.level, row.id, arch, name, name, f"it {row.grants}", row.why, row.safer)


def _of_setting(setting: Setting) -> Headline:
    return Headline(setting.level, setting.rule, None, setting.word, setting.what, setting.says)


def _of_combination(combination: Combined) -> Headline:
    """Return the headline of a completed combination: a danger, even a common one, since a reviewer decides here or never."""
    new, others = combination.calls[: combination.new], combination.calls[combination.new :]
    subject = f"{listed(new)}, with {listed(others)}" if others else listed(new)
    row = combination.row
    return Headline(Level.DANGER, row.id, combination.arch, new[0], subject, f"it {row.grants}", row.why, row.safer, new)
