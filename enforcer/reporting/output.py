"""Writing reports to a file that the program may use as well: never half a line, never silently dropped, and without holding up
the calls that wait for an answer meanwhile.

What a pipe, a terminal or a socket does not take at once is written later.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import stat
import time
from collections import deque
from typing import TYPE_CHECKING

from enforcer import kernel
from enforcer.reporting.reporter import has_room, identity

if TYPE_CHECKING:
    from types import FrameType

    from enforcer.reporting.reporter import Reporter

_TIMEOUT = 0.5
"""Seconds that a write may take where room was promised, and that the last ones are waited for.  O_NONBLOCK would change the
program's own descriptor."""
_DELAY = 1.0
"""Seconds without another try after such a write did not end in time."""
_PAUSE = 0.05
"""Seconds between tries while something waits to be written."""
_CHUNK = select.PIPE_BUF
"""Bytes that a pipe takes whole if poll(2) says that it takes any (pipe(7))."""
_MOST = 1 << 18
"""Most bytes that wait to be written."""


class Output:
    """Where reports are written: the reporter's descriptor, or when that has been given up, the standard error of the
    process that the report is about, if that is the same file."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self._waiting: deque[tuple[bytes, int]] = deque()
        """Texts, each with the process that it is about; the first may be written in part."""
        self._size = 0
        """Bytes of these."""
        self._written = 0
        """Bytes of the first one that are written."""
        self._is_torn = False
        """Whether what was written last is a part of a text whose rest was given up."""
        self._not_before = 0.0
        self._until = 0.0
        """The time at which a write is given up; 0 outside of a write."""
        self.lost = 0
        """Texts that were given up."""
        signal.signal(signal.SIGALRM, self._expire)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGALRM])

    def write(self, text: str, process: int) -> None:
        """Write the whole text, lines about a process (0: about none), now or later."""
        if self._reporter.folder >= 0:
            self._reporter.renew()
        data = text.encode(errors="surrogateescape")
        if self._waiting and self._size + len(data) > _MOST:
            self.lost += 1
            return
        self._waiting.append((data, process))
        self._size += len(data)
        self.flush()

    def pause(self) -> float | None:
        """Return seconds after which `flush` should be tried again; None if nothing waits to be written."""
        return max(_PAUSE, self._not_before - time.monotonic()) if self._waiting else None

    def flush(self, *, last: bool = False) -> None:
        """Write what the file takes at once; with `last`, wait for it up to half a second, and give up the rest."""
        end = time.monotonic() + (_TIMEOUT if last else 0)
        while self._waiting and (last or time.monotonic() >= self._not_before):
            if not self._write_first(end):
                break
        while last and self._waiting:
            self._give_up()

    def _write_first(self, end: float) -> bool:
        """Write the first text that waits; return whether it is written or given up."""
        data, process = self._waiting[0]
        own = self._reporter.descriptor
        descriptor = own if own >= 0 else self._standard_error(process)
        if descriptor < 0:
            self._give_up()
            return True
        try:
            if self._is_torn and not self._written:
                data = b"\n" + data
                self._waiting[0], self._is_torn = (data, process), False
            while self._written < len(data):
                if not has_room(descriptor, max(end - time.monotonic(), 0)):
                    return False
                self._written += self._put(descriptor, data[self._written : self._written + _CHUNK])
        except (BlockingIOError, TimeoutError):  # a log of our own is opened with O_NONBLOCK
            self._not_before = time.monotonic() + _DELAY
            return False
        except OSError:
            if self._written and _taken_back(descriptor, self._written):
                self._written = 0
            self._give_up()
            return True
        finally:
            if descriptor != own:
                os.close(descriptor)
        self._forget()
        return True

    def _give_up(self) -> None:
        self.lost += 1
        self._is_torn = self._is_torn or self._written > 0
        self._forget()

    def _forget(self) -> None:
        data, _ = self._waiting.popleft()
        self._size -= len(data)
        self._written = 0

    def _standard_error(self, process: int) -> int:
        """A copy of that process's standard error if it is the file that was the program's, else -1."""
        if self._reporter.file is None or not process:
            return -1
        try:
            descriptor = kernel.descriptor_of(process, 2)
        except OSError:
            return -1
        if identity(descriptor) == self._reporter.file:
            return descriptor
        os.close(descriptor)
        return -1

    def _put(self, descriptor: int, data: bytes) -> int:
        """How much was written.  Raises TimeoutError if that takes too long: another writer was faster."""
        self._until = time.monotonic() + _TIMEOUT
        signal.setitimer(signal.ITIMER_REAL, _TIMEOUT, _TIMEOUT)
        try:
            return os.write(descriptor, data)
        finally:
            self._until = 0.0
            signal.setitimer(signal.ITIMER_REAL, 0)

    def _expire(self, _number: int, _frame: FrameType | None) -> None:
        if self._until and time.monotonic() >= self._until:  # else another process has sent the signal
            raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))


def _taken_back(descriptor: int, written: int) -> bool:
    """Whether the last `written` bytes could be removed from the end of a plain file."""
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or os.lseek(descriptor, 0, os.SEEK_CUR) != status.st_size:
            return False  # another process has appended to it since
        os.ftruncate(descriptor, status.st_size - written)
    except OSError:
        return False
    return True
