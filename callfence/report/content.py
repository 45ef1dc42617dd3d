"""The content of a report, gathered from a policy, its recording, and another policy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from callfence.judging.differences import call_name
from callfence.learning.learned import has_names_only
from policygen.completeness.confidence import confidence, unseen
from policygen.completeness.discovery import discovery, executables
from policygen.learning.beyond import unimplied
from policygen.lint.findings import lint
from policygen.recording.model import Recording, joined
from policygen.review.companion import is_companion
from policygen.review.judgement import judge
from policygen.review.why import provenance
from policygen.values import frozen, replace
from tracer.abi import table

if TYPE_CHECKING:
    from policygen.completeness.confidence import Confidence
    from policygen.completeness.discovery import Discovery, Executable
    from policygen.language.document import Document
    from policygen.lint.catalogue import Level
    from policygen.lint.findings import Finding
    from policygen.review.judgement import Judgement
    from policygen.review.why import Provenance


@frozen
class Against:
    """Another policy, and what the policy of the report answers differently."""

    name: str
    judgement: Judgement

    def became_possible(self, finding: Finding) -> bool:
        """Whether a finding of the policy of the report is not one of this policy: it is told as a change."""
        first = {one.rule for one in self.judgement.headlines}
        return finding.rule in first or any(
            finding.rule in {row.id for row in one.dangers} and finding.name == call_name(one.difference)
            for one in self.judgement.told
        )


@frozen
class Report:
    name: str
    """The policy's file, as on the command line."""
    document: Document
    recording: Recording
    """Without rehearsed runs; empty without a recording."""
    recorded_in: str
    """The recording's file, or the companion's; '' without either."""
    is_bare: bool
    """Whether the rules' observations are of a companion: without counts, runs and all arguments."""
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

    def is_new(self, finding: Finding) -> bool:
        """Whether the other policy does not allow what was found."""
        return self.against is not None and self.against.became_possible(finding)

    def seen_behind(self, finding: Finding) -> dict[str, tuple[str, ...]]:
        """By executable, in order, that was seen to make the call that a finding is on: what its pointers pointed to."""
        found: dict[str, list[str]] = {}
        for one in self.rules:
            if (one.arch, table(one.arch).by_number[one.number].name) == (finding.arch, finding.name):
                for seen in one.observations:
                    found.setdefault(seen.executable, []).extend(seen.evidence)
        return {executable: joined(found[executable]) for executable in sorted(found)}

    @property
    def gravest(self) -> Level | None:
        """None without findings."""
        return self.open_findings[0].level if self.open_findings else None


def gather(
    name: str, document: Document, recording: tuple[str, Recording] | None, other: tuple[str, Document] | None
) -> Report:
    """Raises algebra.TooComplexError for policies that cannot be compared."""
    recorded_in, seen = recording or ("", Recording())
    is_bare = is_companion(seen)
    plain = Recording() if is_bare else seen.plain()
    names_only = has_names_only(document.policy)
    counted = Recording(plain.runs, unimplied(plain.observations, document.policy))
    return Report(
        name,
        document,
        plain,
        recorded_in,
        is_bare,
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
