"""A report as one HTML file without scripts and external resources; the same report gives the same bytes.

This file has the sections at the top: the verdict, the risks of the policy, and its differences from another policy."""

from __future__ import annotations

from importlib.resources import files as resources
from typing import Final

from callfence.judging.differences import following, headline, in_order, redundant, rule_texts, said_first, shown_name
from callfence.judging.formats import HEADINGS
from callfence.learning.summary import size_of, sureness
from callfence.policygen.grants import NOT_CONFINED
from callfence.policygen.language.naming import format_action, format_call
from callfence.policygen.lint.catalogue import Level
from callfence.policygen.lint.findings import Finding
from callfence.policygen.review.judgement import Headline, Judgement
from callfence.policygen.review.risk import Ranked
from callfence.report.content import Against, Report
from callfence.report.markup import Child, Html, anchor, badge, code, element, items, join, lines, prose, table, terms
from callfence.report.sections import files, how_sure, made_by, matrix, phases, rules, tree
from callfence.shared.text import on_one_line, plural
from callfence.tracer.abi import NATIVE, table as calls_in

_MAX_LISTED = 6
"""Most programs that a finding names, and most files, addresses or commands of each."""
_RISK = {
    Level.DANGER: "The policy allows calls by which a program can escape it or reach attack surface of the kernel.",
    Level.WARNING: "The policy allows calls that few programs need.",
    Level.NOTE: "The policy has no dangers and warnings, only notes.",
}
"""A sentence by the level of the most dangerous finding."""
_FORBIDDEN: Final = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
"""The Content-Security-Policy: even an unescaped string of the program in the page could not run or load anything."""


def page(report: Report) -> str:
    """Return the HTML of a report, which is the whole content of its file."""
    sections = _sections(report)
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=_FORBIDDEN),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", f"{report.name}: callfence report"),
        element("style", Html(resources(__package__).joinpath("style.css").read_text("utf-8"))),
    )
    links = items(element("a", title, href=f"#{identity}") for identity, title, _ in sections)
    body = element(
        "body",
        element("a", "Skip to the report", href="#report", class_="skip"),
        element("header", element("p", "callfence report", class_="eyebrow"), element("h1", report.name), _sources(report)),
        element("nav", links, aria_label="Sections"),
        element("main", lines(*(_section(*section) for section in sections)), id="report", tabindex=-1),
        element("footer", element("p", "Made by callfence report, offline, from the files named at the top.")),
    )
    return f"<!DOCTYPE html>\n{element('html', head, body, lang='en').text}\n"


def _sources(report: Report) -> Html:
    kind = "Committed evidence, without counts and runs: " if report.is_bare else "Recording: "
    parts: list[Child] = [kind, code(report.recorded_in)] if report.recorded_in else ["Without a recording"]
    if report.against is not None:
        parts += ["; compared with ", code(report.against.name)]
    return element("p", *parts, class_="muted")


def _sections(report: Report) -> list[tuple[str, str, Html]]:
    """Return the id, the title and the content of each section."""
    policy = report.document.policy
    sections = [("verdict", "Verdict", _verdict(report)), ("risks", "Risks", _findings(report))]
    if report.against is not None:
        sections.append(("changes", "Changes", _changes(report.against)))
    if policy.phases:
        sections.append(("phases", "Phases", phases(report)))
    sections += [
        ("sure", "How sure", how_sure(report)),
        ("processes", "Processes", tree(report)),
        ("matrix", "Calls by executable", matrix(report)),
        ("rules", "Rules", rules(report)),
    ]
    if policy.files != NOT_CONFINED:
        sections.append(("files", "Files and ports", files(report)))
    return sections


def _section(identity: str, title: str, content: Html) -> Html:
    heading = element("h2", title, id=f"{identity}-heading")
    return element("section", heading, content, id=identity, aria_labelledby=f"{identity}-heading")


def _verdict(report: Report) -> Html:
    """Return the boxes at the top: the change, the risk, how complete the policy is, and what it allows."""
    boxes = [_risk(report), _sure(report), _policy(report)]
    if report.against is not None:
        boxes.insert(0, _change(report.against.judgement))
    return element("div", *boxes, class_="boxes")


def _box(title: str, answer: Child, *details: Child) -> Html:
    return element("section", element("h3", title), element("p", answer, class_="answer"), *details, class_="box")


def _risk(report: Report) -> Html:
    levels = [*(finding.level for finding in report.open_findings), *(entry.level for entry in report.changed_settings)]
    counts = [plural(levels.count(level), level) for level in reversed([*Level]) if level in levels]
    if accepted := len(report.findings) - len(report.open_findings):
        counts.append(f"{accepted} accepted by a comment")
    if report.gravest is None:
        answer = join(badge("none", "fine"), " The policy allows no known danger without a reason.")
    else:
        answer = join(badge(report.gravest), " ", _RISK[report.gravest])
    return _box("Risk", answer, element("p", ", ".join(counts) or "No findings.", class_="muted"))


def _sure(report: Report) -> Html:
    if not report.estimate.runs:
        return _box("How sure", "Not known.", element("p", "There is no recording of any run.", class_="muted"))
    sentence = sureness(report.estimate)
    return _box("How sure", f"{sentence[0].upper()}{sentence[1:]}.")


def _change(judgement: Judgement) -> Html:
    verdict = judgement.comparison.verdict
    kind = "fine" if verdict in ("equal", "narrower") else "warning"
    text = said_first(judgement).replace("NEW", "this policy").replace("OLD", "the other")
    first, _ = in_order(judgement)
    if first is not None:
        kind, text = str(first.level), f"{first.level}: {first.subject}: {first.says}"
    risks = sum(len(ranked.dangers) for ranked in judgement.relevant)
    counts = f"{plural(len(judgement.relevant), 'difference')}, {plural(risks, 'risk')} newly allowed"
    answer = join(badge(verdict, kind), f" {text[0].upper()}{text[1:]}.")
    return _box("Change", answer, element("p", counts, class_="muted"))


def _policy(report: Report) -> Html:
    policy = report.document.policy
    pairs: list[tuple[str, Child]] = [
        ("Calls not named", code(f"default {format_action(policy.default)}")),
        ("Newer calls", code(f"unknown {format_action(policy.unknown)}")),
        ("Filter takes effect", code(f"arm {policy.arm}")),
        ("Architectures", ", ".join(policy.entries)),
        *([("Reaches only its own processes", code(f"scope {policy.scope}"))] if policy.scope else []),
    ]
    return _box("What it allows", size_of(policy), terms(pairs))


def _findings(report: Report) -> Html:
    """Return a list of the settings that have changed, and of all findings: first those that the other policy does not have,
    the accepted ones last, each group by level."""
    if not (report.findings or report.changed_settings):
        return element("p", "The policy allows nothing in the catalogue of dangers.")
    ordered = sorted(report.findings, key=lambda finding: (bool(finding.accepted), not report.is_new(finding)))
    contents = [*map(_setting, report.changed_settings), *(_finding(report, finding) for finding in ordered)]
    return element("ol", lines(*(element("li", content, class_="finding") for content in contents)), class_="plain")


def _setting(entry: Headline) -> Html:
    return element("h3", badge("new", "plain"), " ", badge(entry.level), " ", code(entry.subject), f": {entry.says}")


def _finding(report: Report, finding: Finding) -> Html:
    pairs: list[tuple[str, Child]] = []
    name: Child = code(finding.name)
    if finding.arch is not None:
        number = calls_in(finding.arch).by_name[finding.name].number
        name = element("a", name, href=f"#{anchor(finding.arch, finding.name)}")
        entry = report.document.policy.entries[finding.arch].get(number)
        if entry is not None:
            pairs.append(("Entry", code(on_one_line(finding.arch, number, entry))))
    if finding.example is not None:
        pairs.append(("Allows", code(format_call(finding.example))))
    if programs := report.made_by(finding):
        named = [made_by(executable, facts, _MAX_LISTED) for executable, facts in [*programs.items()][:_MAX_LISTED]]
        more = [f"and {plural(len(programs) - _MAX_LISTED, 'more program')}"] if len(programs) > _MAX_LISTED else []
        pairs.append(("Made by", items([*named, *more], class_="plain")))
    pairs += [("Why it matters", prose(finding.why)), ("Safer", prose(finding.safer)), ("Source", finding.source)]
    if finding.accepted:
        pairs.append(("Accepted", finding.accepted))
    level = badge("accepted", "fine") if finding.accepted else badge(finding.level)
    new = (badge("new", "plain"), " ") if report.is_new(finding) else ()
    return join(element("h3", *new, level, " ", name, prose(f" {finding.grants}")), terms(pairs))


def _changes(against: Against) -> Html:
    """Return a table for each kind of difference, the most dangerous first."""
    judgement = against.judgement
    parts = [element("p", "Compared with ", code(against.name), ": over all calls. Text and order do not matter.")]
    if judgement.headlines:
        parts.insert(0, items((_headline(judgement, entry) for entry in judgement.headlines), class_="plain"))
    if not judgement.differences:
        parts.append(element("p", "Both policies answer every call in the same way."))
    for change, heading in HEADINGS.items():
        rows = [_row(ranked) for ranked in judgement.relevant if ranked.difference.change is change]
        if rows:
            columns = ("Call", "Where", "Answer", "For example", "Risk")
            parts += [element("h3", heading), table(f"{heading}, by call", columns, rows)]
    for _, text, names in (*following(judgement), *redundant(judgement)):
        parts.append(element("p", f"{text[0].upper()}{text[1:]}: {', '.join(names)}."))
    return join(*parts)


def _headline(judgement: Judgement, entry: Headline) -> Html:
    text = headline(judgement, entry).partition(": ")[2]
    return join(badge(entry.level), f" {text}", f": {entry.why}. Safer: {entry.safer}." if entry.why else ".")


def _row(ranked: Ranked) -> tuple[Child, ...]:
    difference = ranked.difference
    where = [code(text) for text in rule_texts(difference)]
    answer = f"{format_action(difference.before)} \N{RIGHTWARDS ARROW} {format_action(difference.after)}"
    risks = [join(badge(danger.level), f" {danger.grants}") for danger in ranked.dangers]
    return (
        join(code(shown_name(difference)), "" if difference.arch is NATIVE else f" ({difference.arch})"),
        where[0] if len(where) == 1 else items(where, class_="plain"),
        answer,
        code(format_call(difference.example)),
        items(risks, class_="plain") if risks else "none known",
    )
