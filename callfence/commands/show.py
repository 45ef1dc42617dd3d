"""`callfence show`: a policy as callfence reads it, or a filter as a policy."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from callfence.shared.inputs import document, judged, program
from callfence.shared.options import Parser
from callfence.shared.text import on_one_line
from policygen.filter import bpf
from policygen.filter.compile import compile_policy
from policygen.filter.lift import lift
from policygen.filter.symbolic import UnsupportedError
from policygen.implied.expand import expanded, expansion, tidy
from policygen.language.document import new_document
from policygen.phases import in_each, phase_policies
from policygen.sets.algebra import TooComplexError
from policygen.values import replace
from tracer.errors import CallfenceError, UserError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable


def parser() -> argparse.ArgumentParser:
    description = (
        "Print a policy in canonical form, its includes resolved, or the filter that it is compiled to; or print a filter, "
        "from a file or of a running process, as a policy.  What a policy cannot express is reported in comments."
    )
    parser = Parser(prog="callfence show", description=description, allow_abbrev=False)
    parser.add_argument("--filter", action="store_true", help="print the instructions of the filter instead")
    parser.add_argument("--expanded", action="store_true", help="print the entries of the policy's implied set, too")
    parser.add_argument("--implied", action="store_true", help="print what the policy's implied set allows, with the reasons")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("policy", metavar="POLICY", nargs="?", help="a policy file; - is standard input")
    what.add_argument("--bpf", metavar="FILE", help="a file with a filter: an array of struct sock_filter")
    what.add_argument("--pid", metavar="PID", type=int, help="a running process, whose filters are read (CAP_SYS_ADMIN)")
    return parser


def main(arguments: list[str]) -> int:
    """0; 1: a filter does what no policy can express; 2: bad input."""
    options = parser().parse_args(arguments)
    return judged("show", lambda: _show(options))


def _show(options: argparse.Namespace) -> int:
    if options.policy is not None:
        if options.implied:
            return _implied(options.policy)
        return _policy(options.policy, instructions=options.filter, whole=options.expanded)
    if options.implied or options.expanded:
        raise UserError("--implied and --expanded are about a POLICY: a filter has everything written out")
    found = _of_process(options.pid) if options.bpf is None else [(f"the filter in {options.bpf}", program(options.bpf))]
    return _filters(found, instructions=options.filter)


def _implied(name: str) -> int:
    """Each entry that the set adds, after the reason and the capability that it is given for."""
    found = expansion(document(name).policy)
    if not found.rows:
        print(f"# {name}: no implied set")
    for (arch, number), rows in found.rows.items():
        for row in rows:
            given = f" [{', '.join(sorted(row.given))}]" if row.given else ""
            print(f"# {row.why}{given}\n{on_one_line(arch, number, row.entry)}")
    return 0


def _policy(name: str, *, instructions: bool, whole: bool) -> int:
    shown = document(name)
    if whole:
        policy = shown.policy
        each = in_each(lambda one: tidy(expanded(one)), policy) if policy.phases else tidy(expanded(policy))
        shown = shown.inlined().with_policy(each)
    try:
        if not instructions:
            sys.stdout.write(shown.inlined().text())
        for phase, policy in phase_policies(shown.policy) if instructions else ():
            sys.stdout.write(f"# {phase}\n" if shown.policy.phases else "")
            sys.stdout.write(bpf.disassemble(compile_policy(policy)) + "\n")
    except CallfenceError as error:
        raise UserError(f"{name}: {error}") from error
    return 0


def _of_process(pid: int) -> list[tuple[str, bytes]]:
    """The filters of a process, each with a name, in the order in which they were installed."""
    from tracer.starting.filters import filter_counts, read_filters

    found = read_filters(pid)
    others = sorted(thread for thread, count in filter_counts(pid).items() if count != len(found))
    if others:
        hint = f"thread {others[0]}, given as the PID, shows those of one of {len(others)}"
        print(f"callfence show: not all threads of process {pid} have the same filters: {hint}", file=sys.stderr)
    if not found:
        raise UserError(f"process {pid} has no filter")
    return [(f"process {pid}, filter {place} of {len(found)}", one) for place, one in enumerate(found, 1)]


def _filters(filters: Iterable[tuple[str, bytes]], *, instructions: bool) -> int:
    worst = 0
    for place, (name, filter_) in enumerate(filters):
        if place:
            print()
        if instructions:
            print(f"# {name}")
            print(bpf.disassemble(filter_))
        else:
            worst = max(worst, _lifted(name, filter_))
    return worst


def _lifted(name: str, filter_: bytes) -> int:
    """0 if the printed policy expresses everything that the filter does, else 1."""
    try:
        lifted = lift(filter_)
    except (UnsupportedError, TooComplexError) as error:
        print(f"# {name}: no policy says what it does ({error}); its instructions:")
        print(bpf.disassemble(filter_))
        return 1
    made = new_document(lifted.policy, name)
    remarks = [f"# not said: {remark}" for remark in lifted.remarks]
    if not all(remark.whole for remark in lifted.remarks):
        remarks += ["# its instructions:", *(f"# {line}" for line in bpf.disassemble(filter_).splitlines())]
    layout = replace(made.layout, header=(*made.layout.header, *remarks))
    sys.stdout.write(replace(made, layout=layout).text())
    return int(bool(remarks))
