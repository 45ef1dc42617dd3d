"""`callfence lint`: report what is dangerous in policies."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from callfence.enforcing.files import own
from callfence.judging.formats import Lines, Result, SarifRule, as_object, sarif
from callfence.judging.links import links
from callfence.policygen.language.document import Document
from callfence.policygen.language.naming import format_call
from callfence.policygen.lint.catalogue import Level
from callfence.policygen.lint.findings import Finding, about_files, lint, unreached
from callfence.policygen.model import Entry
from callfence.policygen.review.judgement import Reason, with_reasons_before
from callfence.shared.files import recording_path
from callfence.shared.inputs import document as read, message, print_error, print_lines
from callfence.shared.options import Parser
from callfence.shared.outputs import as_output
from callfence.shared.text import on_one_line, plural
from callfence.tracer.abi import Arch, table
from callfence.tracer.errors import CallfenceError

_MAX_TEXT = 2000
"""How many characters of an entry are printed."""
DESCRIPTION = """\
Report what is dangerous in policies, judged by the calls that they allow.  A comment `# why: REASON` on an entry, or above it,
accepts the findings on that entry; `# why: COMBINATION: REASON` accepts the finding on a combination of entries, such as
reverse-shell."""


def parser() -> argparse.ArgumentParser:
    parser = Parser(prog="callfence lint", description=DESCRIPTION)
    add = parser.add_argument
    add("--level", choices=[*Level], default=Level.WARNING, help="the lowest level to report (default: warning)")
    add("--accepted", action="store_true", help="also report accepted findings")
    add("--format", choices=["text", "json", "sarif"], default="text", help="default: text")
    against = parser.add_mutually_exclusive_group()
    against.add_argument("--against", metavar="OLD", help="also report findings that are accepted by a reason not in OLD")
    against.add_argument(
        "--git",
        metavar="REVISION",
        help="the same, with POLICY in that revision as OLD; also report symbolic links in granted folders that are new since",
    )
    add("policies", nargs="+", metavar="POLICY")
    return parser


def main(arguments: list[str]) -> int:
    """Run `lint`.  Return 0 if every finding of at least the level `--level` is accepted, 1 if one is not, 2 if an input cannot
    be read."""
    options = parser().parse_args(arguments)
    findings: list[tuple[str, Document, Finding]] = []
    excused: list[tuple[str, Finding]] = []
    broken = False
    for name in options.policies:
        try:
            document = read(name)
            old = _old(options, name)
        except (CallfenceError, OSError) as error:
            print_error(message("lint", error))
            broken = True
        else:
            reasons = with_reasons_before(old, document) if old else [(each, each.accepted) for each in lint(document)]
            reasons += _here(options, name, document, old)
            newly_accepted = [finding for finding, before in reasons if finding.accepted != before]
            for finding, _ in reasons:
                if finding.level.rank >= Level(options.level).rank:
                    findings.append((name, document, finding))
                    excused += [(name, finding)] * (finding in newly_accepted and bool(finding.accepted))
    shown = [
        (name, document, finding)
        for name, document, finding in findings
        if options.accepted or not finding.accepted or (name, finding) in excused
    ]
    places = {name: Lines(name) for name in dict.fromkeys(name for name, _, _ in findings)}
    if options.format == "json":
        print(as_output("lint", {"findings": [as_object(name, finding, places[name]) for name, _, finding in shown]}))
    elif options.format == "sarif":
        results = [_result(name, finding, places[name], is_new=(name, finding) in excused) for name, _, finding in findings]
        print(json.dumps(sarif(results), indent=2))
    else:
        _print(shown, findings, excused, places, broken=broken)
    if broken:
        return 2
    return int(any(not finding.accepted for _, _, finding in findings))


def _here(options: argparse.Namespace, name: str, document: Document, old: Document | None) -> list[tuple[Finding, str]]:
    """Return the findings that depend on what is beside the policy file (files, links, the recording), each with the reason for
    which the old policy accepted it, '' if it did not; none for standard input."""
    if name == "-":
        return []
    found = _beside(options, name, document)
    before = {(finding.name, finding.rule): finding.accepted for finding in (_beside(options, name, old) if old else found)}
    return [(finding, before.get((finding.name, finding.rule), "")) for finding in found]


def _beside(options: argparse.Namespace, name: str, document: Document) -> list[Finding]:
    found = [*about_files(document, own(document.policy.files, Path(name))), *links(document, options.git)]
    if document.policy.phases and recording_path(Path(name)).exists():
        from callfence.policygen.recording import recording_file

        try:
            recording = recording_file.load(recording_path(Path(name)))
        except (CallfenceError, OSError):
            return found  # `why` and `learn` report it
        found += unreached(document, [waits for run in recording.plain().runs for waits in run.waits])
    return found


def _old(options: argparse.Namespace, name: str) -> Document | None:
    """Return the policy of --against or --git, whose reasons are not new; None without these options.  Raises CallfenceError or
    OSError if it cannot be read."""
    if options.git is not None:
        from callfence.shared.inputs import document_at

        return document_at(options.git, name)
    return read(options.against) if options.against is not None else None


def _print(
    shown: Sequence[tuple[str, Document, Finding]],
    findings: Sequence[tuple[str, Document, Finding]],
    excused: Sequence[tuple[str, Finding]],
    places: Mapping[str, Lines],
    *,
    broken: bool,
) -> None:
    lines: list[str] = []
    for name, document, finding in shown:
        line = places[name].of(finding)
        place = name if line is None else f"{name}:{line}"
        lines.append(f"{place}: {finding.level}: {finding.name}: it {finding.grants} [{finding.rule}]")
        if finding.arch is not None:
            number = table(finding.arch).by_name[finding.name].number
            lines.append(f"  entry   {_short(finding.arch, number, document.policy.entries[finding.arch][number])}")
        if finding.example is not None:
            lines.append(f"  allows  {format_call(finding.example)}")
        lines.append(f"  why     {finding.why}")
        lines.append(f"  safer   {finding.safer}")
        lines.append(f"  source  {finding.source}")
        if (name, finding) in excused:
            lines.append(f"  {Reason(finding.accepted, is_new=True)}")
        elif finding.accepted:
            lines.append(f"  accepted: {finding.accepted}")
    accepted = sum(bool(finding.accepted) for _, _, finding in findings)
    levels = [finding.level for _, _, finding in findings if not finding.accepted]
    parts = [plural(levels.count(level), level) for level in reversed([*Level]) if level in levels]
    if findings or not broken:
        lines.append(f"{', '.join(parts) or 'no findings'}{f'; {accepted} accepted' if accepted else ''}")
    print_lines(lines)


def _short(arch: Arch, number: int, entry: Entry) -> str:
    """Return the entry on one line, cut after `_MAX_TEXT` characters."""
    text = on_one_line(arch, number, entry)
    return text if len(text) <= _MAX_TEXT else f"{text[:_MAX_TEXT]} ..."


def _result(policy: str, finding: Finding, lines: Lines, *, is_new: bool) -> Result:
    """Return the SARIF result of a finding.  `is_new`: the reason that accepts it is new, and so does not suppress it."""
    full, help_ = f"A policy that {finding.grants}: {finding.why}.", f"Safer: {finding.safer}. See {finding.source}."
    short = finding.grants.partition(":")[0]
    excuse = f"; {Reason(finding.accepted, is_new=True)}" if is_new else ""
    message = f"{finding.name}: it {finding.grants}: {finding.why}{excuse}"
    accepted = "" if is_new else finding.accepted
    line, identity = lines.of(finding), f"{finding.arch} {finding.name} {finding.grants}"
    return Result(SarifRule(finding.rule, short, full, help_), finding.level, message, policy, line, identity, accepted)
