"""systemd's journal as a source, read by journalctl(1)."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Sequence
from typing import Any, Final

from callfence.policygen.recording.log_records import MAX_LINE
from callfence.shared.inputs import print_error
from callfence.shipping.sources import Line
from callfence.tracer.errors import UserError

_COMMAND: Final = ("journalctl", "--quiet", "-t", "callfence", "-o", "json", "--output-fields=CALLFENCE_RECORD", "--all")
"""Without --all, a field of more than 4096 bytes is null."""
_CHUNK: Final = 1 << 20
_MAX_ENTRY: Final = 8 * MAX_LINE
"""The most bytes of an entry: journalctl prints a field that is not UTF-8 as a list of numbers.  What is longer is no record,
and any user can make an entry of 768 MiB."""
_PAUSE: Final = 5.0
"""Seconds before journalctl is started again."""


class Journal:
    """The entries of `enforce --log journal`, after a cursor."""

    name = "journal"

    def __init__(self, position: Any = None, *, is_once: bool = False) -> None:
        """`position`: the cursor of the last entry that was read; None for the oldest one that there is.  `is_once`: read up to
        the newest entry, and wait for no further ones.  Raises UserError if there is no journalctl."""
        self._cursor: str | None = position
        self._follows = not is_once
        self._data = b""
        """The beginning of an entry that is not complete."""
        self._is_long = False
        """Whether that is the rest of an entry that was too long."""
        self._process: subprocess.Popen[bytes] | None = None
        self._not_before = 0.0
        self._start()

    def read(self) -> Sequence[Line]:
        """Return the next entries.  Each has the cursor as its place."""
        if self._process is None:
            if not self._follows or time.monotonic() < self._not_before:
                return []
            self._start()
        entries: list[Line] = []
        while not entries:
            assert self._process is not None
            assert self._process.stdout is not None
            try:
                part = os.read(self._process.stdout.fileno(), _CHUNK)
            except BlockingIOError:
                break
            if not part:
                self._end()
                break
            *lines, self._data = (self._data + part).split(b"\n")
            if lines and self._is_long:
                lines[0], self._is_long = b"", False
            entries = [self._line(line) for line in lines if line]
            if self._is_long or len(self._data) > _MAX_ENTRY:
                entries += [] if self._is_long else [self._line(self._data)]
                self._data, self._is_long = b"", True
        return entries

    def position(self) -> Any:
        return self._cursor

    def close(self) -> None:
        """End journalctl."""
        if self._process:
            self._process.kill()
            self._process.communicate()

    def _start(self) -> None:
        after = [f"--after-cursor={self._cursor}"] if self._cursor else []
        following = ["--follow", "--no-tail"] if self._follows else []
        try:
            self._process = subprocess.Popen([*_COMMAND, *after, *following], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        except OSError as error:
            raise UserError(f"--journal needs journalctl, which cannot be started: {error.strerror}") from error
        assert self._process.stdout is not None
        os.set_blocking(self._process.stdout.fileno(), not self._follows)

    def _end(self) -> None:
        """Note that journalctl has ended, and when to start it again."""
        assert self._process is not None
        self._process.communicate()
        status, self._process, self._data = self._process.returncode, None, b""
        self._is_long = False
        if self._follows or status:
            again = f"it is started again in {_PAUSE:g} s" if self._follows else "the rest of the journal is not read"
            print_error(f"callfence ship: journalctl ended with status {status}: {again}")
            self._not_before = time.monotonic() + _PAUSE

    def _line(self, line: bytes) -> Line:
        """Return the record in an entry as a line; the entry itself, which is no record, if it has none."""
        try:
            entry = json.loads(line)
            self._cursor = str(entry["__CURSOR"])
            record = entry["CALLFENCE_RECORD"]
            text = bytes(record) if isinstance(record, list) else record.encode(errors="surrogateescape")
        except (ValueError, KeyError, TypeError, AttributeError):
            text = line
        return Line(text, f"journal, entry {self._cursor}")
