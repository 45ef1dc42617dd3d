"""A line of a log as a record, with what of it is counted: its service, the policy and the rule of a denial."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from hashlib import blake2b
from typing import Any, Final

from callfence.policygen.grants import is_grant_line
from callfence.policygen.recording.log_records import ANSWERED, DENIED, END, KINDS, MAX_LINE, MESSAGE, REFUSED, START
from callfence.policygen.values import frozen
from callfence.policygen.versions import EVENTS, unknown
from callfence.tracer.abi import Arch, table
from callfence.tracer.errors import UserError

_MAX_COUNT: Final = 1 << 53
"""Counts are below this, up to which a double has each integer exactly."""
_LATEST: Final = (1 << 63) / 1e9
"""Times are from 0 to this, in seconds since 1970: OTLP has nanoseconds without a sign."""
_MAX_NAME: Final = 255
_MAX_DEPTH: Final = 8
"""The most lists and objects within each other: twice as many as records have, and few enough to be written as JSON again."""
_FIELDS: Final[dict[str, dict[str, type | tuple[object, ...]]]] = {
    START: {"mode": ("enforce", "audit")},
    DENIED: {"verdict": ("denied", "audited"), "count": int, "ungranted": list, "allow": list},
    ANSWERED: {"answer": ("once", "run", "always", "no", "kill")},
    MESSAGE: {"level": ("note", "warning"), "message": str},
    REFUSED: {"status": (125, 126, 127), "message": str},
    END: {"denied": int, "lost": int, "complete": bool},
}
"""The fields that are read, by event: the type, or the values that there are."""
_COMMON: Final = {"host": str, "run": str, "time": str, "policies": list}
_KIND_IGNORES: Final = ("time", "sequence", "count", "evidence")
"""Fields in which the records of one kind of denial differ (`enforcer.reporting.report.Repeated`)."""


class BadLineError(UserError):
    """A line is no record."""


@frozen
class Record:
    """A record of version 1, with the fields that are read checked."""

    fields: Mapping[str, Any]
    """As docs/events.schema.json has them."""
    where: str
    """The log, and the number of the line: `app.log:12`."""
    is_received: bool
    """Whether it came by the shipper's socket or standard input."""

    @property
    def event(self) -> str:
        return str(self.fields["event"])

    @property
    def run(self) -> str:
        """The run, which is one of a host."""
        return f"{self.fields['host']}/{self.fields['run']}"

    @property
    def sequence(self) -> int:
        """The number of the record in its run; 0 if it has none."""
        return int(self.fields.get("sequence") or 0)

    @property
    def uid(self) -> str:
        """A name of this record that no other one has; "" if it has no number."""
        return f"{self.run}/{self.sequence}" if self.sequence else ""

    @property
    def time(self) -> float:
        """Seconds since 1970."""
        return datetime.fromisoformat(self.fields["time"]).timestamp()

    @property
    def service(self) -> str:
        """The systemd service, an instance without its name (`app@.service`), of which there can be any number; "" for none."""
        unit = self.fields.get("unit") or ""
        if not unit.endswith(".service"):
            return ""
        name, is_instance, _ = unit.partition("@")
        return f"{name}@.service" if is_instance else unit

    @property
    def policies(self) -> dict[str, str]:
        """The digest of each file of the policies."""
        return {policy["file"]: policy["sha256"] for policy in self.fields["policies"]}

    @property
    def policy(self) -> str:
        """The policy that a record is about: the first one that denies the call, else the first one; "" if there is none."""
        allow = self.fields.get("allow") or self.fields["policies"]
        return str(allow[0]["file"]) if allow else ""

    @property
    def rule(self) -> str:
        """What a denial lacks, without what a program could vary at will: the name of a call, a right to files (`path: read`),
        a port or a host (`tcp connect example.org: 443`), several with commas."""
        if lines := [*self.fields["ungranted"], *self.fields.get("ungrantable", ())]:
            return ", ".join(sorted({*map(_subject, lines)}))
        name = str(self.fields.get("call")).partition("(")[0]
        arch = next((arch for arch in Arch if arch == self.fields.get("arch")), None)
        return name if arch and name in table(arch).by_name else "unknown calls"

    @property
    def kind(self) -> str:
        """The same for all records that count the same denials."""
        text = json.dumps([(name, self.fields[name]) for name in sorted(self.fields) if name not in _KIND_IGNORES])
        return blake2b(text.encode(), digest_size=8).hexdigest()


def parsed(line: bytes, where: str, *, is_received: bool = False) -> Record:
    """Return the record in a line.  Raises BadLineError, with the line's position."""
    try:
        if len(line) > MAX_LINE:
            raise ValueError(f"it has more than {MAX_LINE >> 10} KiB")
        return Record(_checked(json.loads(line, parse_constant=_no_number)), where, is_received)
    except (ValueError, RecursionError) as error:  # a UnicodeDecodeError and a JSONDecodeError are ValueErrors
        raise BadLineError(f"{where}: not a record of enforce: {error}") from error


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is no JSON")


def _checked(fields: Any) -> dict[str, Any]:
    """Return the fields of a record if those that are read have their types.  Raises ValueError."""
    if not isinstance(fields, dict) or "version" not in fields:
        raise ValueError("it is not an object with a version")
    _check_depth(fields)
    if fields["version"] != EVENTS:
        raise ValueError(unknown(fields["version"], EVENTS))
    event = fields.get("event")
    if event not in KINDS:
        raise ValueError(f"event {event!r} is none of {', '.join(KINDS)}")
    for name, kind in {**_COMMON, **_FIELDS[event]}.items():
        value: Any = fields.get(name)
        is_valid = value in kind if isinstance(kind, tuple) else type(value) is kind
        if not is_valid or (kind is int and not 0 <= value < _MAX_COUNT):
            raise ValueError(f"{name} is {repr(value)[:40]}")
    if max(len(fields["host"]), len(fields["run"])) > _MAX_NAME:
        raise ValueError("host or run is too long")
    sequence = fields.get("sequence", 1)
    if type(sequence) is not int or not 0 < sequence < _MAX_COUNT or not isinstance(fields.get("unit") or "", str):
        raise ValueError("sequence or unit has another type")
    time = datetime.fromisoformat(fields["time"])
    if time.tzinfo is None or not 0 <= time.timestamp() < _LATEST:
        raise ValueError(f"time {repr(fields['time'])[:40]} has no zone, or is before 1970 or after 2261")
    _check_members(fields["policies"], ("file", "sha256"))
    _check_members(fields.get("allow", []), ("file", "line"))
    for name in ("ungranted", "ungrantable"):
        texts = fields.get(name, [])
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise ValueError(f"{name} is not a list of texts")
    return fields


def _check_depth(fields: dict[str, Any]) -> None:
    level: list[Any] = [fields]
    for _ in range(_MAX_DEPTH):
        values = [value for item in level for value in (item.values() if isinstance(item, dict) else item)]
        level = [value for value in values if isinstance(value, (dict, list))]
    if level:
        raise ValueError(f"it has more than {_MAX_DEPTH} lists and objects within each other")


def _check_members(items: Any, names: tuple[str, ...]) -> None:
    if not isinstance(items, list):
        raise ValueError(f"{repr(items)[:40]} is not a list")
    for item in items:
        if not isinstance(item, dict) or not all(isinstance(item.get(name), str) for name in names):
            raise ValueError(f"{repr(item)[:40]} has no {' or no '.join(names)}")


def _subject(line: str) -> str:
    """Return a line about files, ports and hosts without paths, of which there can be any number."""
    if not is_grant_line(line):
        return "no line would grant it"
    if line.startswith("path "):
        return f"path: {line.rpartition(': ')[2]}"
    return "unix connect" if line.startswith("unix ") else line
