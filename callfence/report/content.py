"""The content of a report, gathered from a policy, its recording, and another policy."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from callfence.learning.sure import has_names_only
from policygen.completeness.confidence import confidence, unseen
from policygen.completeness.discovery import discovery
from policygen.completeness.executables import executables
from policygen.learning.beyond import unimplied
from policygen.recording.runs import Recording
from policygen.review.judgement import judge
from policygen.review.lint import lint
from policygen.review.provenance import provenance

if TYPE_CHECKING:
    from policygen.completeness.confidence import Confidence
    from policygen.completeness.discovery import Discovery
    from policygen.completeness.executables import Executable
    from policygen.language.document import Document
    from policygen.review.catalogue import Level
    from policygen.review.judgement import Judgement
    from policygen.review.lint import Finding
    from policygen.review.provenance import Provenance


@dataclass(frozen=True, slots=True)
class Against:
    """Another policy, and what the policy of the report answers differently."""

    name: str
    judgement: Judgement


@dataclass(frozen=True, slots=True)
class Report:
    name: str
    """The policy's file, as on the command line."""
    document: Document
    recording: Recording
    """Without rehearsed runs; empty without a recording."""
    recorded_in: str
    """The recording's file; '' without one."""
    findings: tuple[Finding, ...]
    """The most dangerous first, accepted ones included."""
    sure: Confidence
    discovery: Discovery
    programs: tuple[Executable, ...]
    rules: tuple[Provenance, ...]
    """In the policy's order."""
    against: Against | None

    @property
    def open_findings(self) -> tuple[Finding, ...]:
        """The findings without a reason that accepts them."""
        return tuple(finding for finding in self.findings if not finding.accepted)

    @property
    def gravest(self) -> Level | None:
        """None without findings."""
        return self.open_findings[0].level if self.open_findings else None


def gather(
    name: str, document: Document, recording: tuple[str, Recording] | None, other: tuple[str, Document] | None
) -> Report:
    """Raises algebra.TooComplexError for policies that cannot be compared."""
    recorded_in, seen = recording or ("", Recording())
    plain = seen.plain()
    names_only = has_names_only(document.policy)
    counted = Recording(plain.runs, unimplied(plain.observations, document.policy))
    return Report(
        name,
        document,
        plain,
        recorded_in,
        lint(document),
        replace(confidence(counted, names_only=names_only), unseen=unseen(plain)),
        discovery(counted, names_only=names_only),
        executables(plain),
        tuple(
            replace(one, observations=tuple(map(seen.in_plain_runs, one.observations)))
            for arch, entries in document.policy.entries.items()
            for number in entries
            for one in provenance(document, seen, arch, number)
        ),
        _against(document, *other) if other else None,
    )


def _against(document: Document, name: str, other: Document) -> Against:
    return Against(name, judge(other, document))


def calls_of(report: Report) -> list[int]:
    """How many calls each run's observations stand for."""
    seen = report.recording.observations
    return [sum(one.counts[column] for one in seen) for column in range(len(report.recording.runs))]
