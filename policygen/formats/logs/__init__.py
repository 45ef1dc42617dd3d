"""Logs of what programs did (strace, the kernel's audit records, what enforce denied), and our own recordings -> recordings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from policygen.recording import recording_file

if TYPE_CHECKING:
    from typing import BinaryIO

    from policygen.formats import FormatOptions
    from policygen.recording.model import Recording


def recording(stream: BinaryIO, filename: str, options: FormatOptions) -> Recording:
    """Return a recording that was merged elsewhere.  Raises recording_file.RecordingError."""
    return recording_file.parse(stream.read(), filename)
