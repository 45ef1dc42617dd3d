"""Write reports to a file that the program may write to as well: never half a line, none silently dropped, and without delaying
calls that wait for an answer.

If a pipe, a terminal or a socket does not take a report at once, it is written later.
"""

from __future__ import annotations

import errno
import os
import select
import stat
import time
from collections import deque
from typing import TYPE_CHECKING

from callfence.enforcer import alarms, kernel
from callfence.enforcer.reporting.destination import has_room, identity

if TYPE_CHECKING:
    from callfence.enforcer.reporting.settings import Reporting

_TIMEOUT = 0.5
"""Timeout in seconds of a write although poll(2) promised room.  O_NONBLOCK would change the program's own descriptor."""
_LAST = 10.0
"""Seconds that writing the last reports takes at most."""
_IDLE = 5.0
"""Seconds after which the last reports are dropped if the reader has taken nothing meanwhile."""
_DELAY = 1.0
"""Seconds before the next attempt after such a write timed out."""
_PAUSE = 0.05
"""Seconds between attempts while texts wait to be written."""
_CHUNK = select.PIPE_BUF
"""Bytes that a pipe takes whole if poll(2) says that it takes any (pipe(7))."""
_MAX_WAITING = 1 << 18
"""How many bytes may wait to be written at most."""


class Output:
    """Writes reports to their destination.  After that has been closed, writes each to the standard error of its process,
    if that is the same file."""

    def __init__(self, reporting: Reporting, *, begins: bool = True) -> None:
        """Write the records of the start, if reports go to a log, unless `begins` is false."""
        self._destination = reporting.destination
        self._waiting: deque[tuple[bytes, int]] = deque()
        """The texts that wait to be written, each with the id of its process."""
        self._size = 0
        """How many bytes these texts have."""
        self._written = 0
        """How many bytes of the first text have been written."""
        self._is_torn = False
        """Whether the last text was written only in part and then dropped."""
        self._not_before = 0.0
        self.lost = reporting.log.lost if reporting.log else 0
        """How many texts were dropped."""
        alarms.take()
        for record in reporting.log.opening() if reporting.log and begins else ():
            self.write(record)

    def write(self, data: bytes, process: int = 0) -> None:
        """Write whole lines, or a whole message, about the process `process` (0 for none), now or later; drop them if too many
        bytes wait already."""
        if self._destination.folder >= 0:
            self._destination.renew()
        if self._waiting and self._size + len(data) > _MAX_WAITING:
            self.lost += 1
            return
        self._waiting.append((data, process))
        self._size += len(data)
        self.flush()

    def pause(self) -> float | None:
        """Return after how many seconds to call `flush` again; None if nothing waits to be written."""
        return max(_PAUSE, self._not_before - time.monotonic()) if self._waiting else None

    def flush(self, *, last: bool = False) -> None:
        """Write as much as the file takes at once; with `last`, wait for its reader, but not too long, and drop the rest."""
        end = time.monotonic() + (_LAST if last else 0)
        while self._waiting and (last or time.monotonic() >= self._not_before):
            if not self._write_first(end):
                break
        while last and self._waiting:
            self._give_up()

    def _write_first(self, end: float) -> bool:
        """Write the first text that waits; return False if the reader takes no more of it until the monotonic time `end`."""
        data, process = self._waiting[0]
        own = self._destination.descriptor
        descriptor = own if own >= 0 else self._standard_error(process)
        if descriptor < 0:
            self._give_up()
            return True
        try:
            if self._is_torn and not self._written and not self._destination.is_in_messages:
                data = b"\n" + data
                self._waiting[0], self._is_torn = (data, process), False
            while self._written < len(data):
                if not has_room(descriptor, min(max(end - time.monotonic(), 0), _IDLE)):
                    return False
                end_of_part = len(data) if self._destination.is_in_messages else self._written + _CHUNK
                self._written += self._put(descriptor, data[self._written : end_of_part])
        except (BlockingIOError, TimeoutError):  # a log of our own is opened with O_NONBLOCK
            self._not_before = time.monotonic() + _DELAY
            return time.monotonic() < end
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
        """Return a copy of a process's standard error if that is the same file as the program's was; else -1."""
        if self._destination.file is None or not process:
            return -1
        try:
            descriptor = kernel.descriptor_of(process, process, 2)
        except OSError:
            return -1
        if identity(descriptor) == self._destination.file:
            return descriptor
        os.close(descriptor)
        return -1

    def _put(self, descriptor: int, data: bytes) -> int:
        """Write, and return how many bytes were written.  Raises TimeoutError if another writer has used the room meanwhile,
        and OSError if nothing is ever written, as into the memory (`/proc/PID/mem`) of a process that has ended."""
        end = time.monotonic() + _TIMEOUT
        alarms.limit_calls(_TIMEOUT)
        try:
            while True:
                try:
                    count = kernel.write(descriptor, data)
                except InterruptedError:  # or another process has sent the signal, or this one was slow
                    if time.monotonic() >= end and not has_room(descriptor):
                        raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT)) from None
                    continue
                if not count:
                    raise OSError(errno.EIO, os.strerror(errno.EIO))
                return count
        finally:
            alarms.limit_calls(0)


def _taken_back(descriptor: int, written: int) -> bool:
    """Remove the last `written` bytes from the end of a regular file, if nothing follows them; return whether that was done."""
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or os.lseek(descriptor, 0, os.SEEK_CUR) != status.st_size:
            return False  # another process has appended to it since
        os.ftruncate(descriptor, status.st_size - written)
    except OSError:
        return False
    return True
