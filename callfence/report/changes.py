"""What a policy answers differently from another one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from callfence.judging.diff_formats import HEADINGS
from callfence.judging.differences import headline, idle_names, idle_says, rule_texts, shown_name
from callfence.report.markup import Child, Html, code, element, items, join, table
from callfence.report.overview import badge
from policygen.comparing.compare import Change
from policygen.language.naming import format_action, format_call

if TYPE_CHECKING:
    from callfence.report.content import Against
    from policygen.review.judgement import Headline, Judgement
    from policygen.review.risk import Ranked


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
