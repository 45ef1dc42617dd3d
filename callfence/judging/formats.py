"""Output formats of findings and of `callfence diff`: JSON, with lines of the policy's file; Markdown, for pull requests; and
SARIF 2.1.0 (docs.oasis-open.org/sarif/sarif/v2.1.0), which code-scanning services read.
"""

from __future__ import annotations

import json
import os
import re
import zlib
from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from callfence.judging import differences
from callfence.judging.differences import Risk
from callfence.policygen.comparing.compare import Change, Difference
from callfence.policygen.grants import is_grant_line
from callfence.policygen.language.document import parse, read_text
from callfence.policygen.language.naming import format_action, format_call
from callfence.policygen.lint.catalogue import Danger, Level
from callfence.policygen.values import frozen
from callfence.shared.outputs import as_output
from callfence.shared.text import cell, code, printable
from callfence.start import __version__
from callfence.tracer.abi import NATIVE, Arch
from callfence.tracer.errors import CallfenceError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from callfence.policygen.lint.findings import Finding
    from callfence.policygen.review.judgement import Headline, Judgement
    from callfence.policygen.review.risk import Ranked

_MAX_WORDS = 64
"""The most words of a setting that are compared; a path may have several."""
SCHEMA: Final = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/os/schemas/sarif-schema-2.1.0.json"
LEVELS: Final = {Level.DANGER: "error", Level.WARNING: "warning", Level.NOTE: "note"}
HEADINGS = {Change.MORE: "Became possible", Change.LESS: "No longer possible", Change.OTHER: "Answered otherwise"}
_NAMED = 12
"""The most redundant calls that Markdown names."""
_SAID = 60_000
"""The most characters of Markdown; GitHub permits 65,536 in a comment."""


class Lines:
    """The line numbers, from 1, of the statements in a policy's file.  Statements of included files have no number."""

    def __init__(self, policy: str) -> None:
        """`policy` is the file; no statement has a line if it is standard input or cannot be read."""
        self._policy = policy
        self._settings: dict[tuple[str, ...], int] = {}
        self._calls: dict[tuple[str, str], int] = {}
        section: str = NATIVE
        for number, line in enumerate(_source(policy), 1):
            if call := re.match(r"\s*(?:sys_)?(\w+)\s*:", line):
                self._calls.setdefault((section, call[1]), number)
                continue
            words = re.sub(r":(?= |$)", " ", line.split(" #")[0]).split()[:_MAX_WORDS]
            if words and words[0].isidentifier():
                section = words[1] if words[0] == "arch" and len(words) > 1 else section
                for count in range(1, len(words) + 1):
                    self._settings.setdefault(tuple(words[:count]), number)

    def of(self, finding: Finding) -> int | None:
        """Return the line of the statement that causes a finding; None if that statement is not in the file."""
        return self.of_setting(finding.name) if finding.arch is None else self.of_call(finding.arch, finding.name)

    def of_setting(self, setting: str) -> int | None:
        """Return the line of a setting or of a line about files (`default`, `arch x86_64`, `path /etc`), or None."""
        return self._settings.get(tuple(setting.split())) or self._respelled.get(setting)

    @cached_property
    def _respelled(self) -> dict[str, int]:
        """The numbers of lines about files and hosts by what they mean: the file may write hosts otherwise than the policy
        language does (`EXAMPLE.org`, `64:ff9b::192.0.2.1`)."""
        numbers: dict[str, int] = {}
        for number, line in enumerate(_source(self._policy), 1):
            if is_grant_line(line.lstrip()):
                with suppress(CallfenceError):
                    for meant in parse(f"{line}\n").policy.files.lines():
                        numbers.setdefault(meant, number)
        return numbers

    def of_call(self, arch: Arch, name: str) -> int | None:
        """Return the first line of a call's entry; None if the file has no entry for the call."""
        return self._calls.get((arch, name))


def as_object(policy: str, finding: Finding, lines: Lines) -> dict[str, object]:
    """Return a finding as a JSON object.  `policy` is the name of the policy's file, and `lines` has its line numbers."""
    return {
        "file": printable(policy),
        "line": lines.of(finding),
        **{name: getattr(finding, name) for name in ("rule", "level", "arch", "name", "grants", "why", "safer", "source")},
        "example": format_call(finding.example) if finding.example else None,
        "accepted": finding.accepted or None,
    }


def _source(policy: str) -> list[str]:
    try:
        return [] if policy == "-" else read_text(policy).splitlines()
    except (CallfenceError, OSError):
        return []


@frozen
class SarifRule:
    id: str
    short: str
    full: str
    help: str


@frozen
class Result:
    rule: SarifRule
    level: Level
    message: str
    file: str
    line: int | None
    identity: str
    """A text that identifies the result in other versions of the file, without line numbers."""
    accepted: str = ""


def sarif(results: Sequence[Result]) -> dict[str, object]:
    """Return a SARIF log, as a JSON object, with one run that has these results."""
    rules = sorted({result.rule.id: result.rule for result in results}.values(), key=lambda rule: rule.id)
    index = {rule.id: number for number, rule in enumerate(rules)}
    described = [
        {
            "id": rule.id,
            "shortDescription": {"text": rule.short},
            "fullDescription": {"text": rule.full},
            "help": {"text": rule.help},
        }
        for rule in rules
    ]
    driver = {"name": "callfence", "version": __version__, "rules": described}
    run = {"tool": {"driver": driver}, "results": [_result(result, index[result.rule.id]) for result in results]}
    return {"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}


def _result(result: Result, index: int) -> dict[str, object]:
    place: dict[str, object] = {"artifactLocation": {"uri": quote(os.fsencode(result.file))}}
    if result.line is not None:
        place["region"] = {"startLine": result.line}
    suppressions = [{"kind": "inSource", "justification": result.accepted}]
    return {
        "ruleId": result.rule.id,
        "ruleIndex": index,
        "level": LEVELS[result.level],
        "message": {"text": result.message.replace("](", "] (")},  # else an embedded link (SARIF 2.1.0, 3.11.6)
        "locations": [{"physicalLocation": place}],
        "partialFingerprints": {"callfence/v1": f"{zlib.crc32(f'{result.rule.id} {result.identity}'.encode()):08x}"},
    } | ({"suppressions": suppressions} if result.accepted else {})


NEW_BEHAVIOUR = SarifRule("new-behaviour", "more is allowed", "The policy allows calls that it denied.", "Ask what needs them.")


def as_json(judgement: Judgement) -> str:
    """Return a comparison as the text of a JSON object: the verdict, the headlines, `arm` and `scope` of both policies, and
    each difference with its risks."""
    return as_output(
        "diff",
        {
            "verdict": judgement.comparison.verdict,
            "first": [_headline(judgement, entry) for entry in judgement.headlines],
            "arm": list(judgement.comparison.arms),
            "scope": list(judgement.comparison.scopes),
            "differences": [_object(judgement, ranked) for ranked in judgement.differences],
        },
    )


def _headline(judgement: Judgement, entry: Headline) -> dict[str, object]:
    """Return a headline (a changed setting, or a dangerous combination of calls that is now complete) as a JSON object."""
    reason = judgement.reason(entry)
    return {
        "id": entry.rule,
        "level": entry.level,
        "arch": entry.arch,
        "name": entry.name,
        "what": entry.subject,
        "says": entry.says,
        "why": entry.why or None,
        "safer": entry.safer or None,
        "accepted": reason.text if reason else None,
        "accepted_in_this_change": bool(reason and reason.is_new),
    }


def _object(judgement: Judgement, ranked: Ranked) -> dict[str, object]:
    difference = ranked.difference
    name = differences.call_name(difference)
    reasons = {row.id: judgement.reasons.get((difference.arch, name, row.id)) for row in ranked.dangers}
    return {
        "arch": difference.arch,
        "name": name,
        "phase": difference.phase or None,
        "change": HEADINGS[difference.change].lower(),
        "before": format_action(difference.before),
        "after": format_action(difference.after),
        "rules": differences.rule_texts(difference),
        "grants_nothing": ranked.is_redundant,
        "follows_from": ranked.setting or None,
        "example": format_call(difference.example),
        "risks": [
            {name: getattr(row, name) for name in ("id", "level", "grants", "why", "safer", "source")} for row in ranked.dangers
        ],
        "reasons": {rule: str(reason) for rule, reason in reasons.items() if reason},
    }


def as_markdown(judgement: Judgement, new: str, behind: Iterable[str] = ()) -> str:
    """Return a comparison as a comment on a pull request: the verdict and the gravest headline, the risks, and a table for each
    kind of change.

    `new` is the name of the new policy's file.  `behind` has lines about the recorded calls that the new policy allows and the
    old one does not."""
    first, others = differences.in_order(judgement)
    start = _said(judgement, first) if first else differences.said_first(judgement)
    lines = [f"**{code(new)}: {judgement.comparison.verdict}**: {start.removesuffix('.')}."]
    if first and first.why:
        lines += ["", f"{first.why[0].upper()}{first.why[1:]}. Safer: {first.safer}."]
    points = []
    for entry in others:
        if not isinstance(entry, Risk):
            points.append(f"- {_said(judgement, entry)}{f': {entry.why}. Safer: {entry.safer}' if entry.why else ''}.")
            continue
        row, calls, reason = entry
        why = "" if row.level is Level.NOTE else f": {row.why}. Safer: {row.safer}"
        excuse = f" {code(str(reason))}" if reason else ""
        points.append(f"- **{row.level}**: {_codes(calls)}: it newly {row.grants}{why}.{excuse}")
    lines += ["", *points] if points else []
    for change, heading in HEADINGS.items():
        rows = [_row(ranked.difference) for ranked in judgement.relevant if ranked.difference.change is change]
        if rows:
            lines += ["", f"{heading}:", "", "| calls | answer | for example |", "|---|---|---|", *rows]
    for _, text, names in (*differences.following(judgement), *differences.redundant(judgement)):
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        lines += ["", f"{text[0].upper()}{text[1:]}: {_codes(names[:_NAMED])}{more}."]
    whole = "\n".join([*lines, *behind])
    if len(whole) > _SAID:
        whole = whole[:_SAID].rpartition("\n")[0] + "\n\n... and more: `callfence diff` prints all of it."
    return whole


def _codes(names: Sequence[str]) -> str:
    return ", ".join(map(code, names))


def _said(judgement: Judgement, entry: Headline) -> str:
    """Return a headline as Markdown, its level in bold.  Text from the policy is quoted as code: a reason, and a name of
    several words, which contains the name of a phase, a file or a port."""
    reason = judgement.reason(entry)
    subject = code(entry.subject) if " " in entry.name else entry.subject
    return f"**{entry.level}**: {subject}: {entry.says} [{entry.rule}]{f'; {code(str(reason))}' if reason else ''}"


def _row(difference: Difference) -> str:
    rules = "<br>".join(cell(f"{differences.shown_name(difference)}: {text}") for text in differences.rule_texts(difference))
    answer = f"{format_action(difference.before)} → {format_action(difference.after)}"
    return f"| {rules} | {answer} | {cell(format_call(difference.example))} |"


def as_sarif(judgement: Judgement, new: str) -> str:
    """Return a comparison as the text of a SARIF log: a result for each headline, each risk, and each other call that is newly
    allowed.  `new` is the name of the new policy's file."""
    lines = Lines(new)
    results = [_of_headline(judgement, entry, new, lines) for entry in judgement.headlines]
    in_headlines = {entry.rule for entry in judgement.headlines}
    for ranked in judgement.relevant:
        difference = ranked.difference
        if difference.change is not Change.MORE:
            continue
        name, rules = differences.call_name(difference), " || ".join(differences.rule_texts(difference))
        line = None if difference.number is None else lines.of_call(difference.arch, name)
        where, example = f"{difference.arch} {name}", f"for example {format_call(difference.example)}"
        for row in ranked.dangers:
            if row.id not in in_headlines:
                reason = judgement.reasons.get((difference.arch, name, row.id))
                message = f"{name}: it newly {row.grants}, {example}{f'; {reason}' if reason else ''}"
                results.append(Result(rule_of(row), row.level, message, new, line, where))
        if not ranked.dangers:
            message = f"{name}: newly allowed where {rules}, {example}"
            results.append(Result(NEW_BEHAVIOUR, Level.NOTE, message, new, line, f"{where} {rules}"))
    for _, text, names in differences.redundant(judgement, Change.MORE):
        message = f"{text}: {', '.join(names)}"
        results.append(Result(NEW_BEHAVIOUR, Level.NOTE, message, new, None, "grants nothing"))
    return json.dumps(sarif(results), indent=2)


def _of_headline(judgement: Judgement, entry: Headline, new: str, lines: Lines) -> Result:
    line = lines.of_setting(entry.name) if entry.arch is None else lines.of_call(entry.arch, entry.name)
    full = f"{entry.says}{f': {entry.why}' if entry.why else ''}."
    rule = SarifRule(entry.rule, entry.says, full, entry.safer or entry.says)
    message = printable(differences.headline(judgement, entry).partition(": ")[2])
    return Result(rule, entry.level, message, new, line, f"{entry.arch} {entry.rule}")


def rule_of(row: Danger) -> SarifRule:
    return SarifRule(row.id, row.grants, f"A policy that {row.grants}: {row.why}.", f"Safer: {row.safer}. See {row.source}.")
