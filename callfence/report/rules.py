"""The rules of a policy, each with the calls that led to it."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

from callfence.judging.sites import MANY_SITES, by_site, columns_of, such_as, widened
from callfence.judging.symbols import Site
from callfence.report.markup import Child, Html, code, element, items, join, lines, terms
from callfence.report.overview import anchor, badge
from callfence.shared.text import on_one_line, plural
from policygen.review.why import Origin
from tracer.abi import table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from callfence.report.content import Report
    from policygen.lint.findings import Finding
    from policygen.recording.model import Observation
    from policygen.review.why import Provenance

_SHORT = {
    Origin.CHANGED: "by hand",
    Origin.EXTENDED: "extended",
    Origin.NOTED: "floor",
    Origin.PORTABLE: "not seen",
    Origin.UNSEEN: "not seen",
}


def rules(report: Report) -> Html:
    """All rules, by architecture and call; each can be unfolded."""
    parts = []
    for arch, of_arch in groupby(report.rules, key=lambda one: one.arch):
        parts.append(element("h3", "Architecture ", code(arch)))
        details = []
        for number, group in groupby(of_arch, key=lambda one: one.number):
            name = table(arch).by_number[number].name
            found = [one for one in report.findings if (one.arch, one.name) == (arch, name)]
            for index, one in enumerate(group):
                details.append(_rule(report, one, found, {} if index else {"id": anchor(arch, name)}))
        parts.append(lines(*details))
    return join(*parts) if parts else element("p", "The policy has no rules: its default meets every call.")


def _rule(report: Report, one: Provenance, findings: list[Finding], identity: dict[str, str]) -> Html:
    badges: list[Child] = []
    level = next((finding.level for finding in findings if not finding.accepted), None)
    if level is not None and one.rule.action.lets_run:
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
    if one.widenings and one.rule.action.lets_run:
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
