"""Findings for machines: the line of a policy's file that each is about, as JSON, and in SARIF 2.1.0
(docs.oasis-open.org/sarif/sarif/v2.1.0), which code-scanning services read.
"""

from __future__ import annotations

import os
import re
import zlib
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from callfence.shared.text import printable
from callfence.version import __version__
from policygen.language.document import read_text
from policygen.language.naming import format_call
from policygen.lint.catalogue import Level
from policygen.values import frozen
from tracer.errors import CallfenceError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from policygen.lint.findings import Finding
    from tracer.abi import Arch


class Lines:
    """Where the statements of a policy's file are: numbers of lines, from 1; None of what is in an included file."""

    def __init__(self, policy: str) -> None:
        """`policy` is the file; standard input has been read already, and a file of another revision may be gone."""
        self._settings: dict[tuple[str, ...], int] = {}
        self._calls: dict[tuple[str, str], int] = {}
        section = "x86_64"
        for number, line in enumerate(_source(policy), 1):
            if call := re.match(r"\s*(?:sys_)?(\w+)\s*:", line):
                self._calls.setdefault((section, call[1]), number)
                continue
            words = re.sub(r":(?= |$)", " ", line.split(" #")[0]).split()[:_LONGEST]
            if words and words[0].isidentifier():
                section = words[1] if words[0] == "arch" and len(words) > 1 else section
                for count in range(1, len(words) + 1):
                    self._settings.setdefault(tuple(words[:count]), number)

    def of(self, finding: Finding) -> int | None:
        """The line that a finding is about."""
        return self.of_setting(finding.name) if finding.arch is None else self.of_call(finding.arch, finding.name)

    def of_setting(self, setting: str) -> int | None:
        """The line that a setting (`default`, `arch x86_64`, `path /etc`) begins on."""
        return self._settings.get(tuple(setting.split()))

    def of_call(self, arch: Arch, name: str) -> int | None:
        """The line that the entry of a call begins on."""
        return self._calls.get((arch, name))


def as_object(policy: str, finding: Finding, lines: Lines) -> dict[str, object]:
    """Return a finding as an object of JSON."""
    return {
        "file": printable(policy),
        "line": lines.of(finding),
        "rule": finding.rule,
        "level": finding.level,
        "arch": finding.arch,
        "name": finding.name,
        "grants": finding.grants,
        "why": finding.why,
        "safer": finding.safer,
        "source": finding.source,
        "example": format_call(finding.example) if finding.example else None,
        "accepted": finding.accepted or None,
    }


def _source(policy: str) -> list[str]:
    try:
        return [] if policy == "-" else read_text(policy).splitlines()
    except (CallfenceError, OSError):
        return []


_LONGEST = 64
"""Words of a setting: a path may have some."""


SCHEMA: Final = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/os/schemas/sarif-schema-2.1.0.json"
LEVELS: Final = {Level.DANGER: "error", Level.WARNING: "warning", Level.NOTE: "note"}


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
    """What identifies the result in other versions of the file: independent of line numbers and order."""
    accepted: str = ""


def sarif(results: Sequence[Result]) -> dict[str, object]:
    """The log of one run."""
    rules = sorted({result.rule.id: result.rule for result in results}.values(), key=lambda rule: rule.id)
    index = {rule.id: number for number, rule in enumerate(rules)}
    driver = {
        "name": "callfence",
        "version": __version__,
        "rules": [
            {
                "id": rule.id,
                "shortDescription": {"text": rule.short},
                "fullDescription": {"text": rule.full},
                "help": {"text": rule.help},
            }
            for rule in rules
        ],
    }
    run = {"tool": {"driver": driver}, "results": [_result(result, index[result.rule.id]) for result in results]}
    return {"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}


def _result(result: Result, index: int) -> dict[str, object]:
    place: dict[str, object] = {"artifactLocation": {"uri": quote(os.fsencode(result.file))}}
    if result.line is not None:
        place["region"] = {"startLine": result.line}
    made: dict[str, object] = {
        "ruleId": result.rule.id,
        "ruleIndex": index,
        "level": LEVELS[result.level],
        "message": {"text": result.message.replace("](", "] (")},  # else an embedded link (SARIF 2.1.0, 3.11.6)
        "locations": [{"physicalLocation": place}],
        "partialFingerprints": {"callfence/v1": f"{zlib.crc32(f'{result.rule.id} {result.identity}'.encode()):08x}"},
    }
    if result.accepted:
        made["suppressions"] = [{"kind": "inSource", "justification": result.accepted}]
    return made
