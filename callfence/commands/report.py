"""`callfence report`: write what a policy allows, why, how dangerous that is and how complete it is, to one file."""

from __future__ import annotations

import argparse
from pathlib import Path

from callfence.companion import load_evidence
from callfence.policygen.sets.algebra import TooComplexError
from callfence.report.content import as_json, gather
from callfence.report.page import page
from callfence.shared.files import output, put, require_other
from callfence.shared.inputs import document, run_command
from callfence.shared.options import Parser
from callfence.tracer.errors import UserError

DESCRIPTION = """\
Write one HTML file about a policy, for reading offline: its risks, how complete it is likely to be, which executables made
which calls, and which calls led to each rule.  The recording beside the policy is used if there is one, else NAME.evidence."""


def parser() -> argparse.ArgumentParser:
    parser = Parser(prog="callfence report", description=DESCRIPTION)
    add = parser.add_argument
    add("-o", "--output", metavar="FILE", type=output, help="write the page to FILE (default: standard output)")
    add("--against", metavar="POLICY", help="also show the differences from that policy")
    add("--recording", metavar="FILE", type=Path, help="show the runs of FILE (default: .callfence/NAME.rec beside the policy)")
    add("--format", choices=["html", "json"], default="html", help="default: html")
    add("policy", metavar="POLICY", help="a policy file")
    return parser


def main(arguments: list[str]) -> int:
    """Run `report`.  Return 0, or 2 if an input cannot be read or the report cannot be written."""
    options = parser().parse_args(arguments)

    def work() -> int:
        if "-" in (options.policy, options.against):
            raise UserError("a report names its files, so POLICY cannot be standard input: name a file (./- for a file -)")
        require_other(options.output, options.policy, options.against)
        other = (options.against, document(options.against)) if options.against is not None else None
        try:
            policy = document(options.policy)
            evidence = load_evidence("report", Path(options.policy), policy, options.recording)
            report = gather(options.policy, policy, evidence if evidence.file else None, other)
        except TooComplexError as error:
            raise UserError(f"the policies are too complex to be compared: {error}") from error
        put(options.output, page(report) if options.format == "html" else as_json(report) + "\n")
        return 0

    return run_command("report", work)
