"""callfence's own recordings, to make a policy of a recording that was merged elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

from policygen.recording import recording_file

if TYPE_CHECKING:
    from policygen.formats import FormatOptions
    from policygen.recording.model import Recording


def record(data: bytes, filename: str, options: FormatOptions) -> Recording:
    """Raises recording_file.RecordingError."""
    return recording_file.parse(data, filename)
