"""The top of a report: the verdict, and what is dangerous in the policy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from callfence.judging.differences import said_first
from callfence.learning.summary import size_of
from callfence.report.markup import Child, Html, code, element, items, join, lines, prose, terms
from callfence.shared.text import on_one_line, plural, printable
from policygen.completeness.confidence import run_next, seen_only
from policygen.language.naming import format_action, format_call
from policygen.lint.catalogue import Level
from tracer.abi import table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from callfence.report.content import Report
    from policygen.lint.findings import Finding

_MANY = 6
"""Most programs that a finding names."""
_MANY_FACTS = 6
"""Most files, addresses or commands that are told of each."""
_RISK = {
    Level.DANGER: "It allows escaping the policy or reaching kernel attack surface.",
    Level.WARNING: "It allows what few programs need.",
    Level.NOTE: "Nothing grave: there are notes to read.",
}
"""By the most dangerous finding."""


def verdict(report: Report) -> Html:
    """Three boxes: what changed, how dangerous it is, how complete the policy is."""
    boxes = [_risk(report), _sure(report), _policy(report)]
    if report.against is not None:
        boxes.insert(0, _change(report))
    return element("div", *boxes, class_="boxes")


def badge(word: str, kind: str = "") -> Html:
    return element("span", word, class_=f"badge {kind or word}")


def _box(title: str, answer: Child, *said: Child) -> Html:
    return element("section", element("h3", title), element("p", answer, class_="answer"), *said, class_="box")


def _risk(report: Report) -> Html:
    found = report.open_findings
    levels = [finding.level for finding in found]
    counts = [plural(levels.count(level), level) for level in reversed([*Level]) if level in levels]
    accepted = len(report.findings) - len(found)
    if accepted:
        counts.append(f"{accepted} accepted by a comment")
    if report.gravest is None:
        answer = join(badge("none", "fine"), " Nothing of the catalogue is allowed without a reason given.")
    else:
        answer = join(badge(report.gravest), " ", _RISK[report.gravest])
    return _box("Risk", answer, element("p", ", ".join(counts) or "No findings.", class_="muted"))


def _sure(report: Report) -> Html:
    sure = report.sure
    if not sure.runs:
        return _box("How sure", "Nothing is known.", element("p", "There is no recording of any run.", class_="muted"))
    if sure.chance is None:
        answer = "One run says nothing about the next one."
    elif sure.at_most is not None:
        answer = f"One more run needs something new in at most {sure.at_most * 100:.0f} of 100 cases."
    else:
        answer = f"About {sure.chance:.0%} that one more run needs something new."
    said = [plural(sure.runs, "run")]
    if sure.single and sure.runs > 1:
        said.append(f"{plural(len(sure.single), 'call')} with rules seen in one of them only")
    if report.discovery.growing:
        said.append(f"{plural(len(report.discovery.growing), 'argument')} still growing")
    return _box("How sure", answer, element("p", "; ".join(said), class_="muted"))


def _change(report: Report) -> Html:
    against = report.against
    assert against is not None
    judgement = against.judgement
    answer = judgement.comparison.verdict
    said = said_first(judgement).replace("NEW", "this policy").replace("OLD", "the other")
    risks = sum(len(one.dangers) for one in judgement.told)
    counts = f"{plural(len(judgement.told), 'difference')}, {plural(risks, 'risk')} newly allowed"
    kind = "fine" if answer in ("equal", "narrower") else "warning"
    if judgement.headlines:
        first = judgement.headlines[0]
        kind, said = str(first.level), f"{first.level}: {first.subject}: {first.says}"
    return _box(
        "Change", join(badge(answer, kind), f" {said[0].upper()}{said[1:]}."), element("p", counts, class_="muted")
    )


def _policy(report: Report) -> Html:
    policy = report.document.policy
    pairs: list[tuple[str, Child]] = [
        ("Not named", code(f"default {format_action(policy.default)}")),
        ("Newer calls", code(f"unknown {format_action(policy.unknown)}")),
        ("Takes effect", code(f"arm {policy.arm}")),
        ("Architectures", ", ".join(policy.entries)),
        *([("Reaches itself alone", code(f"scope {policy.scope}"))] if policy.scope else []),
    ]
    return _box("What it allows", size_of(policy), terms(pairs))


def findings(report: Report) -> Html:
    """All findings: what the other policy does not allow first, then the most dangerous; accepted ones last."""
    if not report.findings:
        return element("p", "Nothing of the catalogue of dangerous grants is allowed.")
    ordered = sorted(report.findings, key=lambda finding: (bool(finding.accepted), not report.is_new(finding)))
    return element("ol", lines(*(element("li", _finding(report, one), class_="finding") for one in ordered)), class_="plain")


def _finding(report: Report, finding: Finding) -> Html:
    said: list[tuple[str, Child]] = []
    name: Child = code(finding.name)
    if finding.arch is not None:
        number = table(finding.arch).by_name[finding.name].number
        name = element("a", name, href=f"#{anchor(finding.arch, finding.name)}")
        entry = report.document.policy.entries[finding.arch].get(number)
        if entry is not None:
            said.append(("Entry", code(on_one_line(finding.arch, number, entry))))
    if finding.example is not None:
        said.append(("Allows", code(format_call(finding.example))))
    if made_by := report.seen_behind(finding):
        shown = [_made_by(*one) for one in [*made_by.items()][:_MANY]]
        more = [f"and {plural(len(made_by) - _MANY, 'more program')}"] if len(made_by) > _MANY else []
        said.append(("Made by", items([*shown, *more], class_="plain")))
    said += [("Why it matters", prose(finding.why)), ("Safer", prose(finding.safer)), ("Source", finding.source)]
    if finding.accepted:
        said.append(("Accepted", finding.accepted))
    level = badge("accepted", "fine") if finding.accepted else badge(finding.level)
    new = (badge("new", "plain"), " ") if report.is_new(finding) else ()
    heading = element("h3", *new, level, " ", name, prose(f" {finding.grants}"))
    return join(heading, terms(said))


def _made_by(executable: str, facts: Sequence[str]) -> Html:
    """An executable, and what its calls were about: files and addresses before the words of commands."""
    parts: list[Child] = [code(printable(executable))]
    for index, fact in enumerate(sorted(facts, key=lambda fact: fact.startswith("argv="))[:_MANY_FACTS]):
        parts += [", " if index else ": ", code(fact)]
    return join(*parts, " ..." if len(facts) > _MANY_FACTS else "")


def anchor(arch: str, name: str) -> str:
    """The id of the first rule of a call."""
    return f"rule-{arch}-{name}"


def unexercised(report: Report) -> Html:
    """What was not exercised in any run."""
    found = [str(one) for one in report.sure.unseen]
    found += [f"every run: {printable(common)}" for common in seen_only(report.recording.runs)]
    found += [f"run it next: {'; '.join(steps)}" for steps in (run_next(report.recording),) if steps]
    found += sorted({f"not observed: {gap}" for run in report.recording.runs for gap in run.gaps})
    if not found:
        return element("p", "Nothing that a recording shows: a signal handler returned, a run failed, a run ended by itself.")
    return items(found)
