"""The comparison of `callfence diff` as JSON, as Markdown for a pull request, and as SARIF."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from callfence.judging.differences import SAYS, call_name, risks, rule_texts
from callfence.judging.lines import line_of_call
from callfence.judging.sarif import Result, SarifRule, sarif
from callfence.shared.text import printable
from policygen.language.naming import format_action, format_call
from policygen.review.catalogue import Level
from policygen.sets.compare import Change, Verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from policygen.review.catalogue import Danger
    from policygen.review.risk import Ranked
    from policygen.sets.compare import Comparison, Difference

NEW_BEHAVIOUR = SarifRule("new-behaviour", "more is allowed", "The policy allows calls that it denied.", "Ask what needs them.")
HEADINGS = {Change.MORE: "Became possible", Change.LESS: "No longer possible", Change.OTHER: "Answered otherwise"}
_SAID = 60_000
"""Characters of Markdown: GitHub takes 65,536 in a comment."""


def as_json(comparison: Comparison, differences: Sequence[Ranked]) -> str:
    """An object: the verdict, when the filters take effect, and each difference with its risks."""
    return json.dumps(
        {
            "verdict": comparison.verdict,
            "arm": list(comparison.arms),
            "differences": [_object(one) for one in differences],
        },
        indent=2,
    )


def _object(one: Ranked) -> dict[str, object]:
    difference = one.difference
    return {
        "arch": difference.arch,
        "name": call_name(difference),
        "change": HEADINGS[difference.change].lower(),
        "before": format_action(difference.before),
        "after": format_action(difference.after),
        "rules": rule_texts(difference),
        "example": format_call(difference.example),
        "risks": [
            {name: getattr(row, name) for name in ("id", "level", "grants", "why", "safer", "source")}
            for row in one.dangers
        ],
    }


def as_markdown(comparison: Comparison, differences: Sequence[Ranked], new: str) -> str:
    """For a comment on a pull request: the verdict, the risks, and a table for each kind of change."""
    said = SAYS.get(comparison.verdict, "both allow the same calls")
    name = printable(new).replace("`", "'")
    lines = [f"**`{name}`: {comparison.verdict}**: {said}.", ""]
    for row, names in risks(differences):
        calls = ", ".join(f"`{name}`" for name in names)
        reason = "" if row.level is Level.NOTE else f": {row.why}. Safer: {row.safer}"
        lines.append(f"- **{row.level}**: {calls}: it newly {row.grants}{reason}.")
    before, after = comparison.arms
    if before != after:
        lines += [f"- the filter takes effect with `arm {after}`, before with `arm {before}`"]
    for change, heading in HEADINGS.items():
        those = [one for one in differences if one.difference.change is change]
        if those:
            lines += ["", f"{heading}:", "", "| calls | answer | for example |", "|---|---|---|"]
            lines += [_row(one.difference) for one in those]
    text = "\n".join(lines)
    if len(text) > _SAID:
        text = text[:_SAID].rpartition("\n")[0] + "\n\n... and more: `callfence diff` tells all of it."
    return text


def _row(difference: Difference) -> str:
    rules = "<br>".join(_code(f"{call_name(difference)}: {text}") for text in rule_texts(difference))
    answer = f"{format_action(difference.before)} → {format_action(difference.after)}"
    return f"| {rules} | {answer} | {_code(format_call(difference.example))} |"


def _code(text: str) -> str:
    """The text as code in a table, where `|` has to be escaped even in code."""
    return f"`{text}`".replace("|", "\\|")


def as_sarif(comparison: Comparison, differences: Sequence[Ranked], new: str) -> str:
    """A result for each risk that became possible, and one for each other new behaviour."""
    results = []
    for one in differences:
        difference = one.difference
        if difference.change is not Change.MORE:
            continue
        name, rules = call_name(difference), " || ".join(rule_texts(difference))
        line = None if difference.number is None else line_of_call(new, difference.arch, name)
        where = f"{difference.arch} {name}"
        for row in one.dangers:
            message = f"{name}: it newly {row.grants}, for example {format_call(difference.example)}"
            results.append(Result(rule_of(row), row.level, message, new, line, where))
        if not one.dangers:
            message = f"{name}: newly allowed where {rules}, for example {format_call(difference.example)}"
            results.append(Result(NEW_BEHAVIOUR, Level.NOTE, message, new, line, f"{where} {rules}"))
    if comparison.verdict in (Verdict.WIDER, Verdict.INCOMPARABLE) and not results:
        message = f"the filter takes effect later: arm {comparison.arms[1]}"
        results.append(Result(NEW_BEHAVIOUR, Level.NOTE, message, new, None, "arm"))
    return json.dumps(sarif(results), indent=2)


def rule_of(row: Danger) -> SarifRule:
    return SarifRule(row.id, row.grants, f"A policy that {row.grants}: {row.why}.", f"Safer: {row.safer}. See {row.source}.")
