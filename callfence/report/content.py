"""The content of a report, gathered from a policy, its recording, and another policy; and as JSON."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from callfence.judging.differences import call_name as name_in
from callfence.judging.formats import Lines, as_json as differences, as_object
from callfence.judging.sites import by_site, columns_of, such_as, widened
from callfence.learning.summary import call_name, has_names_only, name_of, newest
from callfence.shared.text import on_one_line, printable
from policygen.completeness.confidence import confidence, run_next, seen_only, unseen
from policygen.completeness.discovery import discovery, executables
from policygen.learning.beyond import unimplied
from policygen.lint.findings import lint
from policygen.recording.model import Recording, joined
from policygen.review.companion import is_companion
from policygen.review.judgement import judge
from policygen.review.why import provenance
from policygen.values import as_dict, frozen, replace
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
            finding.rule in {row.id for row in one.dangers} and finding.name == name_in(one.difference)
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
        Against(other[0], judge(other[1], document)) if other else None,
    )


def calls_of(report: Report) -> list[int]:
    """How many calls each run's observations stand for."""
    seen = report.recording.observations
    return [sum(one.counts[column] for one in seen) for column in range(len(report.recording.runs))]


def as_json(report: Report) -> str:
    """One object.  Runs are numbered from 1; names of files are printable, as in the page."""
    against, lines = report.against, Lines(report.name)
    found: dict[str, object] = {
        "policy": report.name,
        "recording": (not report.is_bare and report.recorded_in) or None,
        "evidence": (report.is_bare and report.recorded_in) or None,
        "risk": report.gravest,
        "findings": [as_object(report.name, finding, lines) for finding in report.findings],
        "sure": _sure(report),
        "runs": _runs(report),
        "programs": _programs(report),
        "rules": [_rule(one, bare=report.is_bare) for one in report.rules],
        "files": [{"line": line, "grants": value} for line, value in report.document.policy.files.lines().items()],
        "against": None,
    }
    if against is not None:
        found["against"] = {"policy": against.name, **json.loads(differences(against.judgement))}
    return json.dumps(found, indent=2)


def _sure(report: Report) -> dict[str, object]:
    sure, estimate = report.sure, report.discovery.estimate
    known = [step.alone for step in report.discovery.steps if step.alone is not None]
    return {
        "runs": sure.runs,
        "chance": sure.chance,
        "at_most": sure.at_most,
        "left_out": {"runs": len(known), "missed": sum(known)},
        "good_turing": as_dict(estimate) if estimate else None,
        "last_new": sure.last_new.id if sure.last_new else None,
        "single": [call_name(*call) for call in sure.single],
        "growing": [
            {
                "arch": one.arch,
                "name": name_of(one),
                "argument": one.argument.name,
                "first": one.first,
                "total": one.total,
                "newest": newest(one),
                "run": one.column + 1,
            }
            for one in report.discovery.growing
        ],
        "not_exercised": list(sure.unseen),
        "seen_only": [printable(common) for common in seen_only(report.recording.runs)],
        "run_next": list(run_next(report.recording)),
    }


def _runs(report: Report) -> list[dict[str, object]]:
    return [
        {
            "id": run.id,
            "started": run.started,
            "command": [printable(word) for word in run.command],
            "status": run.status,
            "complete": run.complete,
            "warm": run.warm,
            "gaps": [printable(gap) for gap in run.gaps],
            "calls": calls,
            **as_dict(step),
        }
        for run, step, calls in zip(report.recording.runs, report.discovery.steps, calls_of(report), strict=True)
    ]


def _programs(report: Report) -> list[dict[str, object]]:
    return [
        {
            "executable": printable(one.executable),
            "first": one.is_first,
            "started_by": [printable(name) for name in one.starters],
            "runs": [column + 1 for column in one.runs],
            "syscalls": [{"audit_arch": audit, "number": number, "name": call_name(audit, number), "calls": count}
                         for (audit, number), count in one.syscalls.items()],
        }
        for one in report.programs
    ]


def _rule(one: Provenance, *, bare: bool) -> dict[str, object]:
    return {
        "arch": one.arch,
        "rule": on_one_line(one.arch, one.number, one.rule),
        "origin": one.origin.name.lower(),
        "note": one.note or None,
        "runs": [] if bare else [column + 1 for column in columns_of(one.observations)],
        "calls": None if bare else sum(seen.calls for seen in one.observations),
        "wider_than_seen": widened(one) or None,
        "sites": [
            {
                "executable": printable(executable),
                "site": printable(site),
                "calls": None if bare else sum(seen.calls for seen in those),
                "example": such_as(those, bare=bare)[0],
                "evidence": joined({fact for seen in those for fact in seen.evidence}),
            }
            for (executable, site), those in by_site(one.observations)
        ],
    }
