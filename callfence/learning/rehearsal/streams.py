"""Standard input, output and error of a rehearsed run: in a session of its own, away from the terminal of learn."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import stat
import tempfile
import termios
import threading
from typing import TYPE_CHECKING, Final

from callfence.learning.rehearsal.plan import Stream

if TYPE_CHECKING:
    from collections.abc import Mapping

_OUT_OF_THE_WAY: Final = 10
"""Descriptors from this number on are none of the standard ones."""


class Input:
    """Standard input as the plain run found it: a regular file can be read again from there, nothing else can."""

    def __init__(self) -> None:
        self.kind = _kind(0)
        self.offset = os.lseek(0, 0, os.SEEK_CUR) if self.kind is Stream.FILE else 0

    @property
    def is_terminal(self) -> bool:
        return self.kind is Stream.TERMINAL

    @property
    def is_repeatable(self) -> bool:
        return self.kind not in (Stream.TERMINAL, Stream.PIPE)

    def reopened(self) -> int:
        """A descriptor of the file, which reads from where the plain run began.  Raises OSError."""
        descriptor = os.open("/proc/self/fd/0", os.O_RDONLY)
        os.lseek(descriptor, self.offset, os.SEEK_SET)
        return descriptor


class Streams:
    """The three descriptors of one run.  What the program writes is read and dropped."""

    def __init__(self, given: Input, other: Mapping[int, Stream]) -> None:
        """`other`: what differs from the plain run.  Raises OSError."""
        self._mine: list[int] = []
        self._drained: list[int] = []
        self._terminal = -1
        self._theirs = {number: self._open(number, given, other.get(number)) for number in (0, 1, 2)}
        wake, self._wake = os.pipe()
        self._mine += (wake, self._wake)
        self._thread = threading.Thread(target=self._drain, args=(wake,), daemon=True)

    def start(self) -> None:
        """Begin to read what the program writes; after its fork, since this starts a thread."""
        self._thread.start()

    def enter(self) -> None:
        """In the child: a session of its own, with these descriptors.  Raises OSError."""
        os.setsid()
        for number, descriptor in self._theirs.items():
            if descriptor >= 0:
                os.dup2(descriptor, number)
            else:
                with contextlib.suppress(OSError):
                    os.close(number)
        if self._terminal >= 0:
            fcntl.ioctl(self._terminal, termios.TIOCSCTTY, 0)

    def close(self) -> None:
        os.write(self._wake, b"!")
        if self._thread.ident:
            self._thread.join()
        for descriptor in self._mine:
            os.close(descriptor)

    def _open(self, number: int, given: Input, other: Stream | None) -> int:
        kind = other or (given.kind if number == 0 else _repeated(number))
        if kind is Stream.CLOSED:
            return -1
        if kind is Stream.TERMINAL and other is not None:
            return self._open_terminal()
        if kind is Stream.FILE and other is None and number == 0:
            return self._keep(given.reopened())
        if kind is Stream.FILE:
            file, name = tempfile.mkstemp()
            os.unlink(name)
            return self._keep(file)
        if kind in (Stream.PIPE, Stream.BROKEN):
            return self._open_pipe(number, is_broken=kind is Stream.BROKEN or number == 0)
        name = Stream.FULL if kind is Stream.FULL else Stream.NULL
        return self._keep(os.open(name, os.O_RDWR))

    def _open_terminal(self) -> int:
        if self._terminal < 0:
            master, slave = os.openpty()
            termios.tcsetwinsize(slave, (24, 80))
            self._drained.append(self._keep(master))
            self._terminal = self._keep(slave)
        return self._terminal

    def _open_pipe(self, number: int, *, is_broken: bool) -> int:
        ends = os.pipe()
        theirs, ours = ends if number == 0 else ends[::-1]
        if is_broken:
            os.close(ours)
        else:
            self._drained.append(self._keep(ours))
        return self._keep(theirs)

    def _keep(self, descriptor: int) -> int:
        """The same, numbered so that the standard ones can be replaced, and closed at the end."""
        moved = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, _OUT_OF_THE_WAY)
        os.close(descriptor)
        self._mine.append(moved)
        return moved

    def _drain(self, wake: int) -> None:
        left = [*self._drained]
        while True:
            ready, _, _ = select.select([wake, *left], [], [])
            for descriptor in ready:
                if descriptor == wake:
                    return
                with contextlib.suppress(OSError):  # EIO: the terminal's last user has gone
                    if os.read(descriptor, 1 << 16):
                        continue
                left.remove(descriptor)


def _repeated(number: int) -> Stream:
    """What stands for an output of the plain run: nothing is written to its own file or terminal again."""
    kind = _kind(number)
    return kind if kind in (Stream.CLOSED, Stream.PIPE) else Stream.NULL


def _kind(number: int) -> Stream:
    try:
        mode = os.fstat(number).st_mode
    except OSError:
        return Stream.CLOSED
    if os.isatty(number):
        return Stream.TERMINAL
    if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode):
        return Stream.PIPE
    return Stream.FILE if stat.S_ISREG(mode) else Stream.NULL
