"""What the helper and its stand-in do: the helper answers calls, the stand-in waits for the helper's end.

If the helper is killed, the stand-in takes its place and starts another stand-in, so that denied calls are still answered and
reported.  If both are killed at once, the kernel fails every call that they would have answered (ENOSYS).
"""

from __future__ import annotations

import os
import select

from enforcer import confinement, helper, kept, kernel
from enforcer.reporting.answer import Answers
from enforcer.shield import shielded
from tracer import linux

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from enforcer.reporting.reporter import Reporter

_NONE = -1


class Duty:
    """What is needed to answer calls, read before the helper is cloned, opened and shared before the program is let go."""

    __slots__ = (
        "_answers",
        "_asked",
        "_code",
        "_epoll",
        "_filter",
        "_listener",
        "_null",
        "_pid",
        "_program",
        "_ready",
        "_reporter",
        "_watched",
        "stand_in",
    )

    def __init__(self, reporter: Reporter) -> None:
        """Read what the helper needs.  In the process that becomes the program: in a clone, memory costs more time."""
        self._code = kept.read()
        # Under --audit the program may make every call, too, and its exit status may have to be changed (`end.exit_with`).
        self._filter = b"" if reporter.audit else confinement.read(renews_log=reporter.folder >= 0)
        self._reporter = reporter
        self._listener = _NONE
        self._null = _NONE
        self._program = _NONE
        self.stand_in = _NONE
        self._watched = _NONE
        """A pidfd of the stand-in."""

    def start(self, program: int, pid: int) -> None:
        """Load no more code from files, and start the stand-in.

        It gets the listener later, through a shared table of descriptors.

        `program` is a pidfd of the first confined process, whose id is `pid`.  Raises OSError.
        """
        self._program = program
        self._pid = pid
        self._asked = kernel.shared_notification()  # if the helper dies while it answers a call, the stand-in answers it
        self._ready = os.pipe()
        self._null = _null()
        self._code.seal()
        own = os.getpid()
        self.stand_in = kernel.clone(kernel.CLONE_FILES)
        if self.stand_in == 0:
            helper.guarded(lambda: self._stand_by(own))

    def shielded(self, filter_: bytes) -> bytes:
        """The filter with which the program cannot name the helper, which is this process, or the stand-in."""
        return shielded(filter_, (os.getpid(), self.stand_in))

    def begin(self, listener: int) -> None:
        """Give the stand-in the listener, and confine this process.  The program must not run before.  Raises OSError."""
        self._listener = listener
        os.write(self._ready[1], b"%d" % listener)
        kernel.unshare_files()
        self._confine()
        self._watch()

    def descriptors(self) -> tuple[int, int, int]:
        """Where reports go."""
        return self._reporter.descriptor, self._reporter.stderr, self._reporter.folder

    def serve(self) -> NoReturn:
        """Answer calls until the last confined task has ended."""
        answers = self._answers
        if self.stand_in == _NONE:
            self._start_stand_in()
            self._watch_stand_in()
            answers.take_over()
        while True:
            for descriptor, events in self._epoll.poll():
                if descriptor == self._program:
                    self._epoll.unregister(self._program)
                    answers.program_ended()
                elif descriptor == self._watched:
                    os.close(self._watched)
                    os.waitpid(self.stand_in, linux.WALL)
                    self._start_stand_in()
                    self._watch_stand_in()
                elif events & select.EPOLLIN:
                    answers.next()
                else:  # EPOLLHUP: no task has the filter any more
                    answers.summarise()
                    os._exit(0)

    def _watch(self) -> None:
        """Open what serving waits with, before the program runs: later a limit may keep anything from being opened."""
        self._epoll: select.epoll = select.epoll()  # poll(2) fails where RLIMIT_NOFILE has been lowered
        self._epoll.register(self._listener, select.EPOLLIN)
        self._epoll.register(self._program, select.EPOLLIN)
        self._watch_stand_in()

    def _confine(self, *kept: int) -> None:
        """Close what is not needed, make no more calls than answering takes."""
        helper.close_all_but((self._program, self._listener, self._null, *self.descriptors(), *kept))
        self._answers = Answers(self._listener, self._asked, self._reporter, self._pid, (self._null, self._program))
        confinement.confine(self._filter)

    def _stand_by(self, helper_: int) -> NoReturn:
        """The first stand-in: wait for the listener, then for the helper's end."""
        ready, other = self._ready[0], self._watch_parent(helper_)
        self._epoll.register(ready, select.EPOLLIN)
        if ready not in dict(self._epoll.poll(None if other != _NONE else 0)):
            os._exit(0)  # nothing was confined
        self._listener = int(os.read(ready, 16))
        self._epoll.unregister(ready)
        kernel.unshare_files()
        self._confine(self._epoll.fileno(), other)
        self._wait(other)

    def _wait(self, other: int) -> NoReturn:
        """Wait for the end of the helper, whose pidfd `other` is; if there is more to answer then, take its place.

        Nothing is opened for that: a limit may be in force."""
        self._epoll.register(self._program, select.EPOLLIN)
        while other != _NONE and other not in (ready := dict(self._epoll.poll())):
            if self._program in ready:
                self._epoll.unregister(self._program)
                self._reporter.give_back()
                kernel.send_signal(other, kernel.SIGCONT)  # a helper that was stopped has to give it back too
        if other != _NONE:
            self._epoll.unregister(other)
        self._epoll.register(self._listener, select.EPOLLIN)
        if dict(self._epoll.poll(0)).get(self._listener, 0) & select.EPOLLHUP:
            os._exit(0)
        self.stand_in = _NONE
        self.serve()

    def _start_stand_in(self) -> None:
        own = os.getpid()
        try:
            self.stand_in = kernel.clone()
        except OSError:  # RLIMIT_NPROC
            self.stand_in = _NONE
        if self.stand_in == 0:
            helper.guarded(lambda: self._wait(self._watch_parent(own)))

    def _watch_parent(self, pid: int) -> int:
        """Wait with an epoll of our own from now on.  Return the parent's pidfd, which is in it; -1 if the parent has ended."""
        self._epoll = select.epoll()
        other = _parent(pid)
        if other != _NONE:
            self._epoll.register(other, select.EPOLLIN)
        return other

    def _watch_stand_in(self) -> None:
        """Wait for the stand-in's end, too, if that is possible."""
        self._watched = _NONE
        try:
            pidfd = kernel.pidfd_open(self.stand_in)
        except OSError:
            return
        self._epoll.register(pidfd, select.EPOLLIN)
        self._watched = pidfd


def _null() -> int:
    """A descriptor of /dev/null, which the program is given where it opens it; -1 if there is none."""
    try:
        return os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return _NONE


def _parent(pid: int) -> int:
    """A pidfd of this process's parent; -1 if that is another process, because the one with that pid has ended."""
    try:
        pidfd = kernel.pidfd_open(pid)
    except OSError:
        return _NONE
    return pidfd if os.getppid() == pid else _NONE
