"""What `learn` says when it fails."""

from __future__ import annotations

from tracer.errors import CallfenceError, InternalError


def explained(error: Exception) -> str:
    """What to tell the user of an exception."""
    if isinstance(error, OSError):
        what = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        return f"{what}; nothing was changed there"
    if isinstance(error, CallfenceError):
        return f"{'internal error, please report it: ' * isinstance(error, InternalError)}{error}"
    import traceback

    return f"internal error, please report it:\n{''.join(traceback.format_exception(error))}"
