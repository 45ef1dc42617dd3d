"""The differences between two policies in words: what all output formats of `callfence diff` share, and its plain text: the
verdict and what is gravest, the risks, then each difference with its example, or few lines where that would take too many.
"""

from __future__ import annotations

import textwrap
from itertools import groupby
from typing import TYPE_CHECKING

from callfence.shared.text import plural
from policygen.comparing import Change, Verdict
from policygen.language.naming import format_action, format_call, format_expression
from policygen.lint.catalogue import dangers
from policygen.model import ALLOW, Always
from tracer.abi import table
from tracer.named import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from policygen.comparing import Difference
    from policygen.files.algebra import Difference as FileDifference
    from policygen.lint.catalogue import Danger
    from policygen.review.judgement import Headline, Judgement, Reason
    from policygen.review.risk import Ranked

SAYS = {
    Verdict.WIDER: "NEW allows all that OLD does, and more",
    Verdict.NARROWER: "NEW allows nothing that OLD does not, and less",
    Verdict.INCOMPARABLE: "NEW allows some calls that OLD does not, and no longer allows others",
}
WIDTH = 120
"""Columns after which a list of names is wrapped, and the rules of one call are abbreviated."""
MANY_RISKS = 4
"""Risks that the text names; other formats name all."""
MANY_LINES = 15
"""What a reviewer reads in a minute."""


def said_first(judgement: Judgement) -> str:
    """What follows the verdict: the gravest headline, or the verdict in words."""
    if judgement.headlines:
        return headline(judgement, judgement.headlines[0])
    comparison = judgement.comparison
    if comparison.verdict is not Verdict.EQUAL:
        return SAYS[comparison.verdict]
    if comparison.differences:
        return "both allow the same calls, but some are answered differently"
    return "both answer every call alike"


def headline(judgement: Judgement, one: Headline) -> str:
    """`danger: connect, with dup2 and execve: it gives a shell to others [reverse-shell]`, and why it is accepted."""
    reason = judgement.reason(one)
    return f"{one.level}: {one.subject}: {one.says} [{one.rule}]{f'; {reason}' if reason else ''}"


class Risk(NamedTuple):
    row: Danger
    names: list[str]
    """The calls that grant it."""
    reason: Reason | None
    """Why all of them are accepted."""


def risks(judgement: Judgement) -> list[Risk]:
    """The rows of the catalogue that became possible, the most dangerous first.  What a headline tells is left out."""
    told = {one.rule for one in judgement.headlines}
    found: dict[tuple[Danger, Reason | None], list[str]] = {}
    for one in judgement.told:
        for row in one.dangers:
            if row.id not in told:
                name = call_name(one.difference)
                reason = judgement.reasons.get((one.difference.arch, name, row.id))
                names = found.setdefault((row, reason), [])
                if name not in names:
                    names.append(name)
    order = dangers()
    rank = {row: index for index, row in enumerate(order)}
    made = [Risk(row, names, reason) for (row, reason), names in found.items()]
    return sorted(made, key=lambda risk: (-risk.row.level.rank, rank[risk.row], risk.reason is not None))


def idle_names(judgement: Judgement, change: Change) -> list[str]:
    """The calls that grant nothing beyond the rest of the policy, of one kind of change; by name."""
    return sorted({call_name(one.difference) for one in judgement.idle if one.difference.change is change})


def idle_says(change: Change, names: Sequence[str]) -> str:
    """What the line about such calls says before their names."""
    what = {
        Change.MORE: "grants nothing beyond the rest",
        Change.LESS: "no longer allowed, and granted nothing beyond the rest",
        Change.OTHER: "answered differently, and grants nothing",
    }
    return f"{what[change]} ({plural(len(names), 'call')})"


def difference_lines(difference: Difference) -> Iterator[str]:
    """The calls, one alternative a line, and below them how they were and are answered."""
    start = f"  {difference.change.value} {shown_name(difference)}: "
    for text in rule_texts(difference):
        yield f"{start}{text}"
        start = f"{'|| ':>{len(start)}}"
    before, after = format_action(difference.before), format_action(difference.after)
    yield f"      {before} -> {after}, for example {format_call(difference.example)}"


def file_lines(differences: Iterable[FileDifference]) -> Iterator[str]:
    """What became reachable of files and ports, or is no longer, one line each."""
    for line, more, less in differences:
        for sign, what in (("+", more), ("-", less)):
            if what:
                yield f"  {sign} {line}: {what}"


def call_name(difference: Difference) -> str:
    if difference.number is None:
        return "every call that neither names"
    return table(difference.arch).by_number[difference.number].name


def shown_name(difference: Difference) -> str:
    """With the phase, if it is about one."""
    return f"{call_name(difference)}{f' (in {difference.phase})' if difference.phase else ''}"


def rule_texts(difference: Difference) -> list[str]:
    if not difference.rules:
        return ["where no short condition says"]
    if difference.rules == (Always(True),):
        allowed = difference.change is not Change.OTHER and ALLOW in (difference.before, difference.after)
        return ["allow" if allowed and difference.number is not None else "whatever the arguments"]
    number = difference.example.number
    return [format_expression(difference.arch, number, rule) for rule in difference.rules]


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


def as_text(judgement: Judgement, *, full: bool = False) -> Iterator[str]:
    """The comparison in plain text: the verdict, the gravest risks, then each difference with its example.

    More than `MANY_LINES` are abbreviated (see `short`), and what grants nothing takes one line, unless `full`.
    """
    head = [*_head(judgement)]
    yield from head
    told = judgement.differences if full else judgement.told
    by_arch = [(arch, [*those]) for arch, those in groupby(told, key=lambda one: one.difference.arch)]
    details = [line for one in told for line in difference_lines(one.difference)]
    idle = [] if full else [*idle_lines(judgement)]
    if not full and len(head) + len(by_arch) + len(details) + len(idle) > MANY_LINES:
        room = (MANY_LINES - len(head) - len(idle) - 1) // max(1, len(by_arch)) - 1
        for arch, those in by_arch:
            yield f"arch {arch}"
            yield from short(those, room)
        yield from idle
        yield "--full shows each with its rules and an example"
        return
    for arch, those in by_arch:
        yield f"arch {arch}"
        for one in those:
            yield from difference_lines(one.difference)
    yield from idle


def _head(judgement: Judgement) -> Iterator[str]:
    yield f"{judgement.comparison.verdict}: {said_first(judgement)}"
    for one in judgement.headlines[1:]:
        yield headline(judgement, one)
    found = risks(judgement)
    for row, names, reason in found[:MANY_RISKS]:
        yield f"{row.level}: {', '.join(names)}: it newly {row.grants} [{row.id}]{f'; {reason}' if reason else ''}"
    if len(found) > MANY_RISKS:
        yield f"... and {len(found) - MANY_RISKS} more risks"
    more = any(one.difference.change is Change.MORE for one in judgement.differences)
    if more and not found and not judgement.headlines:
        yield "no known risk became possible"


def idle_lines(judgement: Judgement) -> Iterator[str]:
    """One line for each kind of change: as many names as fit."""
    for change in Change:
        names = idle_names(judgement, change)
        if names:
            line = f"{change.value} {idle_says(change, names)}: {', '.join(names)}"
            yield textwrap.shorten(line, WIDTH, placeholder=" ...", break_on_hyphens=False)
