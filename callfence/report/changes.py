"""What a policy answers differently from another one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from callfence.judging.diff_formats import HEADINGS
from callfence.judging.differences import call_name, rule_texts
from callfence.report.markup import Child, Html, code, element, items, join, table
from callfence.report.overview import badge
from policygen.language.naming import format_action, format_call

if TYPE_CHECKING:
    from callfence.report.content import Against
    from policygen.review.risk import Ranked


def changes(against: Against) -> Html:
    """A table for each kind of difference, the most dangerous first."""
    parts = [element("p", "Compared with ", code(against.name), ": exactly, over all calls. Text and order do not matter.")]
    before, after = against.comparison.arms
    if before != after:
        said = (code(f"arm {before}"), " before, ", code(f"arm {after}"), " now.")
        parts.append(element("p", "The filter takes effect at another moment: ", *said))
    if not against.differences:
        parts.append(element("p", "Both answer every call alike."))
    for change, heading in HEADINGS.items():
        those = [one for one in against.differences if one.difference.change is change]
        if those:
            columns = ("Call", "Where", "Answer", "For example", "Risk")
            parts += [element("h3", heading), table(f"{heading}, by call", columns, [_row(one) for one in those])]
    return join(*parts)


def _row(one: Ranked) -> tuple[Child, ...]:
    difference = one.difference
    where = [code(text) for text in rule_texts(difference)]
    answer = f"{format_action(difference.before)} \N{RIGHTWARDS ARROW} {format_action(difference.after)}"
    risks = [join(badge(row.level), f" {row.grants}") for row in one.dangers]
    return (
        join(code(call_name(difference)), "" if difference.arch == "x86_64" else f" ({difference.arch})"),
        where[0] if len(where) == 1 else items(where, class_="plain"),
        answer,
        code(format_call(difference.example)),
        items(risks, class_="plain") if risks else "none known",
    )
