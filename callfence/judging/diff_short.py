"""A comparison in few lines, where every difference with its example would take too many."""

from __future__ import annotations

import textwrap
from itertools import groupby
from typing import TYPE_CHECKING

from callfence.judging.differences import difference_lines, rule_texts, shown_name
from policygen.comparing.compare import Change
from policygen.language.naming import format_action
from policygen.model import ALLOW, Always

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from policygen.comparing.compare import Difference
    from policygen.review.risk import Ranked

WIDTH = 120
"""Columns after which a list of names is wrapped, and the rules of one call are abbreviated."""


def short(differences: Sequence[Ranked], room: int) -> list[str]:
    """The differences of one architecture in at most `room` lines, if leaving out what matters least makes that possible.

    Calls that are no longer allowed, or answered differently, are shown by name alone.  For calls that became possible, the
    examples of those without a known risk are left out first, then their conditions; then the same for the others.
    """
    ways = [[*_lines(differences, *way)] for way in (("all", True), ("all", False), ("line", False), ("name", False))]
    return next((lines for lines in ways if len(lines) <= room), ways[-1])


def _lines(differences: Sequence[Ranked], risky: str, conditions: bool) -> Iterator[str]:
    """`risky`: how much of a difference with a known risk is shown; `conditions`: whether those of the others are."""
    grave = [one.difference for one in differences if one.dangers]
    rest = [one.difference for one in differences if not one.dangers]
    if risky == "name":
        yield from _names("+", grave, "allowed, at the risks above")
    for difference in grave if risky != "name" else ():
        yield from difference_lines(difference) if risky == "all" else [_one_line(difference)]
    more = [one for one in rest if one.change is Change.MORE]
    whole = [one for one in more if _is_plain(one)]
    for difference in more if conditions else ():
        if difference not in whole:
            yield _one_line(difference)
    yield from _names("+", whole, "allow")
    if not conditions:
        yield from _names("+", [one for one in more if one not in whole], "allowed under conditions")
    others = [one for one in rest if one.change is Change.OTHER]
    for answer, those in groupby(sorted(others, key=_answer), key=_answer):
        yield from _names("~", [*those], answer)
    less = [one for one in rest if one.change is Change.LESS]
    yield from _names("-", [one for one in less if one.rules == (Always(True),)], "no longer allowed")
    yield from _names("-", [one for one in less if one.rules != (Always(True),)], "less than before")


def _is_plain(difference: Difference) -> bool:
    return difference.rules == (Always(True),) and difference.after == ALLOW


def _answer(difference: Difference) -> str:
    return f"{format_action(difference.before)} -> {format_action(difference.after)}"


def _one_line(difference: Difference) -> str:
    """As many of its rules as fit in the width, at least one."""
    texts = rule_texts(difference)
    line = f"  {difference.change.value} {shown_name(difference)}: {texts[0]}"
    for index, text in enumerate(texts[1:], 1):
        if len(line) + len(text) + 4 > WIDTH:
            return f"{line} || {len(texts) - index} more"
        line += f" || {text}"
    return line


def _names(sign: str, those: Sequence[Difference], what: str) -> Iterator[str]:
    """`+ connect, dup2: allow`."""
    if those:
        names = ", ".join(dict.fromkeys(shown_name(one) for one in those))
        yield from textwrap.wrap(
            f"{sign} {names}: {what}", WIDTH, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False
        )
