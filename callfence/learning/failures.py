"""What `learn` says when it fails."""

from __future__ import annotations

from enforcer.errors import EnforceError
from tracer.errors import CallfenceError


def explained(error: Exception) -> str:
    """What to tell the user of an exception."""
    from policygen.filter.compile import CompileError
    from policygen.filter.library import LibseccompError
    from policygen.language.document import PolicyError
    from policygen.learning.replay import ReplayError
    from policygen.recording.recording_file import RecordingError

    if isinstance(error, OSError):
        what = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        return f"{what}; nothing was changed there"
    expected = (CallfenceError, PolicyError, RecordingError, CompileError, LibseccompError, EnforceError, ReplayError)
    if isinstance(error, expected):
        return str(error)
    import traceback

    return f"internal error, please report it:\n{''.join(traceback.format_exception(error))}"
