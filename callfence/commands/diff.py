"""`callfence diff`: what one policy allows that another does not, and the reverse."""

from __future__ import annotations

import argparse
from pathlib import Path

from callfence.policygen.comparing.compare import Verdict
from callfence.policygen.language.document import Document
from callfence.policygen.review.judgement import Judgement, judge
from callfence.policygen.sets.algebra import TooComplexError
from callfence.shared.inputs import document, print_lines, run_command
from callfence.shared.options import Parser
from callfence.tracer.errors import UserError

_WIDER = (Verdict.WIDER, Verdict.INCOMPARABLE)


def parser() -> argparse.ArgumentParser:
    description = (
        "Show what NEW allows that OLD does not (+), what it no longer allows (-), and what it answers differently (~).  The "
        "comparison covers every call and every argument value; each difference has an example.  Formatting, order and "
        "comments do not matter."
    )
    usage = "callfence diff [OPTION ...] OLD NEW\n       callfence diff [OPTION ...] --git REVISION[..REVISION] FILE"
    parser = Parser(prog="callfence diff", usage=usage, description=description)
    parser.add_argument(
        "--not-wider", action="store_true", help="exit with 1 if NEW allows something that OLD denies, or denies it more mildly"
    )
    parser.add_argument("--full", action="store_true", help="show every difference with its example, however many there are")
    parser.add_argument("--format", choices=["text", "json", "md", "sarif"], default="text", help="default: text")
    parser.add_argument(
        "--git", metavar="REVISION", help="compare FILE in REVISION with the current FILE, or in two revisions (OLD..NEW)"
    )
    parser.add_argument("old", metavar="OLD", help="a policy file; - is standard input")
    parser.add_argument("new", metavar="NEW", nargs="?")
    return parser


def main(arguments: list[str]) -> int:
    """Run `diff`.  Return 0; or 1, with --not-wider, if NEW allows something that OLD denies, or denies it more mildly; or
    2 if an input cannot be read or compared."""
    command = parser()
    options = command.parse_args(arguments)
    if (options.git is None) == (options.new is None):
        command.error("give either two policies, or --git REVISION and one policy")

    def work() -> int:
        old, new = _documents(options)
        try:
            judgement = judge(old, new)
        except TooComplexError as error:
            raise UserError(f"the policies are too complex to be compared: {error}") from error
        _print(options, judgement, old, new)
        comparison = judgement.comparison
        return int(options.not_wider and (comparison.verdict in _WIDER or comparison.is_milder))

    return run_command("diff", work)


def _documents(options: argparse.Namespace) -> tuple[Document, Document]:
    if options.git is None:
        if options.old == options.new == "-":
            raise UserError("OLD and NEW cannot both be standard input")
        return document(options.old), document(options.new)
    from callfence.shared.inputs import document_at

    before, between, after = options.git.partition("..")
    if after.startswith("."):
        raise UserError(f"--git {options.git}: two revisions are written OLD..NEW, with two dots")
    new = document_at(after or "HEAD", options.old) if between else document(options.old)
    return document_at(before or "HEAD", options.old), new


def _print(options: argparse.Namespace, judgement: Judgement, old: Document, new: Document) -> None:
    if options.format != "text":
        print(_formatted(options, judgement, old, new))
        return
    from callfence.judging.differences import as_text

    print_lines(as_text(judgement, full=options.full))


def _formatted(options: argparse.Namespace, judgement: Judgement, old: Document, new: Document) -> str:
    from callfence.judging import formats

    file = options.new or options.old
    if options.format == "json":
        return formats.as_json(judgement)
    if options.format == "md":
        return formats.as_markdown(judgement, file, _behind(options, judgement, old, new))
    return formats.as_sarif(judgement, file)


def _behind(options: argparse.Namespace, judgement: Judgement, old: Document, new: Document) -> list[str]:
    """Return lines about the recorded calls behind the new policy's differences; none if that policy is not a current file."""
    file = options.new or options.old
    if file == "-" or ".." in (options.git or ""):
        return []
    from callfence.companion import load_evidence
    from callfence.judging.sites import behind_lines

    recording = load_evidence("diff", Path(file), new).recording
    return [*behind_lines(old.policy, new.policy, judgement.relevant, recording)]
