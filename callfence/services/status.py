"""What `callfence service status` says: each unit's mode, state and policy, and what its log has since the last review."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from callfence.policygen.versions import EVENTS
from callfence.services import units
from callfence.shared.text import plural, printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from callfence.services.drop_ins import Mode
    from callfence.services.units import Unit

_DIGITS = 12
"""Digits of a digest that are shown to people."""


def described(unit: Unit, mode: Mode | None, policy: Path, logs: Sequence[Path]) -> dict[str, Any]:
    """Return a unit's status as a JSON object: `unit`, `mode`, `active`, `policy` with its `digest`, `runs_policy` (the digest
    of the policy with which it was started last), and of the log: `since`, `denied` (calls), `calls` (the different ones) and
    `unreadable` (lines).  What is not known is None.  Raises SystemdError, OSError."""
    digest = hashlib.sha256(policy.read_bytes()).hexdigest() if policy.exists() else None
    start: Mapping[str, Any] = {}
    since = None
    denied: dict[tuple[str, str, str], int] = {}
    unreadable = 0
    for record in _records(logs):
        if record is None or record.get("version") != EVENTS:
            unreadable += 1
        elif record.get("event") == "start":
            start, since = record, since or record.get("time")
        elif record.get("event") == "denied":
            denied[str(record.get("call")), str(record.get("executable")), str(record.get("run"))] = int(record.get("count", 1))
    running = [entry.get("sha256") for entry in start.get("policies", ()) if entry.get("file") == str(policy)]
    return {
        "unit": unit.name,
        "mode": mode,
        "active": units.state(unit.name).active,
        "policy": str(policy) if digest else None,
        "digest": digest,
        "since": since,
        "runs_policy": running[0] if running else None,
        "denied": sum(denied.values()),
        "calls": list(dict.fromkeys(call for call, _, _ in denied)),
        "unreadable": unreadable,
    }


def has_violations(logs: Sequence[Path]) -> bool:
    """Return whether the logs have a record of something that the policy does not allow.  Raises OSError."""
    return any(record is not None and record.get("event") == "denied" for record in _records(logs))


def lines(found: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the lines that people read."""
    return [line for status in found for line in _lines(status)]


def _lines(status: Mapping[str, Any]) -> Iterator[str]:
    yield f"{status['unit']}: {status['mode'] or 'not under callfence'}, {status['active']}"
    if status["policy"]:
        yield f"  policy  {status['policy']} {status['digest'][:_DIGITS]}"
        if status["runs_policy"] and status["runs_policy"] != status["digest"] and status["mode"] in ("audit", "enforce"):
            yield f"  RUNS    {status['runs_policy'][:_DIGITS]}: the file was changed since; restart the unit"
    if status["since"] or status["calls"]:
        verb = "would be denied" if status["mode"] == "audit" else "denied"
        kinds = plural(len(status["calls"]), "kind")
        yield f"  {'log':7} since {status['since']}: {plural(status['denied'], 'call')} {verb}, of {kinds}"
        if status["calls"]:
            yield f"  {'last':7} {printable(status['calls'][-1])}"
    if status["unreadable"]:
        yield f"  {'log':7} {plural(status['unreadable'], 'line')} cannot be read"


def _records(logs: Iterable[Path]) -> Iterator[dict[str, Any] | None]:
    """Yield the records of logs; None for a line that is not one."""
    for log in logs:
        with open(log, encoding="utf-8", errors="replace") as file:
            for line in file:
                try:
                    record = json.loads(line)
                except ValueError:
                    record = None
                yield record if isinstance(record, dict) else None
