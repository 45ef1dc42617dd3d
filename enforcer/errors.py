"""What can go wrong before the program runs, and the exit status each kind has (env(1), POSIX XCU 2.8.2)."""

from __future__ import annotations

FAILED = 125
"""Ours: the program was not run, or not allowed to begin."""
NOT_EXECUTABLE = 126
NOT_FOUND = 127


class EnforceError(Exception):
    """The program was not run.  `str()` is one line for the user, without the command's name."""

    def __init__(self, message: str, status: int = FAILED) -> None:
        super().__init__(message)
        self.status = status
