"""Writing reports to a file that the program may use as well: never for long, never a line by half, never lost in silence."""

from __future__ import annotations

import os
import select
import signal
import stat
import time
from typing import TYPE_CHECKING

from enforcer import kernel
from enforcer.reporting.reporter import has_room, identity

if TYPE_CHECKING:
    from types import FrameType

    from enforcer.reporting.reporter import Reporter

_PATIENCE = 0.5
"""Seconds that a write may take.  A pipe that nobody reads, or a terminal stopped by ^S, must not hold up the program,
and O_NONBLOCK would change the program's own descriptor."""


class Output:
    """Where reports are written: the reporter's descriptor, or when that has been given up, the standard error of the
    process that the report is about, if that is the same file."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self._stuck = False
        self._torn = False
        self._writing = False
        signal.signal(signal.SIGALRM, self._expire)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGALRM])

    def write(self, text: str, process: int) -> bool:
        """Write the whole text, lines of a process (0: of none); whether it was written.

        What was written of a text that a full file did not take is taken back.
        """
        if self._reporter.folder >= 0:
            self._reporter.renew()
        own = self._reporter.descriptor
        descriptor = own if own >= 0 else self._standard_error(process)
        if descriptor < 0:
            return False
        data = text.encode(errors="surrogateescape")
        if self._torn:
            data = b"\n" + data
        written = self._put(descriptor, data)
        self._stuck = written < len(data)
        self._torn = self._stuck and written > 0 and not _taken_back(descriptor, written)
        if descriptor != own:
            os.close(descriptor)
        return not self._stuck

    def _standard_error(self, process: int) -> int:
        """A copy of that process's standard error if it is the file that was the program's, else -1."""
        if self._reporter.file is None or not process:
            return -1
        try:
            pidfd = kernel.pidfd_open(process)
            try:
                descriptor = kernel.pidfd_getfd(pidfd, 2)
            finally:
                os.close(pidfd)
        except OSError:
            return -1
        if identity(descriptor) == self._reporter.file:
            return descriptor
        os.close(descriptor)
        return -1

    def _put(self, descriptor: int, data: bytes) -> int:
        """How much was written.  If the last write was given up, nothing unless there is room at once."""
        written = 0
        if self._stuck and not has_room(descriptor):
            return written
        end = time.monotonic() + _PATIENCE
        try:
            self._writing = True
            signal.setitimer(signal.ITIMER_REAL, _PATIENCE)
            try:
                while written < len(data):
                    try:
                        written += os.write(descriptor, data[written:])
                    except BlockingIOError:  # a log of our own is opened with O_NONBLOCK
                        _wait_for_room(descriptor, end)
            finally:
                self._writing = False
                signal.setitimer(signal.ITIMER_REAL, 0)
        except OSError:  # TimeoutError is one
            pass
        return written

    def _expire(self, _number: int, _frame: FrameType | None) -> None:
        if self._writing:  # else another process has sent it
            raise TimeoutError


def _wait_for_room(descriptor: int, end: float) -> None:
    with select.epoll() as epoll:
        epoll.register(descriptor, select.EPOLLOUT)
        if not epoll.poll(max(end - time.monotonic(), 0)):
            raise TimeoutError


def _taken_back(descriptor: int, written: int) -> bool:
    """Whether the last `written` bytes could be removed from the end of a plain file."""
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or os.lseek(descriptor, 0, os.SEEK_CUR) != found.st_size:
            return False  # another process has appended to it since
        os.ftruncate(descriptor, found.st_size - written)
    except OSError:
        return False
    return True
