"""The records of a log (`enforce --log`): JSON objects that docs/events.schema.json describes, or entries of systemd's journal.

Each start of `enforce --log` uses this module, so it imports neither json nor re, which take 5 ms.
"""

from __future__ import annotations

import os
import time
from _json import encode_basestring_ascii

from callfence.enforcer.reporting.destination import JOURNAL, Destination, has_room
from callfence.enforcer.reporting.identity import identity
from callfence.policygen.recording.log_records import ANSWERED, DENIED, END, MESSAGE, REFUSED, START
from callfence.policygen.versions import EVENTS
from callfence.tracer import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Any


_PRIORITIES = {START: 6, DENIED: 4, ANSWERED: 5, REFUSED: 3, END: 6}  # syslog(3)
_LEVELS = {"note": 6, "warning": 4}
_WAITED = 0.5
"""How many seconds the start of a program waits at most for the reader of its log."""


class Log:
    """A destination of records, and what all records of one start have in common."""

    __slots__ = ("_common", "_sequence", "destination", "lost", "notes", "start")

    def __init__(
        self,
        destination: Destination,
        policies: Iterable[tuple[str, bytes]],
        process: int | str = "self",
        environment: Iterable[bytes] = (),
    ) -> None:
        """`policies`: name and content of each file that the policies were read from.  `process`: the id of the process that
        becomes the program, if not this one.  `environment`: the program's."""
        self.destination = destination
        files = [{"file": name, "sha256": _digest(content)} for name, content in policies]
        where = {"host": os.uname().nodename, **identity(process, environment)}
        self._common = _members({**where, "run": os.urandom(4).hex(), "policies": files})
        self._sequence = 0
        self.start: dict[str, Any] = {}
        """The fields of the record of the start, with its time."""
        self.notes: list[tuple[str, str]] = []
        """Level and text of the messages about the start."""
        self.lost = 0
        """How many records could not be written before the helper wrote them."""

    def opening(self) -> list[bytes]:
        """Return the records of the start and the messages about it."""
        messages = [self.record(MESSAGE, {"level": level, "message": text}) for level, text in self.notes]
        return [self.record(START, {**self.start, "command": shown(self.start["command"])}), *messages]

    def refusal(self, reason: str, status: int) -> bytes:
        """Return the record of a program that was not run, and the exit status of `enforce`."""
        return self.record(REFUSED, {"message": reason, "status": status, "command": shown(self.start["command"])})

    def record(self, event: str, fields: Mapping[str, Any]) -> bytes:
        """Return a record as it is written to the destination.  It has the next number of its run."""
        self._sequence += 1
        when = fields.get("time") or now()
        rest = _members({name: value for name, value in fields.items() if name != "time"})
        head = f'"version": {EVENTS}, "event": "{event}", "time": "{when}", "sequence": {self._sequence}'
        line = f"{{{head}, {self._common}, {rest}}}"
        if self.destination.form == JOURNAL:
            return _entry(event, fields, line)
        return f"{line}\n".encode()

    def write(self, records: Sequence[bytes]) -> None:
        """Write records at once, before or without a helper, and count in `lost` those that could not be written."""
        for record in records:
            try:
                has_room(self.destination.descriptor, _WAITED)
                is_written = os.write(self.destination.descriptor, record) == len(record)
            except OSError:
                is_written = False
            self.lost += not is_written


def now() -> str:
    """Return the current time in UTC, in ISO 8601 with milliseconds."""
    seconds, nanoseconds = divmod(time.time_ns(), 10**9)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{nanoseconds // 10**6:03}+00:00"


_SHOWN = 300
"""The most characters of a command line that are written."""
_NAMES = ("pass", "secret", "token", "key", "credential", "auth")
"""Parts of the names of options whose value is a secret."""


def shown(command: Sequence[str]) -> list[str]:
    """Return a command line without secrets; of one longer than 300 characters the end, with `...` as the last word.  A process
    that the policy's files confine by now, and that can load no module, returns the program alone."""
    try:
        from callfence.policygen.evidence.words import SECRET, masked
    except (ImportError, OSError):
        return [*command[:1], "..."]

    words, length, is_secret = list[str](), 0, False
    for word in command:
        plain = SECRET if is_secret and not word.startswith("-") else masked(word)
        is_secret = word.startswith("-") and "=" not in word and any(name in word.lower() for name in _NAMES)
        length += len(plain) + 1
        if length > _SHOWN:
            return [*words, plain[: _SHOWN - length], "..."] if not words else [*words, "..."]
        words.append(plain)
    return words


def status_fields(status: int | None) -> dict[str, int | str | None]:
    """Return the fields about the end of a process, from its wait status; null if that is not known."""
    if status is None:
        return {"status": None, "signal": None}
    if status & 0x7F:  # wait(2)
        from callfence.tracer.abi import NATIVE, constants

        return {"status": None, "signal": constants.family("signal", NATIVE).format(status & 0x7F)}
    return {"status": status >> 8 & 0xFF, "signal": None}


def encoded(value: Any) -> str:
    """Return a value as JSON: None, a boolean, an integer, a text, or a list or mapping of such."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str):
        return encode_basestring_ascii(value)
    if isinstance(value, dict):
        return f"{{{_members(value)}}}"
    return f"[{', '.join(map(encoded, value))}]"


def _members(fields: Mapping[str, Any]) -> str:
    return ", ".join(f"{encode_basestring_ascii(name)}: {encoded(value)}" for name, value in fields.items())


def _digest(content: bytes) -> str:
    try:
        from _sha2 import sha256  # type: ignore[import-not-found]  # Python 3.12; without OpenSSL, which takes 3 ms
    except ImportError:
        try:
            from _sha256 import sha256  # type: ignore[import-not-found]
        except ImportError:
            from hashlib import sha256
    return str(sha256(content).hexdigest())


# systemd's journal


def _entry(event: str, fields: Mapping[str, Any], line: str) -> bytes:
    """Return a record as an entry of the journal, with the whole record in the field CALLFENCE_RECORD."""
    what = fields.get("message") or fields.get("call") or ", ".join(fields.get("ungranted") or ())
    if event == END:
        status, signal = fields["status"], fields["signal"]
        what = f"{signal or f'exit status {status}'}, {fields['denied']} denied, {fields['lost']} records lost"
    texts = {
        "MESSAGE": f"{event}: {what or ' '.join(fields.get('command') or ())}",
        "PRIORITY": str(_PRIORITIES.get(event) or _LEVELS.get(fields.get("level", ""), 4)),
        "SYSLOG_IDENTIFIER": "callfence",
        "CALLFENCE_EVENT": event,
        "CALLFENCE_RECORD": line,
    }
    for name, value in fields.items():
        if name not in ("message", "time", "event") and value is not None and not isinstance(value, (list, dict)):
            texts[f"CALLFENCE_{name.upper()}"] = value if isinstance(value, str) else encoded(value)
    return b"".join(_field(name, text.encode(errors="surrogateescape")) for name, text in texts.items())


def _field(name: str, value: bytes) -> bytes:
    if b"\n" in value:
        return b"%s\n%s%s\n" % (name.encode(), len(value).to_bytes(8, "little"), value)
    return b"%s=%s\n" % (name.encode(), value)
