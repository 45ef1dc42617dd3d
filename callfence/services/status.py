"""What `callfence service status` says: each unit's mode, state and policy, and what its log has since the last review.

The unit's user may have written anything into the log: what is no record is counted, and what cannot be read is the unit's
`problem`.
"""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from callfence.policygen.formats.logs.denials import MAX_DISTINCT
from callfence.policygen.recording.log_records import DENIED, START, lines as lines_of
from callfence.services import units
from callfence.services.drop_ins import Mode
from callfence.services.logs import MAX_SIZE, read
from callfence.services.units import Unit
from callfence.shared.inputs import message
from callfence.shared.text import plural, printable
from callfence.shipping.records import BadLineError, Record, parsed
from callfence.tracer.errors import CallfenceError

_DIGITS: Final = 12
"""Digits of a digest that are shown to people."""
_MAX_CALLS: Final = 1000
"""The most different calls of a unit that are listed, and the most characters of each."""


def described(unit: Unit, mode: Mode | None, policy: Path, logs: Callable[[], Sequence[Path]]) -> dict[str, Any]:
    """Return a unit's status as a JSON object: `unit`, `mode`, `active`, `policy` with its `digest`, `runs_policy` (the digest
    of the policy with which it was started last), and of the log: `since`, `denied` (calls), `calls` (the different ones),
    `unreadable` (lines), and `problem`, why the rest of it was not read, or why the unit cannot start.  What is not known is
    None.  Raises SystemdError, OSError.

    `logs` returns the files of the log, and may raise UserError or OSError."""
    digest = hashlib.sha256(policy.read_bytes()).hexdigest() if policy.exists() else None
    log = _Log()
    state = units.state(unit.name)
    problem = (unit.problem if mode else "") or None
    if mode == "enforce" and state.runs_replaced_program:
        problem = "its program was replaced since it was started, and may not execute the new one: restart the unit"
    try:
        for record in _records(logs()):
            log.add(record)
    except (CallfenceError, OSError) as error:
        problem = message("service", error).removeprefix("callfence service: ")
    return {
        "unit": unit.name,
        "mode": mode,
        "active": state.active,
        "policy": str(policy) if digest else None,
        "digest": digest,
        "since": log.since,
        "runs_policy": log.policies.get(str(policy)),
        "denied": sum(log.denied.values()),
        "calls": [*log.calls],
        "unreadable": log.unreadable,
        "problem": problem,
    }


class _Log:
    """What the records of a unit's log say."""

    def __init__(self) -> None:
        self.since: str | None = None
        self.policies: Mapping[str, str] = {}
        """The digests of the policies with which the unit was started last."""
        self.denied: dict[str, int] = {}
        """The last count of each kind of denial."""
        self.calls: dict[str, None] = {}
        self.unreadable = 0

    def add(self, record: Record | None) -> None:
        if record is None:
            self.unreadable += 1
        elif record.event == START:
            self.policies, self.since = record.policies, self.since or record.fields["time"]
        elif record.event == DENIED:
            self.denied[record.kind] = record.fields["count"]
            if len(self.denied) > MAX_DISTINCT:
                raise CallfenceError(f"more than {MAX_DISTINCT:,} kinds of denials: the rest of the log was not read")
            if len(self.calls) < _MAX_CALLS:
                self.calls[str(record.fields.get("call"))[:_MAX_CALLS]] = None


def has_violations(logs: Sequence[Path]) -> bool:
    """Return whether the logs have a record of something that the policy does not allow.  Raises OSError."""
    return any(record is not None and record.event == DENIED for record in _records(logs))


def lines(found: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the lines that people read."""
    return [printable(line) for status in found for line in _lines(status)]


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
            yield f"  {'last':7} {status['calls'][-1]}"
    if status["unreadable"]:
        yield f"  {'log':7} {plural(status['unreadable'], 'line')} cannot be read"
    if status["problem"]:
        yield f"  PROBLEM {status['problem']}"


def _records(logs: Iterable[Path]) -> Iterator[Record | None]:
    """Yield the records of logs; None for a line that is not one.  Raises OSError, also for a log of more than MAX_SIZE."""
    for log in logs:
        with read(log) as file:
            for number, line in lines_of(file, MAX_SIZE):
                try:
                    yield parsed(line, f"{log}:{number}")
                except BadLineError:
                    yield None
            if file.read(1):
                raise OSError(errno.EFBIG, f"more than {MAX_SIZE >> 30} GiB, of which the rest was not read", str(log))
