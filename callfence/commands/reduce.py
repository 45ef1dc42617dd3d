"""`callfence reduce`: a policy without what another one does not allow, or a proof that it is a reduction of that."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from callfence.judging.differences import difference_lines, file_lines
from callfence.shared.inputs import document, judged
from callfence.shared.options import Parser
from policygen.comparing.compare import Change, Verdict, compare, verdict
from policygen.comparing.reduce import reduce
from tracer.errors import UserError

if TYPE_CHECKING:
    import argparse


def parser() -> argparse.ArgumentParser:
    description = (
        "Print policy A reduced by B: for a system call that B names, what both allow; for any other, what A allows.  "
        "With --check, prove that B allows nothing that A does not, or show what it does."
    )
    parser = Parser(prog="callfence reduce", description=description, allow_abbrev=False)
    parser.add_argument("--check", action="store_true", help="print no policy; exit with 1 if B allows more than A")
    parser.add_argument("a", metavar="A", help="a policy file; - is standard input")
    parser.add_argument("b", metavar="B")
    return parser


def main(arguments: list[str]) -> int:
    """0; 1: --check, and B allows something that A does not; 2: bad input."""
    options = parser().parse_args(arguments)
    work = _check if options.check else _reduce
    return judged("reduce", lambda: work(options.a, options.b))


def _reduce(a: str, b: str) -> int:
    before, by = document(a), document(b)
    try:
        policy = reduce(before.policy, by.policy)
    except ValueError as error:
        raise UserError(str(error)) from error
    if compare(before.policy, policy).verdict not in (Verdict.EQUAL, Verdict.NARROWER):
        raise AssertionError("the reduced policy allows more than it did")
    sys.stdout.write(before.with_policy(policy).inlined().text())
    return 0


def _check(a: str, b: str) -> int:
    comparison = compare(document(a).policy, document(b).policy)
    if comparison.verdict in (Verdict.EQUAL, Verdict.NARROWER):
        print(f"proved: {b} allows nothing that {a} does not")
        return 0
    print(f"{b} allows what {a} does not:")
    more = [one for one in comparison.files if one.more]
    if not more and verdict(one.change for one in comparison.differences) in (Verdict.EQUAL, Verdict.NARROWER):
        settings = [("arm", comparison.arms), ("scope", [scope or "none" for scope in comparison.scopes])]
        for word, (old, new) in settings:
            if old != new:
                print(f"  {word} {old} -> {new}")
    for difference in comparison.differences:
        if difference.change is Change.MORE:
            print("\n".join(difference_lines(difference)))
    for line in file_lines([one._replace(less="") for one in more]):
        print(line)
    return 1
