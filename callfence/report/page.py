"""A report as one HTML file: no script, no external resource, the same bytes for the same report."""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING, Final

from callfence.report import changes, overview, phases, processes, rules, runs
from callfence.report.files import files as files_and_ports
from callfence.report.markup import Child, Html, code, element, items, lines
from policygen.grants import NOT_CONFINED

if TYPE_CHECKING:
    from callfence.report.content import Report

_FORBIDDEN: Final = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
"""Content-Security-Policy: even if a string of the program got into the page unescaped, it could not run or load anything."""


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
    found = [("verdict", "Verdict", overview.verdict(report)), ("risks", "Risks", overview.findings(report))]
    if report.against is not None:
        found.append(("changes", "Changes", changes.changes(report.against)))
    found += [("sure", "How sure", runs.how_sure(report))]
    if report.recording.runs:
        found.append(("unexercised", "Not exercised", overview.unexercised(report)))
    found += [
        ("processes", "Processes", processes.tree(report)),
        ("matrix", "Calls by executable", processes.matrix(report)),
        ("rules", "Rules", rules.rules(report)),
    ]
    if report.document.policy.phases:
        found.insert(2, ("phases", "Phases", phases.phases(report)))
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


