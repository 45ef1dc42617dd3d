"""A report as JSON."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from callfence.judging.diff_formats import as_json as differences
from callfence.judging.findings import Lines, as_object
from callfence.judging.sites import by_site, columns_of, such_as, widened
from callfence.learning.learned import call_name, name_of, newest
from callfence.report.content import calls_of
from callfence.shared.text import on_one_line, printable
from policygen.completeness.confidence import run_next, seen_only
from policygen.recording.model import joined
from policygen.values import as_dict

if TYPE_CHECKING:
    from callfence.report.content import Report
    from policygen.review.why import Provenance


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
