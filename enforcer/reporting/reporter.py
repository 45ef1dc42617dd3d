"""Where violations are told, and what the helper needs to tell them; made at start, used at the first violation."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from policygen.model import Policy


class Reporter:
    """How to answer and describe calls that fall to a policy's default."""

    __slots__ = ("audit", "descriptor", "file", "json", "policies")

    def __init__(
        self, descriptor: int, policies: Callable[[], Sequence[tuple[str, Policy]]], *, json: bool, audit: bool
    ) -> None:
        self.descriptor = descriptor
        """Open for writing: a log of our own (`json`), or the program's standard error.  -1 to tell nobody."""
        self.file = None if json else identity(descriptor)
        """Which file the program's standard error was; None if there is none, or a log."""
        self.policies = policies
        """The policies in the order of their filters, each with the file to add a line to.

        Called once, in the helper, at the first violation: from the root folder, so nothing may depend on the current
        one, and on what has been read before, since files may have changed."""
        self.json = json
        """One JSON object a line instead of text."""
        self.audit = audit
        """Let every reported call run."""

    def give_back(self) -> None:
        """Let go of the program's standard error when the program has ended.

        Else whoever reads from it would wait for us (`ssh host enforce daemon`).  What processes that it left behind
        do is then told on *their* standard error, if that is still the same file.
        """
        if not self.json and self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


def identity(descriptor: int) -> tuple[int, int] | None:
    """What tells one open file from another, or None if the descriptor is not open."""
    try:
        found = os.fstat(descriptor)
    except OSError:
        return None
    return found.st_dev, found.st_ino
