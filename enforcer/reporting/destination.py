"""Where reports go: the program's standard error, as text for people, or a log, as records for machines (`opening`)."""

from __future__ import annotations

import os
import select
import stat

TEXT, LINES, DATAGRAMS, JOURNAL = "text", "lines", "datagrams", "journal"
"""The forms of reports: text for people; JSON objects, one a line; the same, one a datagram; systemd's journal entries."""
APPENDING = os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
"""How a log is opened.  O_NONBLOCK: neither opening nor writing a FIFO waits for its reader."""


class Destination:
    """An open descriptor, and how reports are written to it."""

    __slots__ = ("descriptor", "file", "folder", "form", "name")

    def __init__(self, descriptor: int, form: str, *, folder: int = -1, name: str = "") -> None:
        self.descriptor = descriptor
        """-1 for no reports."""
        self.form = form
        self.file = identity(descriptor) if form == TEXT else None
        """The identity of the program's standard error; None if that is closed, or if reports go to a log."""
        self.folder = folder
        """A descriptor of the log's folder, if the log is to be opened again after it was moved; else -1."""
        self.name = name
        """The name of the log in its folder."""

    @property
    def is_in_messages(self) -> bool:
        """Whether each write is a message of its own, which cannot be written in parts."""
        return self.form in (DATAGRAMS, JOURNAL)

    def give_back(self) -> None:
        """Close the program's standard error, after the program has ended.

        Otherwise its reader would wait for the helper (`ssh host enforce daemon`).  Violations of processes that the program
        leaves behind are then reported on their own standard error, if that is the same file.  A log stays open: its end is
        the end of the last process."""
        if self.form == TEXT and self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def renew(self) -> None:
        """Create the log again if it has been moved or removed, as logrotate(8) does; if that fails, go on with the old file.

        A symbolic link is not followed, and a file with several hard links is not used: either may be another file of this
        user."""
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
