"""The content of a report about a policy, its recording, and the difference from another policy; and the report as JSON."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Mapping

from callfence.judging.differences import call_name as name_in
from callfence.judging.formats import Lines, as_json as differences, as_object
from callfence.judging.sites import by_site, columns_of, started_as, such_as, widened
from callfence.learning.summary import call_name, estimated
from callfence.policygen.completeness import Estimate, run_next
from callfence.policygen.grants import is_grant_line
from callfence.policygen.language.document import Document
from callfence.policygen.lint.catalogue import Level
from callfence.policygen.lint.files import risen
from callfence.policygen.lint.findings import Finding, lint
from callfence.policygen.recording.model import Recording, joined
from callfence.policygen.review.companion import is_companion
from callfence.policygen.review.judgement import Headline, Judgement, judge
from callfence.policygen.review.why import Provenance, provenance
from callfence.policygen.values import frozen, replace
from callfence.shared.outputs import as_output
from callfence.shared.text import on_one_line, printable
from callfence.tracer.abi import name_of


@frozen
class Executable:
    """One executable that runs of a recording executed."""

    executable: str
    syscalls: Mapping[tuple[int, int], int]
    """Number of its calls by (AUDIT_ARCH_*, number), over all runs."""
    runs: tuple[int, ...]
    """Indexes of the runs in which the executable ran."""
    is_first: bool
    """Whether a run began with it."""
    starters: tuple[str, ...]
    """The executables that executed it, ascending; it can be among them.  Empty if the recording does not have them."""
    names: tuple[str, ...] = ()
    """The names by which runs began with it, if these are not its own (`sites.started_as`)."""

    @property
    def calls(self) -> int:
        """The number of calls that the executable made, over all runs; of incremental runs, of those that were new."""
        return sum(self.syscalls.values())


def executables(recording: Recording) -> tuple[Executable, ...]:
    """Return the executables of all runs, in ascending order of their paths."""
    syscalls: defaultdict[str, Counter[tuple[int, int]]] = defaultdict(Counter)
    runs: defaultdict[str, set[int]] = defaultdict(set)
    starters: defaultdict[str, set[str]] = defaultdict(set)
    for observation in recording.observations:
        syscalls[observation.executable][observation.arch, observation.number] += observation.calls
        runs[observation.executable].update(columns_of([observation]))
    for column, run in enumerate(recording.runs):
        for starter, executable in run.executed:
            runs[executable].add(column)
            starters[executable].add(starter)
    names = started_as(recording)
    return tuple(
        Executable(
            path,
            dict(sorted(syscalls[path].items())),
            tuple(sorted(columns)),
            "" in starters[path],
            tuple(sorted(starters[path] - {""})),
            names.get(path, ()),
        )
        for path, columns in sorted(runs.items())
    )


@frozen
class Against:
    """Another policy, and its differences from the policy of the report."""

    name: str
    judgement: Judgement
    risen: frozenset[tuple[str, str]]
    """The lines about files, ports and hosts that have a new risk, each with the risk's id."""

    def became_possible(self, finding: Finding) -> bool:
        """Return whether a finding of the report's policy comes from one of the differences, so that the other lacks it."""
        if is_grant_line(finding.name):
            return (finding.name, finding.rule) in self.risen
        return any(finding.rule == headline.rule for headline in self.judgement.headlines) or any(
            finding.rule in {danger.id for danger in ranked.dangers} and finding.name == name_in(ranked.difference)
            for ranked in self.judgement.relevant
        )


@frozen
class Report:
    name: str
    """The policy's file, as on the command line."""
    document: Document
    recording: Recording
    """The recording without rehearsed runs; empty if there is none."""
    recorded_in: str
    """The file of the recording or of the companion; '' if there is neither."""
    is_bare: bool
    """Whether the observations are from a companion, which has no counts and runs, and not all arguments."""
    findings: tuple[Finding, ...]
    """All findings, the most dangerous first; accepted ones are included."""
    estimate: Estimate
    programs: tuple[Executable, ...]
    rules: tuple[Provenance, ...]
    """The rules and what led to them, in the policy's order."""
    against: Against | None

    @property
    def open_findings(self) -> tuple[Finding, ...]:
        """The findings that no reason accepts."""
        return tuple(finding for finding in self.findings if not finding.accepted)

    def is_new(self, finding: Finding) -> bool:
        """Return whether a finding is new compared with the other policy; False if there is no other policy."""
        return self.against is not None and self.against.became_possible(finding)

    def made_by(self, finding: Finding) -> dict[str, tuple[str, ...]]:
        """Return the evidence (facts) of a finding's calls, by executable, in ascending order."""
        evidence: dict[str, list[str]] = {}
        for rule in self.rules:
            if (rule.arch, name_of(rule.arch, rule.number)) == (finding.arch, finding.name):
                for observation in rule.observations:
                    evidence.setdefault(observation.executable, []).extend(observation.evidence)
        return {executable: joined(evidence[executable]) for executable in sorted(evidence)}

    @property
    def changed_settings(self) -> tuple[Headline, ...]:
        """The settings that differ from the other policy, warnings at least, without those of findings and accepted ones."""
        judgement, rules = self.against.judgement if self.against else None, {finding.rule for finding in self.findings}
        return tuple(
            entry
            for entry in (judgement.headlines if judgement else ())
            if judgement and entry.arch is None and entry.level is not Level.NOTE
            if entry.rule not in rules and not judgement.reason(entry)
        )

    @property
    def gravest(self) -> Level | None:
        """The level of the most dangerous finding or changed setting that is not accepted; None if all are accepted."""
        levels = [*(finding.level for finding in self.open_findings), *(entry.level for entry in self.changed_settings)]
        return max(levels, key=lambda level: level.rank, default=None)


def gather(
    name: str, document: Document, recording: tuple[str, Recording] | None, other: tuple[str, Document] | None
) -> Report:
    """Return the report of the policy in `document`, whose file is `name`.  `recording` and `other` are the recording (or
    companion) and the policy to compare with, each with the name of its file.  Raises algebra.TooComplexError if the policies
    are too complex to compare."""
    recorded_in, whole = recording or ("", Recording())
    is_bare = is_companion(whole)
    plain = Recording() if is_bare else whole.plain()
    against = None
    if other:
        of_lines = risen(other[1].policy, document.policy).values()
        risky = frozenset((line, risk.id) for risks in of_lines for line, risk in risks)
        against = Against(other[0], judge(other[1], document), risky)
    return Report(
        name,
        document,
        plain,
        recorded_in,
        is_bare,
        against.judgement.findings if against else lint(document),
        estimated(plain, document.policy),
        executables(plain),
        tuple(
            replace(rule, observations=tuple(map(whole.in_plain_runs, rule.observations)))
            for arch, number, _ in document.policy.each()
            for rule in provenance(document, whole, arch, number)
        ),
        against,
    )


def calls_of(report: Report) -> list[int]:
    """Return the number of recorded calls of each run, in the order of the runs."""
    observations = report.recording.observations
    return [sum(observation.counts[column] for observation in observations) for column in range(len(report.recording.runs))]


def as_json(report: Report) -> str:
    """Return a report as the text of a JSON object.  Runs are numbered from 1; unprintable characters are escaped in names."""
    against, lines, estimate = report.against, Lines(report.name), report.estimate
    content: dict[str, object] = {
        "policy": report.name,
        "recording": (not report.is_bare and report.recorded_in) or None,
        "evidence": (report.is_bare and report.recorded_in) or None,
        "risk": report.gravest,
        "findings": [as_object(report.name, finding, lines) for finding in report.findings],
        "sure": {
            "runs": estimate.runs,
            "chance": estimate.chance,
            "at_most": estimate.at_most,
            "single": [call_name(*call) for call in estimate.single],
            "run_next": list(run_next(report.recording)),
        },
        "runs": _runs(report),
        "programs": _programs(report),
        "rules": [_rule(rule, bare=report.is_bare) for rule in report.rules],
        "files": [{"line": line, "grants": value} for line, value in report.document.policy.files.lines().items()],
        "against": {"policy": against.name, **json.loads(differences(against.judgement))} if against else None,
    }
    return as_output("report", content)


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
        }
        for run, calls in zip(report.recording.runs, calls_of(report), strict=True)
    ]


def _programs(report: Report) -> list[dict[str, object]]:
    return [
        {
            "executable": printable(program.executable),
            "names": [printable(name) for name in program.names],
            "first": program.is_first,
            "started_by": [printable(name) for name in program.starters],
            "runs": [column + 1 for column in program.runs],
            "syscalls": [{"audit_arch": audit, "number": number, "name": call_name(audit, number), "calls": count}
                         for (audit, number), count in program.syscalls.items()],
        }
        for program in report.programs
    ]  # fmt: skip


def _rule(rule: Provenance, *, bare: bool) -> dict[str, object]:
    return {
        "arch": rule.arch,
        "rule": on_one_line(rule.arch, rule.number, rule.rule),
        "origin": rule.origin.name.lower(),
        "note": rule.note or None,
        "runs": [] if bare else [column + 1 for column in columns_of(rule.observations)],
        "calls": None if bare else sum(observation.calls for observation in rule.observations),
        "wider_than_seen": widened(rule) or None,
        "sites": [
            {
                "executable": printable(executable),
                "site": printable(site),
                "calls": None if bare else sum(observation.calls for observation in observations),
                "example": such_as(observations, bare=bare)[0],
                "evidence": joined({fact for observation in observations for fact in observation.evidence}),
            }
            for (executable, site), observations in by_site(rule.observations)
        ],
    }
