"""`callfence diff`: what a policy makes possible that another does not, and the reverse."""

from __future__ import annotations

import argparse
from itertools import groupby
from typing import TYPE_CHECKING

from callfence.shared.inputs import InputError, document, judged
from policygen.language.naming import format_action, format_call, format_expression
from policygen.model import ALLOW, Always
from policygen.review.catalogue import dangers
from policygen.review.risk import ranked
from policygen.sets.algebra import TooComplexError
from policygen.sets.compare import Change, Comparison, Difference, Verdict, compare
from tracer.abi import table

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from policygen.language.document import Document
    from policygen.review.catalogue import Danger
    from policygen.review.risk import Ranked

_WIDER = (Verdict.WIDER, Verdict.INCOMPARABLE)
MANY_RISKS = 4
"""Risks that the text names; other formats name all."""
MANY_LINES = 15
"""What a reviewer reads in a minute."""
SAYS = {
    Verdict.WIDER: "NEW allows all that OLD does, and more",
    Verdict.NARROWER: "NEW allows nothing that OLD does not, and less",
    Verdict.INCOMPARABLE: "NEW allows some calls that OLD does not, and no longer allows others",
}


def parser() -> argparse.ArgumentParser:
    description = (
        "Say what NEW allows that OLD does not (+), what it no longer allows (-), and what it answers otherwise (~): "
        "exactly, over all calls, each with an example.  Formatting, order and comments make no difference."
    )
    usage = "callfence diff [OPTION ...] OLD NEW\n       callfence diff [OPTION ...] --git REVISION[..REVISION] FILE"
    parser = argparse.ArgumentParser(prog="callfence diff", usage=usage, description=description, allow_abbrev=False)
    parser.add_argument("--exit-code", action="store_true", help="exit with 1 if NEW allows something that OLD does not")
    parser.add_argument("--full", action="store_true", help="each difference with its example, however many there are")
    parser.add_argument("--format", choices=["text", "json", "md", "sarif"], default="text", help="default: text")
    parser.add_argument("--git", metavar="REVISION", help="compare FILE as of then with FILE now, or as of a later REVISION")
    parser.add_argument("old", metavar="OLD", help="a policy file; - is standard input")
    parser.add_argument("new", metavar="NEW", nargs="?")
    return parser


def main(arguments: list[str]) -> int:
    """0; 1: --exit-code, and NEW allows something that OLD does not; 2: bad input."""
    command = parser()
    options = command.parse_args(arguments)
    if (options.git is None) == (options.new is None):
        command.error("give two policies, or --git REVISION and one file")

    def work() -> int:
        old, new = _documents(options)
        try:
            comparison = compare(old.policy, new.policy)
            differences = ranked(old.policy, new.policy, comparison)
        except TooComplexError as error:
            raise InputError(f"the policies are too complex to be compared: {error}") from error
        print(_formatted(options, comparison, differences))
        return int(options.exit_code and comparison.verdict in _WIDER)

    return judged("diff", work)


def _documents(options: argparse.Namespace) -> tuple[Document, Document]:
    if options.git is None:
        if options.old == options.new == "-":
            raise InputError("OLD and NEW cannot both be standard input")
        return document(options.old), document(options.new)
    from callfence.shared.git_files import document_at

    before, between, after = options.git.partition("..")
    new = document_at(after or "HEAD", options.old) if between else document(options.old)
    return document_at(before or "HEAD", options.old), new


def _formatted(options: argparse.Namespace, comparison: Comparison, differences: Sequence[Ranked]) -> str:
    if options.format == "text":
        return "\n".join(as_text(comparison, differences, full=options.full))
    from callfence.judging import diff_formats

    file = options.new or options.old
    if options.format == "json":
        return diff_formats.as_json(comparison, differences)
    if options.format == "md":
        return diff_formats.as_markdown(comparison, differences, file)
    return diff_formats.as_sarif(comparison, differences, file)


def as_text(comparison: Comparison, differences: Sequence[Ranked], *, full: bool = False) -> Iterator[str]:
    """The comparison in plain text: the verdict, the gravest risks, then each difference with its example.

    Unless it is to be `full`, what would take more than `MANY_LINES` is told shortly (see diff_short).
    """
    head = [*_head(comparison, differences)]
    yield from head
    by_arch = [(arch, [*those]) for arch, those in groupby(differences, key=lambda one: one.difference.arch)]
    details = [line for one in differences for line in difference_lines(one.difference)]
    if not full and len(head) + len(by_arch) + len(details) > MANY_LINES:
        from callfence.judging.diff_short import short

        room = (MANY_LINES - len(head) - 1) // len(by_arch) - 1
        for arch, those in by_arch:
            yield f"arch {arch}"
            yield from short(those, room)
        yield "--full tells each with its rules and an example"
        return
    for arch, those in by_arch:
        yield f"arch {arch}"
        for one in those:
            yield from difference_lines(one.difference)


def _head(comparison: Comparison, differences: Sequence[Ranked]) -> Iterator[str]:
    if comparison.verdict is not Verdict.EQUAL:
        yield f"{comparison.verdict}: {SAYS[comparison.verdict]}"
    elif comparison.differences:
        yield "equal: both allow the same calls, but some are answered otherwise"
    else:
        yield "equal: both answer every call alike"
    yield from _risks(differences)
    before, after = comparison.arms
    if before != after:
        yield f"arm {before} -> {after}"


def risks(differences: Sequence[Ranked]) -> list[tuple[Danger, list[str]]]:
    """What of the catalogue became possible, and by which calls: the gravest first, then in the catalogue's order."""
    found: dict[Danger, list[str]] = {}
    for one in differences:
        for row in one.dangers:
            names = found.setdefault(row, [])
            if (name := call_name(one.difference)) not in names:
                names.append(name)
    order = dangers()
    return sorted(found.items(), key=lambda item: (-item[0].level.rank, order.index(item[0])))


def _risks(differences: Sequence[Ranked]) -> Iterator[str]:
    found = risks(differences)
    for row, names in found[:MANY_RISKS]:
        yield f"{row.level}: {', '.join(names)}: it newly {row.grants} [{row.id}]"
    if len(found) > MANY_RISKS:
        yield f"... and {len(found) - MANY_RISKS} risks more"
    if not found and any(one.difference.change is Change.MORE for one in differences):
        yield "no known risk became possible"


def difference_lines(difference: Difference) -> Iterator[str]:
    """Which calls, one alternative a line, and below it what happens to them."""
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
