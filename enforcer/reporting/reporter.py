"""Where and how violations are reported: created at the start, used at the first violation."""

from __future__ import annotations

import errno
import os
import select
import stat
import time

from enforcer.errors import EnforceError
from tracer import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from enforcer.files.granted import Reach
    from enforcer.hosts.granted import Hosts
    from enforcer.reporting.audit import Source
    from policygen.model import Policy


APPENDING = os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
"""How a log is opened.  O_NONBLOCK: neither opening nor writing a FIFO waits for its reader."""


class Reporter:
    """Where reports go, and how denied calls are answered and described."""

    __slots__ = (
        "audit", "colour", "descriptor", "evidence", "file", "folder", "hosts", "json", "keeps_signals", "later", "listens",
        "name", "policies", "reach", "records", "stderr",
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
        hosts: Hosts | None = None,
        records: Source | None = None,
        keeps_signals: bool = False,
        listens: bool = False,
        later: bytes = b"",
    ) -> None:
        self.descriptor = descriptor
        """The descriptor for reports: a log (`json`), or the program's standard error; -1 for no reports."""
        self.stderr = stderr if json else -1
        """The program's standard error if reports go to a log; else -1."""
        self.file = None if json else identity(descriptor)
        """The identity of the program's standard error; None if that is closed, or if reports go to a log."""
        self.folder = folder
        """A descriptor of the log's folder, if the log is to be opened again after it was moved; else -1."""
        self.name = name
        """The name of the log in its folder."""
        self.policies = policies
        """Returns the policies in the order of their filters, each with its file.

        Called once, in the helper, at the first violation.  It must not depend on the working folder, which is /proc there, nor
        read files, which may have changed."""
        self.reach = reach
        """The files and ports that policies grant, if calls are judged by them; else None."""
        self.hosts = hosts
        """The hosts and unix sockets that policies grant; None if they confine none."""
        self.records = records
        """The audit records from which denied files and ports are reported; None if they are not reported so."""
        self.keeps_signals = keeps_signals
        """Whether the kernel denies the program's signals to all processes but its own."""
        self.listens = listens
        """Whether the helper is notified of listen(2), which may take a port that is not granted (`files.listening`)."""
        self.later = later
        """The note of the files that describing a call imports (`enforcer.later`)."""
        self.json = json
        """Whether reports are JSON objects, one a line, instead of text."""
        self.colour = not json and is_coloured(descriptor)
        """Whether reports are coloured; decided now, since the helper's filter denies isatty(3)."""
        self.evidence = evidence
        """Whether to report what the pointers of a call point to."""
        self.audit = audit
        """Whether denied calls are only reported, and run."""

    def give_back(self) -> None:
        """Close the program's standard error, after the program has ended.

        Otherwise its reader would wait for the helper (`ssh host enforce daemon`).  Violations of processes that the program
        leaves behind are then reported on their own standard error, if that is the same file.
        """
        if not self.json and self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1
        if self.stderr >= 0:
            os.close(self.stderr)
            self.stderr = -1

    def renew(self) -> None:
        """Create the log again if it has been moved or removed, as logrotate(8) does; if that fails, go on with the old file.

        A symbolic link is not followed, and a file with several hard links is not used: either may be another file of this
        user.
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
        """Write a message about a failure of reporting itself to standard error, if that does not block."""
        descriptor = self.stderr if self.json else self.descriptor
        try:
            if descriptor >= 0 and has_room(descriptor):
                os.write(descriptor, f"enforce: {text[:1000]}\n".encode(errors="replace"))
        except OSError:
            return


def now() -> str:
    """Return the current time in UTC, in ISO 8601 with milliseconds."""
    seconds, nanoseconds = divmod(time.time_ns(), 10**9)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{nanoseconds // 10**6:03}+00:00"


def open_log(path: str) -> tuple[int, int]:
    """Open a log; return its descriptor, and that of its folder if the log is a regular file and not a symbolic link, else -1.

    Raises EnforceError."""
    try:
        log = os.open(path, APPENDING | os.O_CREAT, 0o666)
        status, named = os.fstat(log), os.lstat(path)
        if not stat.S_ISREG(status.st_mode) or (status.st_dev, status.st_ino) != (named.st_dev, named.st_ino):
            return log, -1
        return log, os.open(os.path.dirname(path) or ".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        reason = "it is a FIFO that no process reads; start the reader first" if error.errno == errno.ENXIO else error.strerror
        raise EnforceError(f"the log {path} cannot be opened: {reason}") from error


def is_coloured(descriptor: int) -> bool:
    """Return whether the descriptor is a terminal that shows colours, and NO_COLOR (no-color.org) is not set."""
    if descriptor < 0 or os.environ.get("NO_COLOR") or os.environ.get("TERM", "dumb") == "dumb":
        return False
    return os.isatty(descriptor)


def has_room(descriptor: int, timeout: float = 0) -> bool:
    """Wait up to `timeout` seconds until a write of up to PIPE_BUF bytes, 4096, would not block; return whether that is so."""
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
