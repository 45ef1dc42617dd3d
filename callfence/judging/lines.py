"""The line of a policy's file that a finding is about, for editors and reviewers."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from policygen.language.document import read_text

if TYPE_CHECKING:
    from policygen.review.lint import Finding
    from tracer.abi import Arch


def line_of(policy: str, finding: Finding) -> int | None:
    """The line of the file that a finding is about, from 1; None if it is in an included file, or not written out."""
    if finding.arch is not None:
        return line_of_call(policy, finding.arch, finding.name)
    return line_of_setting(policy, finding.name)


def line_of_setting(policy: str, setting: str) -> int | None:
    """The line of the file that a setting (`default`, `arch x86_64`) begins on."""
    count = len(setting.split())
    words = [re.sub(r":(?= |$)", " ", line.split(" #")[0]).split()[:count] for line in _source(policy)]
    return words.index(setting.split()) + 1 if setting.split() in words else None


def line_of_call(policy: str, arch: Arch, name: str) -> int | None:
    """The line of the file that the entry of a call begins on."""
    section = "x86_64"
    for number, line in enumerate(_source(policy), 1):
        words = line.split("#")[0].split()
        section = words[1] if words[:1] == ["arch"] and len(words) > 1 else section
        if section == arch and re.match(rf"\s*(sys_)?{name}\s*:", line):
            return number
    return None


def _source(policy: str) -> list[str]:
    """The lines of the file; none for standard input, which has been read already."""
    return [] if policy == "-" else read_text(policy).splitlines()
