"""The lines of a policy about files and ports, each with the names that runs used."""

from __future__ import annotations

from typing import TYPE_CHECKING

from callfence.files.origin import beyond, reasons_of, used
from callfence.report.markup import Child, Html, code, element, items, join, lines
from callfence.report.overview import badge
from callfence.shared.text import plural
from policygen.grants import path_line
from policygen.lint.catalogue import Level
from policygen.lint.files import found as risks_of

if TYPE_CHECKING:
    from callfence.report.content import Report

_MANY = 20
"""Names that are shown of a line."""


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
            shown += [code(str(one)) for one in those[:_MANY]]
            shown += [f"and {plural(len(those) - _MANY, 'name')} more"] * (len(those) > _MANY)
            shown += beyond(names[line], reasons)
        else:
            ports = {(use[1], use[2]) for run in report.recording.runs for use in run.files if use[0] == line}
            shown += [join(code(port), f" by {executable}") for port, executable in sorted(ports)]
        parts.append(element("details", summary, items(shown) if shown else element("p", "In no recorded run."), class_="rule"))
    return lines(*parts)
