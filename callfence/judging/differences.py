"""Sentences about the differences between two policies, for all output formats of `callfence diff`; and its plain text.

The text has the verdict and the gravest headline, the risks, then each difference with an example; long lists are abbreviated.
"""

from __future__ import annotations

import textwrap
from collections import defaultdict
from itertools import groupby
from typing import TYPE_CHECKING

from callfence.policygen.comparing.compare import Change, Difference, Verdict
from callfence.policygen.grants import is_grant_line
from callfence.policygen.language.naming import format_action, format_call, format_expression
from callfence.policygen.lint.catalogue import Danger, Level, dangers
from callfence.policygen.model import ALLOW, Always
from callfence.shared.text import plural
from callfence.tracer.abi import name_of
from callfence.tracer.named import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from callfence.policygen.files.algebra import Difference as FileDifference
    from callfence.policygen.review.judgement import Headline, Judgement, Reason
    from callfence.policygen.review.risk import Ranked

SAYS = {
    Verdict.DIFFERENT: "NEW allows the same calls as OLD, but answers some of them, or some denied ones, differently",
    Verdict.WIDER: "NEW allows every call that OLD allows, and more",
    Verdict.NARROWER: "NEW allows only calls that OLD allows, but not all of them",
    Verdict.INCOMPARABLE: "NEW allows some calls that OLD denies, and denies some that OLD allows",
}
CALLS_WITHOUT_ENTRY = "calls without an entry"
WIDTH = 120
"""Columns after which a list of names is wrapped, and the rules of one call are abbreviated."""
MAX_RISKS = 4
"""The most risks that the text has; other formats have all."""
MAX_LINES = 15
"""Lines of text above which differences are abbreviated: a reviewer reads so many in a minute."""


def said_first(judgement: Judgement) -> str:
    """Return the sentence that follows the verdict: the gravest headline (`in_order`) or else an explanation of the verdict."""
    first, _ = in_order(judgement)
    if first is not None:
        return headline(judgement, first)
    comparison = judgement.comparison
    if comparison.verdict is not Verdict.EQUAL:
        return SAYS[comparison.verdict]
    return "both policies answer every call in the same way"


def headline(judgement: Judgement, entry: Headline) -> str:
    """Return a headline as text, with the reason that accepts it, if any, at the end: `danger: connect, with dup2 and execve:
    it gives a shell to others [reverse-shell]; REASON`."""
    reason = judgement.reason(entry)
    return f"{entry.level}: {entry.subject}: {entry.says} [{entry.rule}]{f'; {reason}' if reason else ''}"


def in_order(judgement: Judgement) -> tuple[Headline | None, list[Headline | Risk]]:
    """Return the headline that is named with the verdict, None if there is none, and the other headlines and the risks: first
    headlines about settings and combinations, then those about files and ports together with the risks, the gravest first."""
    about_files = [entry for entry in judgement.headlines if is_grant_line(entry.name)]
    others = [entry for entry in judgement.headlines if not is_grant_line(entry.name)]
    rest: list[Headline | Risk] = [*risks(judgement), *about_files]
    rest.sort(key=lambda entry: -(entry.row.level if isinstance(entry, Risk) else entry.level).rank)
    entries = [*others, *rest]
    first = entries[0] if entries else None
    if first is None or isinstance(first, Risk) or (not others and first.level is Level.NOTE):
        return None, entries
    return first, entries[1:]


class Risk(NamedTuple):
    row: Danger
    names: list[str]
    """The names of the calls that grant it."""
    reason: Reason | None
    """The reason that accepts all of them; None without one."""


def risks(judgement: Judgement) -> list[Risk]:
    """Return the risks of the catalogue that the new policy has and the old one does not, the most dangerous first.  Risks that
    a headline is about are left out."""
    in_headlines = {entry.rule for entry in judgement.headlines}
    calls: defaultdict[tuple[Danger, Reason | None], dict[str, None]] = defaultdict(dict)
    for ranked in judgement.relevant:
        name = call_name(ranked.difference)
        for row in ranked.dangers:
            if row.id not in in_headlines:
                calls[row, judgement.reasons.get((ranked.difference.arch, name, row.id))][name] = None
    rank = {row: index for index, row in enumerate(dangers())}
    rows = [Risk(row, [*names], reason) for (row, reason), names in calls.items()]
    return sorted(rows, key=lambda risk: (-risk.row.level.rank, rank[risk.row], risk.reason is not None))


def redundant(judgement: Judgement, *changes: Change) -> Iterator[tuple[Change, str, list[str]]]:
    """Yield (change, sentence, names of the calls) for each kind of change with redundant calls, which grant nothing beyond the
    rest of the policy.  Only for `changes` if these are given, else for all kinds."""
    what = {
        Change.MORE: "grants nothing beyond the rest",
        Change.LESS: "no longer allowed, and granted nothing beyond the rest",
        Change.OTHER: "answered differently, and grants nothing",
    }
    for change in changes or Change:
        names = sorted({call_name(ranked.difference) for ranked in judgement.redundant if ranked.difference.change is change})
        if names:
            yield change, f"{what[change]} ({plural(len(names), 'call')})", names


def following(judgement: Judgement) -> Iterator[tuple[Change, str, list[str]]]:
    """Yield (change, sentence, names of the calls) for each kind of change with calls that are answered differently only
    because a setting differs, which has a headline."""
    for change in Change:
        follow = [ranked.difference for ranked in judgement.by_setting if ranked.difference.change is change]
        if follow:
            yield change, f"because of default {_answer(follow[0])}", list(dict.fromkeys(map(call_name, follow)))


def difference_lines(difference: Difference) -> Iterator[str]:
    """Yield the lines of a difference: the calls, one rule a line, then the action before and after with an example."""
    start = f"  {difference.change.value} {shown_name(difference)}: "
    for text in rule_texts(difference):
        yield f"{start}{text}"
        start = f"{'|| ':>{len(start)}}"
    yield f"      {_answer(difference)}, for example {format_call(difference.example)}"


def file_lines(differences: Iterable[FileDifference]) -> Iterator[str]:
    """Yield a line for the rights that each line for files or ports gained (`+`), and a line for those that it lost (`-`)."""
    for line, more, less in differences:
        for sign, what in (("+", more), ("-", less)):
            if what:
                yield f"  {sign} {line}: {what}"


def call_name(difference: Difference) -> str:
    if difference.number is None:
        return CALLS_WITHOUT_ENTRY
    return name_of(difference.arch, difference.number)


def shown_name(difference: Difference) -> str:
    """Return the name of a difference's call, with the name of the phase if the policies differ in only one phase."""
    return f"{call_name(difference)}{f' (in {difference.phase})' if difference.phase else ''}"


def rule_texts(difference: Difference) -> list[str]:
    if not difference.rules:
        return ["under conditions that are too long to show"]
    if difference.rules == (Always(True),):
        allowed = difference.change is not Change.OTHER and ALLOW in (difference.before, difference.after)
        return ["allow" if allowed and difference.number is not None else "whatever the arguments"]
    return [format_expression(difference.arch, difference.example.number, rule) for rule in difference.rules]


def _short(differences: Sequence[Ranked], room: int) -> list[str]:
    """Return the differences of one architecture in at most `room` lines, if leaving out what matters least suffices.

    Calls that are no longer allowed, or answered differently, are shown by name alone.  For calls that became possible, the
    examples of those without a known risk are left out first, then their conditions; then the same for the others."""
    ways = [[*_lines(differences, *way)] for way in (("all", True), ("all", False), ("line", False), ("name", False))]
    return next((lines for lines in ways if len(lines) <= room), ways[-1])


def _lines(differences: Sequence[Ranked], risky: str, conditions: bool) -> Iterator[str]:
    """`risky`: how much of a difference with a known risk is shown; `conditions`: whether those of the others are."""
    grave = [ranked.difference for ranked in differences if ranked.dangers]
    rest = [ranked.difference for ranked in differences if not ranked.dangers]
    if risky == "name":
        yield from _names("+", grave, "allowed, at the risks above")
    for difference in grave if risky != "name" else ():
        yield from difference_lines(difference) if risky == "all" else [_one_line(difference)]
    more = [difference for difference in rest if difference.change is Change.MORE]
    whole = [difference for difference in more if is_whole(difference) and difference.after == ALLOW]
    partly = [difference for difference in more if difference not in whole]
    yield from map(_one_line, partly if conditions else ())
    yield from _names("+", whole, "allow")
    yield from _names("+", [] if conditions else partly, "allowed under conditions")
    others = sorted((difference for difference in rest if difference.change is Change.OTHER), key=_answer)
    for answer, group in groupby(others, key=_answer):
        yield from _names("~", [*group], answer)
    less = [difference for difference in rest if difference.change is Change.LESS]
    yield from _names("-", [difference for difference in less if is_whole(difference)], "no longer allowed")
    yield from _names("-", [difference for difference in less if not is_whole(difference)], "less than before")


def is_whole(difference: Difference) -> bool:
    """Return whether a difference is about its call whatever the arguments."""
    return difference.rules == (Always(True),)


def _answer(difference: Difference) -> str:
    return f"{format_action(difference.before)} -> {format_action(difference.after)}"


def _one_line(difference: Difference) -> str:
    """Return as many of its rules as fit in the width, at least one."""
    texts = rule_texts(difference)
    line = f"  {difference.change.value} {shown_name(difference)}: {texts[0]}"
    for index, text in enumerate(texts[1:], 1):
        if len(line) + len(text) + 4 > WIDTH:
            return f"{line} || {len(texts) - index} more"
        line += f" || {text}"
    return line


def _names(sign: str, differences: Sequence[Difference], what: str) -> list[str]:
    """Return lines that list the calls of some differences, such as `+ connect, dup2: allow`."""
    names = ", ".join(dict.fromkeys(map(shown_name, differences)))
    text = f"{sign} {names}: {what}" if names else ""
    return textwrap.wrap(text, WIDTH, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False)


def as_text(judgement: Judgement, *, full: bool = False) -> Iterator[str]:
    """Yield the comparison in plain text: the verdict, the gravest risks, then each difference with its example.

    Unless `full`, a text of more than `MAX_LINES` is abbreviated (see `_short`), and the redundant calls of each kind of
    change take one line."""
    head = [*_head(judgement)]
    yield from head
    differences = judgement.differences if full else judgement.relevant
    by_arch = [(arch, [*group]) for arch, group in groupby(differences, key=lambda ranked: ranked.difference.arch)]
    details = {arch: [line for ranked in group for line in difference_lines(ranked.difference)] for arch, group in by_arch}
    last = [] if full else [*redundant_lines(judgement)]
    if not full and len(head) + len(by_arch) + sum(map(len, details.values())) + len(last) > MAX_LINES:
        room = (MAX_LINES - len(head) - len(last) - 1) // max(1, len(by_arch)) - 1
        details = {arch: _short(group, room) for arch, group in by_arch}
        last.append("--full shows each difference with its rules and an example")
    for arch, lines in details.items():
        yield from (f"arch {arch}", *lines)
    yield from last


def _head(judgement: Judgement) -> Iterator[str]:
    yield f"{judgement.comparison.verdict}: {said_first(judgement)}"
    _, entries = in_order(judgement)
    rows = [entry for entry in entries if isinstance(entry, Risk)]
    for entry in entries:
        if not isinstance(entry, Risk):
            yield headline(judgement, entry)
        elif entry in rows[:MAX_RISKS]:
            row, names, reason = entry
            yield f"{row.level}: {', '.join(names)}: it newly {row.grants} [{row.id}]{f'; {reason}' if reason else ''}"
    if len(rows) > MAX_RISKS:
        yield f"... and {plural(len(rows) - MAX_RISKS, 'more risk')}"
    more = any(ranked.difference.change is Change.MORE for ranked in judgement.differences)
    if more and not rows and not judgement.headlines:
        yield "NEW allows no known risk that OLD denies"


def redundant_lines(judgement: Judgement) -> Iterator[str]:
    """Yield a line for each kind of change with redundant calls, or calls that follow from a setting; as many names as fit."""
    for change, text, names in (*following(judgement), *redundant(judgement)):
        line = f"{change.value} {text}: {', '.join(names)}"
        yield textwrap.shorten(line, WIDTH, placeholder=" ...", break_on_hyphens=False)
