"""The line of a policy's file that a finding is about, for editors and reviewers; and findings as JSON, with it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from callfence.shared.text import printable
from policygen.language.document import read_text
from policygen.language.naming import format_call
from tracer.errors import CallfenceError

if TYPE_CHECKING:
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
