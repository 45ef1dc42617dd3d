"""Logs of what programs did (strace, the kernel's audit records, what enforce denied), and our own recordings -> recordings."""

from __future__ import annotations

from typing import BinaryIO

from callfence.policygen.formats import FormatOptions
from callfence.policygen.recording import recording_file
from callfence.policygen.recording.model import Recording


def recording(stream: BinaryIO, filename: str, options: FormatOptions) -> Recording:
    """Return the recording in a file that was made elsewhere.  Raises RecordingError if it is none, or corrupt."""
    return recording_file.parse(stream.read(), filename)
