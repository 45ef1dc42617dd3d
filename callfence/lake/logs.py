"""Lines of logs that `enforce --log` wrote (docs/events.schema.json) as rows of the table `events`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from callfence.lake import keys
from callfence.lake.identity import Identity, policy_name
from callfence.lake.recordings import Row, identity_row
from callfence.policygen.recording.log_records import DENIED, KINDS, MAX_LINE
from callfence.policygen.versions import EVENTS, unknown

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_LEVELS: Final = ("danger", "warning", "note")


class BadLineError(ValueError):
    """The line is not a record of `enforce`, or has been cut."""


def is_log(beginning: bytes) -> bool:
    """Return whether a file that begins with these bytes is a log of `enforce`: any of the whole lines is a record."""
    return any(map(_is_record, beginning.split(b"\n")))


def _is_record(line: bytes) -> bool:
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(fields, dict) and fields.get("event") in KINDS


def rows(line: bytes, identity: Identity) -> Iterator[Row]:
    """Yield the row of a line; for a denied call one for each policy that denies it.  What `identity` lacks is taken from the
    record.  Raises BadLineError for a line that cannot be used."""
    if not line:
        raise BadLineError(f"a line of more than {MAX_LINE >> 10} KiB, which enforce does not write")
    try:
        fields = json.loads(line)
        if fields["version"] != EVENTS:
            raise BadLineError(unknown(fields["version"], EVENTS))
        if fields["event"] not in KINDS:
            raise BadLineError(f"event {fields['event']!r} is none of {', '.join(KINDS)}")
        yield from _rows(fields, identity, keys.text(line.decode().strip()))
    except BadLineError:
        raise
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError) as error:
        raise BadLineError("not a record of `enforce --log`, or cut") from error


def _rows(fields: dict[str, Any], identity: Identity, record: str) -> Iterator[Row]:
    event = fields["event"]
    policies = fields["policies"]
    first = policies[0] if policies else {"file": "", "sha256": ""}
    head = (event, _nanoseconds(fields["time"]), _text(fields["run"]))
    node, mode, lost = _text(fields["host"]), _text(fields.get("mode")), _count(fields.get("lost", 0))
    complete = fields.get("complete", True) is True
    if event != DENIED:
        whose = identity.over(Identity(fields["host"], "", policy_name(first["file"])))
        yield (*head, *identity_row(whose), node, _text(first["sha256"]), mode, *[""] * 7, 0, lost, complete, record)
        return
    call = (_text(fields["call"]), _text(fields["executable"]), _text(fields["site"]), _text(fields["phase"]))
    digests = {policy["file"]: policy["sha256"] for policy in policies}
    for allow in fields["allow"] or [{"file": first["file"], "line": "", "risk": None}]:
        whose = identity.over(Identity(fields["host"], "", policy_name(allow["file"])))
        lacking = "; ".join((*fields["ungranted"], *fields.get("ungrantable", ())))
        line = allow["line"] or lacking or (fields["call"] or "").partition("(")[0]
        risk = allow["risk"]["level"] if allow["risk"] else ""
        if risk not in ("", *_LEVELS):
            raise BadLineError(f"the risk {risk!r} is unknown")
        what = (_text(digests.get(allow["file"], "")), mode, _text(fields["verdict"]), _text(line), risk)
        yield (*head, *identity_row(whose), node, *what, *call, _count(fields["count"]), lost, complete, record)


def _text(value: str | None) -> str:
    if value is not None and type(value) is not str:
        raise BadLineError(f"{value!r} is not text")
    return keys.text(value or "")


def _count(value: int) -> int:
    if type(value) is not int or not 0 <= value < 1 << 64:
        raise BadLineError(f"{value!r} is not a count")
    return value


def _nanoseconds(time: str) -> int:
    return _count((datetime.fromisoformat(time) - _EPOCH) // timedelta(microseconds=1) * 1000)
