"""Writing reports to a place that belongs to the program as well: never for long, and never past its time."""

from __future__ import annotations

import os
import select
import signal
from typing import TYPE_CHECKING

from enforcer import kernel
from enforcer.reporting.reporter import identity

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
        self._writing = False
        self.dropped = 0
        """How many texts could not be written."""
        signal.signal(signal.SIGALRM, self._expire)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGALRM])

    def write(self, text: str, process: int) -> None:
        """Write the whole text at once, on behalf of a process (0: none)."""
        own = self._reporter.descriptor
        descriptor = own if own >= 0 else self._standard_error(process)
        if descriptor < 0:
            return
        self._stuck = not self._put(descriptor, text.encode(errors="surrogateescape"))
        self.dropped += self._stuck
        if descriptor != own:
            os.close(descriptor)

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

    def _put(self, descriptor: int, data: bytes) -> bool:
        """Whether all was written.  Where the last write had to be given up, only if there is room at once."""
        if self._stuck and not _has_room(descriptor):
            return False
        try:
            self._writing = True
            signal.setitimer(signal.ITIMER_REAL, _PATIENCE)
            try:
                while data:
                    data = data[os.write(descriptor, data) :]
            finally:
                self._writing = False
                signal.setitimer(signal.ITIMER_REAL, 0)
        except OSError:  # TimeoutError is one
            return False
        return True

    def _expire(self, _number: int, _frame: FrameType | None) -> None:
        if self._writing:  # else somebody else has sent it
            raise TimeoutError


def _has_room(descriptor: int) -> bool:
    poller = select.poll()
    poller.register(descriptor, select.POLLOUT)
    return any(events & select.POLLOUT for _, events in poller.poll(0))
