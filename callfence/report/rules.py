"""What a policy allows: its rules, each with the calls that led to it; its lines about files and ports, each with the names
that runs used; and its phases, with what falls away at each trigger.
"""

from __future__ import annotations

from itertools import groupby, pairwise
from typing import TYPE_CHECKING

from callfence.judging.files import beyond, reasons_of, used
from callfence.judging.sites import MANY_SITES, Site, by_site, columns_of, such_as, widened
from callfence.report.markup import Child, Column, Html, anchor, badge, code, columns, element, items, join, lines, table, terms
from callfence.shared.text import on_one_line, plural
from policygen.grants import path_line
from policygen.implied.resolve import resolved
from policygen.language.document import Document
from policygen.language.naming import format_entry
from policygen.lint.catalogue import Level
from policygen.lint.files import risks_of
from policygen.lint.findings import grants
from policygen.model import Entry, alternatives
from policygen.phases import START, phase_policies
from policygen.review.why import Origin
from policygen.sets.region import Budget
from tracer.abi import Arch, table as calls_of
from tracer.abi.waits import bits

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from callfence.report.content import Report
    from policygen.lint.findings import Finding
    from policygen.model import Phase, Policy
    from policygen.recording.model import Observation
    from policygen.review.why import Provenance

_SHORT = {
    Origin.CHANGED: "by hand",
    Origin.EXTENDED: "extended",
    Origin.NOTED: "floor",
    Origin.PORTABLE: "not seen",
    Origin.UNSEEN: "not seen",
}
_MANY_NAMES = 20
"""Names that are shown of a line."""


def rules(report: Report) -> Html:
    """All rules, by architecture and call; each can be unfolded."""
    parts = []
    for arch, of_arch in groupby(report.rules, key=lambda one: one.arch):
        parts.append(element("h3", "Architecture ", code(arch)))
        details = []
        for number, group in groupby(of_arch, key=lambda one: one.number):
            name = calls_of(arch).by_number[number].name
            found = [one for one in report.findings if (one.arch, one.name) == (arch, name)]
            for index, one in enumerate(group):
                details.append(_rule(report, one, found, {} if index else {"id": anchor(arch, name)}))
        parts.append(lines(*details))
    return join(*parts) if parts else element("p", "The policy has no rules: its default meets every call.")


def _rule(report: Report, one: Provenance, findings: list[Finding], identity: dict[str, str]) -> Html:
    badges: list[Child] = []
    level = next((finding.level for finding in findings if not finding.accepted), None)
    if level is not None and one.rule.action.allows:
        badges.append(badge(level))
    if one.origin in _SHORT and not (one.note and one.observations):
        badges.append(badge(_SHORT[one.origin], "plain"))
    calls = sum(seen.calls for seen in one.observations)
    if calls and not report.is_bare:
        said = f"at least {plural(calls, 'call')} in {plural(len(columns_of(one.observations)), 'run')}"
        badges.append(element("span", said, class_="muted"))
    rule = on_one_line(one.arch, one.number, one.rule)
    summary = element("summary", code(rule), " ", *(join(child, " ") for child in badges))
    return element("details", summary, _behind(report, one, findings), class_="rule", **identity)


def _behind(report: Report, one: Provenance, findings: list[Finding]) -> Html:
    pairs: list[tuple[str, Child]] = []
    if one.note:
        pairs.append(("Note", one.note))
    if not one.note or not one.observations:
        pairs.append(("Origin", str(one.origin)))
    if one.observations and not report.is_bare:
        pairs.append(("Runs", ", ".join(str(column + 1) for column in columns_of(one.observations))))
    if one.widenings and one.rule.action.allows:
        pairs.append(("Wider than seen", widened(one)))
    pairs += [(f"Risk ({finding.level})", f"the entry {finding.grants}") for finding in findings]
    if not one.observations:
        return terms(pairs)
    sites = by_site(one.observations)
    shown = [_site(*whose, those, bare=report.is_bare) for whose, those in sites[:MANY_SITES]]
    if len(sites) > MANY_SITES:
        shown.append(join(f"... and at {plural(len(sites) - MANY_SITES, 'more place')}"))
    pairs.append(("Seen", items(shown)))
    return terms(pairs)


def _site(executable: str, site: str, those: Sequence[Observation], *, bare: bool) -> Html:
    count = plural(sum(seen.calls for seen in those), "call")
    place = f", at {site}, such as " if bare else f", first at {Site.parse(site) or site}: {count}, such as "
    call, others = such_as(those, bare=bare)
    parts: list[Child] = [code(executable), place, code(call)]
    for index, fact in enumerate(others):
        parts += [", " if index else "; and ", code(fact)]
    return join(*parts)


def files(report: Report) -> Html:
    """All lines; each can be unfolded."""
    granted = report.document.policy.files
    names = {path_line(path): path for path in granted.paths or {}}
    risks = risks_of(granted)
    reasons = reasons_of(report.recording)
    parts = []
    for line, value in granted.lines().items():
        mine = [risk for of, risk in risks if of == line]
        badges: list[Child] = [badge(Level(risk.level)) for risk in mine[:1]]
        summary = element("summary", code(f"{line}: {value}"), " ", *badges)
        shown: list[Child] = [f"it {risk.grants} [{risk.id}]: {risk.why}" for risk in mine]
        if line in names:
            those = used(names[line], report.recording)
            shown += [code(str(one)) for one in those[:_MANY_NAMES]]
            shown += [f"and {plural(len(those) - _MANY_NAMES, 'name')} more"] * (len(those) > _MANY_NAMES)
            shown += beyond(names[line], reasons)
        else:
            ports = {(use[1], use[2]) for run in report.recording.runs for use in run.files if use[0] == line}
            shown += [join(code(port), f" by {executable}") for port, executable in sorted(ports)]
        parts.append(element("details", summary, items(shown) if shown else element("p", "In no recorded run."), class_="rule"))
    return lines(*parts)


def phases(report: Report) -> Html:
    """A drawing of the phases in their order, and for each what is gone in it."""
    policy = report.document.policy
    triggers = {phase.name: ", ".join(phase.triggers) for phase in policy.phases}
    shown = [Column(name, _count(one), triggers.get(name, "")) for name, one in phase_policies(policy)]
    said = "; ".join(f"{one.name}: {plural(one.value, 'call')}" for one in shown)
    parts = [
        element("p", "A process begins in ", code(START), ", and enters the next phase with its first call at the line."),
        columns("phases", "Calls that are allowed, by phase", said, shown),
    ]
    rows = zip(policy.phases, pairwise(phase_policies(policy)), strict=True)
    return lines(*parts, *(_gone(report, phase, before, after) for phase, ((_, before), (_, after)) in rows))


def _gone(report: Report, phase: Phase, before: Policy, after: Policy) -> Html:
    """What a phase ends, and what was seen before and after its trigger."""
    budget = Budget()
    levels = {(one.arch, one.name): one.level for one in grants(Document(before), budget)}
    still = {(one.arch, one.name) for one in grants(Document(after), budget)}
    rows: list[tuple[Child, ...]] = []
    for arch, number, entry in _ended(before, after):
        key = arch, calls_of(arch).by_number[number].name
        text = format_entry(arch, number, entry)
        danger: Child = "" if key not in levels else join(badge(levels[key]), " stays in part" if key in still else "")
        rows.append((code(text), danger))
    title = f"Gone in {phase.name}, after {', '.join(phase.triggers)}"
    kept = [code(name) for _, name in sorted(still, key=str)]
    stays = join("What is dangerous and stays: ", *_listed(kept), ".") if kept else join("Nothing that is dangerous stays.")
    gone = table(title, ("Allowed until then", "Risk"), rows)
    return join(element("h3", title), _seen(report, phase), gone, element("p", stays))


def _seen(report: Report, phase: Phase) -> Html:
    """How many kinds of calls the recorded runs made before and after the trigger."""
    after = bits(phase.triggers)
    sides = [{bool(one & after) for one in seen.after} for seen in report.recording.observations if seen.after]
    if not sides:
        return element("p", "No recorded run was followed through its phases.")
    counts = [sum(side == kind for side in sides) for kind in ({False}, {True, False}, {True})]
    words = ("before it only", "before and after it", "after it only")
    said = items(f"{plural(count, 'kind')} of call {word}" for count, word in zip(counts, words, strict=True))
    return join(element("p", "Seen in recorded runs:"), said)


def _ended(before: Policy, after: Policy) -> Iterator[tuple[Arch, int, Entry]]:
    """The alternatives that are gone, each as an entry, by architecture and name."""
    for arch, section in before.entries.items():
        for number in sorted(section, key=lambda one: calls_of(arch).by_number[one].name):
            entry, now = section[number], after.entries.get(arch, {}).get(number)
            left = alternatives(now.expression) if now and now.action == entry.action else ()
            for part in alternatives(entry.expression):
                if part not in left:
                    yield arch, number, Entry(part, entry.action)


def _count(policy: Policy) -> int:
    """How many calls are allowed in some way, with the implied set."""
    entries = (entry for section in resolved(policy).entries.values() for entry in section.values())
    return sum(entry.action.allows and bool(alternatives(entry.expression)) for entry in entries)


def _listed(parts: list[Html]) -> list[Child]:
    return [piece for part in parts for piece in (", ", part)][1:]
