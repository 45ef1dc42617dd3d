"""A report as one HTML file: no script, no external resource, the same bytes for the same report.  At its top the verdict, what
is dangerous in the policy, and what it answers differently from another one."""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING, Final

from callfence.judging.differences import headline, idle_names, idle_says, rule_texts, said_first, shown_name
from callfence.judging.formats import HEADINGS
from callfence.learning.summary import size_of
from callfence.report.markup import Child, Html, anchor, badge, code, element, items, join, lines, prose, table, terms
from callfence.report.rules import files as files_and_ports, phases, rules
from callfence.report.runs import how_sure, matrix, tree
from callfence.shared.text import on_one_line, plural, printable
from policygen.comparing import Change
from policygen.completeness.confidence import run_next, seen_only
from policygen.grants import NOT_CONFINED
from policygen.language.naming import format_action, format_call
from policygen.lint.catalogue import Level
from tracer.abi import table as calls_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from callfence.report.content import Against, Report
    from policygen.lint.findings import Finding
    from policygen.review.judgement import Headline, Judgement
    from policygen.review.risk import Ranked

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
_FORBIDDEN: Final = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
"""Content-Security-Policy: even if a string of the program got into the page unescaped, it could not run or load anything."""


def verdict(report: Report) -> Html:
    """Three boxes: what changed, how dangerous it is, how complete the policy is."""
    boxes = [_risk(report), _sure(report), _policy(report)]
    if report.against is not None:
        boxes.insert(0, _change(report))
    return element("div", *boxes, class_="boxes")


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
        number = calls_of(finding.arch).by_name[finding.name].number
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


def unexercised(report: Report) -> Html:
    """What was not exercised in any run."""
    found = [str(one) for one in report.sure.unseen]
    found += [f"every run: {printable(common)}" for common in seen_only(report.recording.runs)]
    found += [f"run it next: {'; '.join(steps)}" for steps in (run_next(report.recording),) if steps]
    found += sorted({f"not observed: {gap}" for run in report.recording.runs for gap in run.gaps})
    if not found:
        return element("p", "Nothing that a recording shows: a signal handler returned, a run failed, a run ended by itself.")
    return items(found)


def changes(against: Against) -> Html:
    """A table for each kind of difference, the most dangerous first."""
    judgement = against.judgement
    parts = [element("p", "Compared with ", code(against.name), ": exactly, over all calls. Text and order do not matter.")]
    if judgement.headlines:
        parts.insert(0, items((_headline(judgement, one) for one in judgement.headlines), class_="plain"))
    if not judgement.differences:
        parts.append(element("p", "Both answer every call alike."))
    for change, heading in HEADINGS.items():
        those = [one for one in judgement.told if one.difference.change is change]
        if those:
            columns = ("Call", "Where", "Answer", "For example", "Risk")
            parts += [element("h3", heading), table(f"{heading}, by call", columns, [_row(one) for one in those])]
    for change in Change:
        names = idle_names(judgement, change)
        if names:
            said = idle_says(change, names)
            parts.append(element("p", f"{said[0].upper()}{said[1:]}: {', '.join(names)}."))
    return join(*parts)


def _headline(judgement: Judgement, one: Headline) -> Html:
    said = headline(judgement, one).partition(": ")[2]
    return join(badge(one.level), f" {said}", f": {one.why}. Safer: {one.safer}." if one.why else ".")


def _row(one: Ranked) -> tuple[Child, ...]:
    difference = one.difference
    where = [code(text) for text in rule_texts(difference)]
    answer = f"{format_action(difference.before)} \N{RIGHTWARDS ARROW} {format_action(difference.after)}"
    risks = [join(badge(row.level), f" {row.grants}") for row in one.dangers]
    return (
        join(code(shown_name(difference)), "" if difference.arch == "x86_64" else f" ({difference.arch})"),
        where[0] if len(where) == 1 else items(where, class_="plain"),
        answer,
        code(format_call(difference.example)),
        items(risks, class_="plain") if risks else "none known",
    )


def page(report: Report) -> str:
    """The whole text of the file."""
    sections = _sections(report)
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=_FORBIDDEN),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", f"{report.name}: callfence report"),
        element("style", Html(files(__package__).joinpath("style.css").read_text("utf-8"))),
    )
    links = items(element("a", title, href=f"#{identity}") for identity, title, _ in sections)
    body = element(
        "body",
        element("a", "Skip to the report", href="#report", class_="skip"),
        element("header", element("p", "callfence report", class_="eyebrow"), element("h1", report.name), _sources(report)),
        element("nav", links, aria_label="Sections"),
        element("main", lines(*(_section(*one) for one in sections)), id="report", tabindex=-1),
        element("footer", element("p", "Made by callfence report, offline, from the files named at the top.")),
    )
    return f"<!DOCTYPE html>\n{element('html', head, body, lang='en').text}\n"


def _sections(report: Report) -> list[tuple[str, str, Html]]:
    found = [("verdict", "Verdict", verdict(report)), ("risks", "Risks", findings(report))]
    if report.against is not None:
        found.append(("changes", "Changes", changes(report.against)))
    found += [("sure", "How sure", how_sure(report))]
    if report.recording.runs:
        found.append(("unexercised", "Not exercised", unexercised(report)))
    found += [
        ("processes", "Processes", tree(report)),
        ("matrix", "Calls by executable", matrix(report)),
        ("rules", "Rules", rules(report)),
    ]
    if report.document.policy.phases:
        found.insert(2, ("phases", "Phases", phases(report)))
    if report.document.policy.files != NOT_CONFINED:
        found.append(("files", "Files and ports", files_and_ports(report)))
    return found


def _section(identity: str, title: str, content: Html) -> Html:
    heading = element("h2", title, id=f"{identity}-heading")
    return element("section", heading, content, id=identity, aria_labelledby=f"{identity}-heading")


def _sources(report: Report) -> Html:
    kind = "Committed evidence, without counts and runs: " if report.is_bare else "Recording: "
    said: list[Child] = [kind, code(report.recorded_in)] if report.recorded_in else ["Without a recording"]
    if report.against is not None:
        said += ["; compared with ", code(report.against.name)]
    return element("p", *said, class_="muted")
