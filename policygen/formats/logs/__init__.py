"""Logs of what programs did (strace, the kernel's audit records, what enforce denied), and our own recordings -> recordings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO, Final

from callfence.policygen.formats import FormatOptions, ImportFormatError
from callfence.policygen.recording import recording_file
from callfence.policygen.recording.model import Recording

MAX_LINE: Final = 64 << 20
"""The most bytes of a line: a sparse file takes no disk, but memory."""


def lines(stream: BinaryIO, filename: str) -> Iterator[tuple[int, bytes]]:
    """Yield the lines of a log with their numbers, from 1.  Raises ImportFormatError for one that is too long."""
    number = 0
    while line := stream.readline(MAX_LINE + 1):
        number += 1
        if len(line) > MAX_LINE:
            raise ImportFormatError(f"{filename}:{number}: a line of more than {MAX_LINE >> 20} MiB, which no log has")
        yield number, line


def recording(stream: BinaryIO, filename: str, options: FormatOptions) -> Recording:
    """Return the recording in a file that was made elsewhere.  Raises RecordingError if it is none, or corrupt."""
    return recording_file.parse(stream.read(), filename)
