"""What the helper and its stand-in do: the helper answers calls, the stand-in waits for the helper's end.

If the helper is killed, the stand-in takes its place and starts another stand-in, so that denied calls are still answered and
reported.  If both are killed at once, the kernel fails every call that they would have answered (ENOSYS).
"""

from __future__ import annotations

import os
import select

from enforcer import confinement, helper, kernel, sealed
from enforcer.shield import shielded
from tracer import linux

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from enforcer.reporting.reporter import Reporter

_NONE = -1


class Duty:
    """What is needed to answer calls, read before the helper is cloned, opened and shared before the program is let go."""

    __slots__ = ("_asked", "_code", "_filter", "_listener", "_program", "_ready", "_reporter", "stand_in")

    def __init__(self, reporter: Reporter) -> None:
        """Read what the helper needs.  In the process that becomes the program: in a clone, memory costs more time."""
        self._code = sealed.read()
        self._filter = confinement.read()
        self._reporter = reporter
        self._listener = _NONE
        self._program = _NONE
        self.stand_in = _NONE

    def start(self, program: int) -> None:
        """Start the stand-in, which gets the listener later, through a shared table of descriptors.

        `program` is a pidfd of the first confined process.  Raises OSError.
        """
        self._program = program
        self._asked = kernel.shared_notification()  # if the helper dies while it answers a call, the stand-in answers it
        self._ready = os.pipe()
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

    def descriptors(self) -> tuple[int, int]:
        """Where reports go."""
        return self._reporter.descriptor, self._reporter.stderr

    def serve(self) -> NoReturn:
        """Answer calls until the last confined task has ended."""
        from enforcer.reporting.answer import Answers  # from memory, while the program starts

        answers = Answers(self._listener, self._asked, self._reporter)
        if self.stand_in == _NONE:
            self._start_stand_in()
            answers.take_over()
        epoll = select.epoll()  # poll(2) fails where RLIMIT_NOFILE has been lowered
        epoll.register(self._listener, select.EPOLLIN)
        epoll.register(self._program, select.EPOLLIN)
        stand_in = self._watch_stand_in(epoll)
        while True:
            for descriptor, events in epoll.poll():
                if descriptor == self._program:
                    epoll.unregister(self._program)
                    answers.program_ended()
                elif descriptor == stand_in:
                    os.close(stand_in)
                    os.waitpid(self.stand_in, linux.WALL)
                    self._start_stand_in()
                    stand_in = self._watch_stand_in(epoll)
                elif events & select.EPOLLIN:
                    answers.next()
                else:  # EPOLLHUP: no task has the filter any more
                    answers.summarise()
                    os._exit(0)

    def _confine(self) -> None:
        """Close what is not needed, load no more code from files, make no more calls than answering takes."""
        helper.close_all_but((self._program, self._listener, *self.descriptors()))
        self._code.seal()
        confinement.confine(self._filter)

    def _stand_by(self, helper_: int) -> NoReturn:
        """The first stand-in: wait for the listener, then for the helper's end."""
        ready, other = self._ready[0], _parent(helper_)
        with select.epoll() as epoll:
            epoll.register(ready, select.EPOLLIN)
            if other != _NONE:
                epoll.register(other, select.EPOLLIN)
            if ready not in dict(epoll.poll(None if other != _NONE else 0)):
                os._exit(0)  # nothing was confined
        self._listener = int(os.read(ready, 16))
        kernel.unshare_files()
        self._confine()
        self._wait(helper_)

    def _wait(self, helper_: int) -> NoReturn:
        """Wait for the end of the helper, whose child this is; if there is more to answer then, take its place."""
        other = _parent(helper_)
        epoll = select.epoll()
        epoll.register(self._program, select.EPOLLIN)
        if other != _NONE:
            epoll.register(other, select.EPOLLIN)
        while other != _NONE and other not in (ready := dict(epoll.poll())):
            if self._program in ready:
                epoll.unregister(self._program)
                self._reporter.give_back()
                kernel.send_signal(other, kernel.SIGCONT)  # a helper that was stopped has to give it back too
        epoll.close()
        with select.epoll() as epoll:
            epoll.register(self._listener, select.EPOLLIN)
            if any(events & select.EPOLLHUP for _, events in epoll.poll(0)):
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
            helper.guarded(lambda: self._wait(own))

    def _watch_stand_in(self, epoll: select.epoll) -> int:
        """A pidfd of the stand-in, registered; -1 if it cannot be watched."""
        try:
            pidfd = kernel.pidfd_open(self.stand_in)
        except OSError:
            return _NONE
        epoll.register(pidfd, select.EPOLLIN)
        return pidfd


def _parent(pid: int) -> int:
    """A pidfd of this process's parent; -1 if that is another process, because the one with that pid has ended."""
    try:
        pidfd = kernel.pidfd_open(pid)
    except OSError:
        return _NONE
    return pidfd if os.getppid() == pid else _NONE
