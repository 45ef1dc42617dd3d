"""A difference between two policies in words: what all output formats of `callfence diff` share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from callfence.shared.text import plural
from policygen.comparing.compare import Change, Verdict
from policygen.language.naming import format_action, format_call, format_expression
from policygen.lint.catalogue import dangers
from policygen.model import ALLOW, Always
from tracer.abi import table
from tracer.named import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from policygen.comparing.compare import Difference
    from policygen.files.algebra import Difference as FileDifference
    from policygen.lint.catalogue import Danger
    from policygen.review.judgement import Headline, Judgement, Reason

SAYS = {
    Verdict.WIDER: "NEW allows all that OLD does, and more",
    Verdict.NARROWER: "NEW allows nothing that OLD does not, and less",
    Verdict.INCOMPARABLE: "NEW allows some calls that OLD does not, and no longer allows others",
}


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
