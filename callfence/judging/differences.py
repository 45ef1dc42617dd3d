"""A difference between two policies in words: what all output formats of `callfence diff` share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from policygen.language.naming import format_action, format_call, format_expression
from policygen.model import ALLOW, Always
from policygen.review.catalogue import dangers
from policygen.sets.compare import Change, Verdict
from tracer.abi import table

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from policygen.review.catalogue import Danger
    from policygen.review.risk import Ranked
    from policygen.sets.compare import Difference

SAYS = {
    Verdict.WIDER: "NEW allows all that OLD does, and more",
    Verdict.NARROWER: "NEW allows nothing that OLD does not, and less",
    Verdict.INCOMPARABLE: "NEW allows some calls that OLD does not, and no longer allows others",
}


def risks(differences: Sequence[Ranked]) -> list[tuple[Danger, list[str]]]:
    """The rows of the catalogue that became possible, the most dangerous first, each with the calls that grant it."""
    found: dict[Danger, list[str]] = {}
    for one in differences:
        for row in one.dangers:
            names = found.setdefault(row, [])
            if (name := call_name(one.difference)) not in names:
                names.append(name)
    order = dangers()
    return sorted(found.items(), key=lambda item: (-item[0].level.rank, order.index(item[0])))


def difference_lines(difference: Difference) -> Iterator[str]:
    """The calls, one alternative a line, and below them how they were and are answered."""
    start = f"  {difference.change.value} {call_name(difference)}: "
    for text in rule_texts(difference):
        yield f"{start}{text}"
        start = f"{'|| ':>{len(start)}}"
    before, after = format_action(difference.before), format_action(difference.after)
    yield f"      {before} -> {after}, for example {format_call(difference.example)}"


def call_name(difference: Difference) -> str:
    if difference.number is None:
        return "every call that neither names"
    return table(difference.arch).by_number[difference.number].name


def rule_texts(difference: Difference) -> list[str]:
    if not difference.rules:
        return ["where no short condition says"]
    if difference.rules == (Always(True),):
        allowed = difference.change is not Change.OTHER and ALLOW in (difference.before, difference.after)
        return ["allow" if allowed and difference.number is not None else "whatever the arguments"]
    number = difference.example.number
    return [format_expression(difference.arch, number, rule) for rule in difference.rules]
