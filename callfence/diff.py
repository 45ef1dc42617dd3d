"""`callfence diff`: what a policy makes possible that another does not, and the reverse."""

from __future__ import annotations

import argparse
from itertools import groupby
from typing import TYPE_CHECKING

from callfence.inputs import InputError, document, judged
from policygen.algebra import TooComplexError
from policygen.compare import Change, Comparison, Difference, Verdict, compare
from policygen.model import ALLOW, Always
from policygen.naming import format_action, format_call, format_expression
from tracer.abi import table

if TYPE_CHECKING:
    from collections.abc import Iterator

_WIDER = (Verdict.WIDER, Verdict.INCOMPARABLE)
SAYS = {
    Verdict.WIDER: "NEW allows all that OLD does, and more",
    Verdict.NARROWER: "NEW allows nothing that OLD does not, and less",
    Verdict.INCOMPARABLE: "NEW allows some calls that OLD does not, and no longer allows others",
}


def main(arguments: list[str]) -> int:
    """0; 1: --exit-code, and NEW allows something that OLD does not; 2: bad input."""
    description = (
        "Say what NEW allows that OLD does not (+), what it no longer allows (-), and what it answers otherwise (~): "
        "exactly, over all calls, each with an example.  Formatting, order and comments make no difference."
    )
    parser = argparse.ArgumentParser(prog="callfence diff", description=description, allow_abbrev=False)
    parser.add_argument("--exit-code", action="store_true", help="exit with 1 if NEW allows something that OLD does not")
    parser.add_argument("old", metavar="OLD", help="a policy file; - is standard input")
    parser.add_argument("new", metavar="NEW")
    options = parser.parse_args(arguments)

    def work() -> int:
        old, new = document(options.old), document(options.new)
        try:
            comparison = compare(old.policy, new.policy)
        except TooComplexError as error:
            raise InputError(f"the policies are too complex to be compared: {error}") from error
        print("\n".join(as_text(comparison)))
        return int(options.exit_code and comparison.verdict in _WIDER)

    return judged("diff", work)


def as_text(comparison: Comparison) -> Iterator[str]:
    """The comparison in plain text: the verdict, then each difference with its example, by architecture."""
    if comparison.verdict is not Verdict.EQUAL:
        yield f"{comparison.verdict}: {SAYS[comparison.verdict]}"
    elif comparison.differences:
        yield "equal: both allow the same calls, but some are answered otherwise"
    else:
        yield "equal: both answer every call alike"
    before, after = comparison.arms
    if before != after:
        yield f"arm {before} -> {after}"
    for arch, of_arch in groupby(comparison.differences, key=lambda one: one.arch):
        yield f"arch {arch}"
        for difference in of_arch:
            yield from difference_lines(difference)


def difference_lines(difference: Difference) -> Iterator[str]:
    """Which calls, one alternative a line, and below it what happens to them."""
    start = f"  {difference.change.value} {_name(difference)}: "
    for text in rule_texts(difference):
        yield f"{start}{text}"
        start = f"{'|| ':>{len(start)}}"
    before, after = format_action(difference.before), format_action(difference.after)
    yield f"      {before} -> {after}, for example {format_call(difference.example)}"


def _name(difference: Difference) -> str:
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
