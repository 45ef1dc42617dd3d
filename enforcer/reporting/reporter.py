"""Where violations are reported, and what describing them takes: made at the start, used at the first violation."""

from __future__ import annotations

import errno
import os
import select
import stat

from enforcer.errors import EnforceError
from tracer import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from enforcer.files.granted import Reach
    from policygen.model import Policy


APPENDING = os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
"""How a log is opened.  O_NONBLOCK: neither opening nor writing a FIFO waits for its reader."""


class Reporter:
    """How to answer and describe calls that a policy's default answers."""

    __slots__ = (
        "audit", "colour", "descriptor", "evidence", "file", "folder", "json", "keeps_signals", "later", "listens", "name",
        "policies", "reach", "stderr",
    )  # fmt: skip

    def __init__(
        self,
        descriptor: int,
        policies: Callable[[], Sequence[tuple[str, Policy]]],
        *,
        json: bool,
        audit: bool,
        evidence: bool = True,
        stderr: int = -1,
        folder: int = -1,
        name: str = "",
        reach: Reach | None = None,
        keeps_signals: bool = False,
        listens: bool = False,
        later: bytes = b"",
    ) -> None:
        self.descriptor = descriptor
        """Open for writing: a log of our own (`json`), or the program's standard error.  -1 for no reports."""
        self.stderr = stderr if json else -1
        """The program's standard error, beside a log; -1 if there is none, or if it is `descriptor`."""
        self.file = None if json else identity(descriptor)
        """The identity of the program's standard error; None if there is none, or a log."""
        self.folder = folder
        """The folder of a log that is begun anew if it is moved; -1 for none."""
        self.name = name
        """The name of the log in its folder."""
        self.policies = policies
        """The policies in the order of their filters, each with the file to add a line to.

        Called once, in the helper, at the first violation.  It must not depend on the current folder, which is the root there,
        nor read files, which may have changed."""
        self.reach = reach
        """What is granted of files and ports, if calls are judged by that."""
        self.keeps_signals = keeps_signals
        """Whether the kernel denies the program's signals to all processes but its own."""
        self.listens = listens
        """Whether the helper is notified of listen(2), which may take a port that is not granted (`files.listening`)."""
        self.later = later
        """The files that describing takes (`enforcer.later`)."""
        self.json = json
        """One JSON object a line instead of text."""
        self.colour = not json and is_coloured(descriptor)
        """Whether denials stand out: asked now, since the helper may not ask what a terminal is."""
        self.evidence = evidence
        """Whether to report what the pointers of a call point to."""
        self.audit = audit
        """Let every reported call run."""

    def give_back(self) -> None:
        """Close the program's standard error when the program has ended.

        Otherwise a reader of it would wait for us (`ssh host enforce daemon`).  What processes that the program left do
        is then reported on *their* standard error, if that is still the same file.
        """
        if not self.json and self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1
        if self.stderr >= 0:
            os.close(self.stderr)
            self.stderr = -1

    def renew(self) -> None:
        """Begin the log anew if it has been moved or removed, as logrotate(8) does; if that fails, go on with the old one.

        A link is not followed, and a file that has another name is not taken: it may be any file of this user's.
        """
        try:
            try:
                status = os.stat(self.name, dir_fd=self.folder, follow_symlinks=False)
            except FileNotFoundError:
                pass
            else:
                if (status.st_dev, status.st_ino) == identity(self.descriptor):
                    return
            opened = os.open(self.name, APPENDING | os.O_CREAT | os.O_NOFOLLOW, 0o666, dir_fd=self.folder)
        except OSError:
            return
        status = os.fstat(opened)
        if stat.S_ISREG(status.st_mode) and status.st_nlink == 1:
            opened, self.descriptor = self.descriptor, opened
        os.close(opened)

    def complain(self, text: str) -> None:
        """Write what went wrong with reporting itself to standard error, if that takes it at once."""
        descriptor = self.stderr if self.json else self.descriptor
        try:
            if descriptor >= 0 and has_room(descriptor):
                os.write(descriptor, f"enforce: {text[:1000]}\n".encode(errors="replace"))
        except OSError:
            return


def open_log(path: str) -> tuple[int, int]:
    """Open a log; return its descriptor, and that of its folder if the log is a file there by its own name, which may be moved;
    else -1.

    Raises EnforceError."""
    try:
        log = os.open(path, APPENDING | os.O_CREAT, 0o666)
        status, named = os.fstat(log), os.lstat(path)
        if not stat.S_ISREG(status.st_mode) or (status.st_dev, status.st_ino) != (named.st_dev, named.st_ino):
            return log, -1
        return log, os.open(os.path.dirname(path) or ".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        reason = "nobody reads it" if error.errno == errno.ENXIO else error.strerror
        raise EnforceError(f"the log {path} cannot be opened: {reason}") from error


def is_coloured(descriptor: int) -> bool:
    """Return whether the descriptor is a terminal that shows colours, and NO_COLOR (no-color.org) is not set."""
    if descriptor < 0 or os.environ.get("NO_COLOR") or os.environ.get("TERM", "dumb") == "dumb":
        return False
    return os.isatty(descriptor)


def has_room(descriptor: int, timeout: float = 0) -> bool:
    """Return whether a write of up to PIPE_BUF bytes, 4096, does not block, now or within so many seconds; or fails at once."""
    poller = select.poll()
    poller.register(descriptor, select.POLLOUT)
    return bool(poller.poll(timeout * 1000))


def identity(descriptor: int) -> tuple[int, int] | None:
    """Return the device and inode of an open file; None if the descriptor is not open."""
    try:
        status = os.fstat(descriptor)
    except OSError:
        return None
    return status.st_dev, status.st_ino
