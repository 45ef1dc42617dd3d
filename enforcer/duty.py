"""What the helper and its stand-in do: the helper answers calls, the stand-in waits for the helper's end.

If the helper is killed, the stand-in takes its place and starts another stand-in, so that denied calls are still answered and
reported.  If both are killed at once, the kernel fails every call that they would have answered (ENOSYS).

A program whose signals the kernel keeps among its processes can kill neither.  Any other program is ended with the first of the
two that dies: each holds a pipe whose other end the other one has, and the kernel sends SIGKILL when that is closed.
"""

from __future__ import annotations

import errno
import os
import select

from enforcer import bpf, confinement, helper, kernel
from enforcer.errors import BUSY
from enforcer.later import Later
from enforcer.listener import shared_notification
from enforcer.reporting.answer import Answers
from tracer import TYPE_CHECKING, linux
from tracer.errors import KernelError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn

    from enforcer.listener import Notification
    from enforcer.reporting.reporter import Reporter
    from policygen.model import Action

_NONE = -1


class Duty:
    """What is needed to answer calls, read before the helper is cloned, opened and shared before the program is let go."""

    __slots__ = (
        "_answers", "_children", "_devices", "_epoll", "_filter", "_following", "_follows", "_fuse", "_is_fused", "_later",
        "_listeners", "_notification", "_pid", "_ready", "_reporter", "_shield", "_watched", "program", "stand_in",
    )  # fmt: skip

    def __init__(self, reporter: Reporter, *, follows: bool = False, is_quiet: bool = False) -> None:
        """`follows`: the program through its phases; `is_quiet`: and answers no calls afterwards.

        Read what the helper needs.  In the process that becomes the program: in a clone, memory costs more time."""
        self._later = Later(reporter.later)
        self._epoll: select.epoll
        # Under --audit the program may make every call, too, and its exit status may have to be changed (`listener.exit_with`).
        self._filter = b"" if reporter.audit else confinement.read(renews_log=reporter.folder >= 0)
        self._following = confinement.read_follower() if follows and not reporter.audit else b""
        self._shield = bpf.read_shield()
        self._follows = follows
        self._is_fused = not (reporter.keeps_signals or reporter.audit or is_quiet)
        self._fuse: tuple[int, ...] = ()
        """Descriptors by whose end the program is ended, too."""
        self._reporter = reporter
        self._listeners: dict[int, str] = {}
        """The listeners, each with the phase of the processes whose calls it receives; "" where there are no phases."""
        self._devices: tuple[int, int] = _NONE, _NONE
        """Descriptors of /dev/null and /dev/full, which the program is given where it opens them; -1 if there is none."""
        self._children = _NONE
        """A descriptor that is readable when a child has stopped or ended, while the program is followed."""
        self.program = _NONE
        """A pidfd of the first confined process."""
        self.stand_in = _NONE
        self._watched = _NONE
        """A pidfd of the stand-in."""

    def start(self, program: int, pid: int) -> None:
        """Load no more code from files, and start the stand-in.

        It gets the listeners later, through a shared table of descriptors.

        `program` is a pidfd of the first confined process, whose id is `pid`.  Raises OSError.
        """
        self.program = program
        self._pid = pid
        self._notification = shared_notification()  # if the helper dies while it answers a call, the stand-in answers it
        self._ready = os.pipe()
        self._devices = _device("/dev/null", os.O_RDWR), _device("/dev/full", os.O_WRONLY)
        self._later.seal()
        own = os.getpid()
        pipes = (_fuse(pid), _fuse(pid)) if self._is_fused else ()
        self.stand_in = kernel.clone(linux.CLONE_FILES)
        place = int(self.stand_in == 0)
        self._fuse = tuple(pipe[(place + number) % 2] for number, pipe in enumerate(pipes))
        if self.stand_in == 0:
            helper.guarded(lambda: self._stand_by(own))

    def shielded(self, filter_: bytes) -> bytes:
        """Return the filter with which the program cannot name the helper, which is this process, or the stand-in."""
        return bpf.shielded(filter_, (os.getpid(), self.stand_in), self._shield)

    def begin(self, listener: int) -> None:
        """Give the stand-in the listener, and confine this process.  The program must not run before.  Raises OSError."""
        self._listeners = {listener: ""}
        self._hand_over()
        self._confine()
        self._watch()

    # While the program is followed through its phases (`enforcer.arming.phases`)

    def follow(self, *, listens: bool) -> None:
        """Confine this process as far as following the program permits, and let it answer calls.

        Raises OSError, and KernelError if it is to listen later and another filter has a listener already."""
        self._answers = self._made()
        try:
            confinement.confine(self._following, listens=listens, traces=True)
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            raise KernelError(BUSY, "seccomp", errno.EBUSY) from error

    def listen(self, listener: int, phase: str) -> None:
        """Answer the calls that this listener receives from now on."""
        if not self.is_answering:
            self._children = kernel.signal_descriptor(linux.SIGCHLD)
            self._epoll = select.epoll()
            self._epoll.register(self._children, select.EPOLLIN)
            self._epoll.register(self.program, select.EPOLLIN)
        self._epoll.register(listener, select.EPOLLIN)
        self._listeners[listener] = phase

    @property
    def is_answering(self) -> bool:
        """Whether there was a listener while the program is followed."""
        return self._children >= 0

    def answer_until_child(self) -> None:
        """Answer calls until something has happened, perhaps to a child."""
        for descriptor, events in self._events():
            if descriptor == self._children:
                os.read(descriptor, 4096)
            else:
                self._happened(descriptor, events)

    def _events(self) -> Sequence[tuple[int, int]]:
        """Wait for events; meanwhile, read the code that describes calls, and report what is due after some time of quiet."""
        while not (events := self._epoll.poll(self._answers.pause() if self._later.is_read else 0)):
            if self._later.is_read:
                self._answers.quiet()
            else:
                self._later.read_one()
        return events

    def _happened(self, descriptor: int, events: int) -> None:
        """Do what an event of the program's pidfd or of a listener asks for."""
        if descriptor == self.program:
            self._epoll.unregister(descriptor)
            self._answers.program_ended()
        elif events & select.EPOLLIN:
            self._answers.next(descriptor, self._listeners[descriptor])
        else:  # EPOLLHUP: no task has the filter any more
            self._epoll.unregister(descriptor)
            os.close(descriptor)
            del self._listeners[descriptor]

    def listened(self, call: Notification, phase: str) -> int | None:
        """Make the listen(2) of a stopped task: 0 or an errno; None if it may be made as it is, or is another call."""
        return self._answers.listened(call, phase)

    def judged(self, call: Notification, phase: str) -> Action | None:
        """Return what the policies say of the call of a stopped task; if they deny it, that has been reported."""
        return self._answers.stopped(call, phase)

    def program_ended(self) -> None:
        """Report what is due when the program's own process has ended."""
        self._answers.program_ended()

    def finish(self) -> NoReturn:
        """Go on as without phases, since nothing is traced any more."""
        if not self._listeners:
            self._answers.summarise()
            os.kill(self.stand_in, linux.SIGKILL)
            os._exit(0)
        self._hand_over()
        self._epoll.close()  # here, since its number will be another descriptor's
        helper.close_all_but((self.program, *self._devices, *self._listeners, *self._fuse, *self.descriptors()))
        confinement.drop_capabilities()
        if self._filter:
            kernel.install(self._filter, 0)
        self._watch()
        self.serve()

    # Once every process is in its last phase

    def descriptors(self) -> tuple[int, int, int]:
        """Return where reports go."""
        return self._reporter.descriptor, self._reporter.stderr, self._reporter.folder

    def serve(self) -> NoReturn:
        """Answer calls until the last confined task has ended."""
        answers = self._answers
        if self.stand_in == _NONE:
            self._start_stand_in()
            self._watch_stand_in()
            answers.take_over(self._listeners)
        while self._listeners:
            for descriptor, events in self._events():
                if descriptor == self._watched:
                    os.close(self._watched)
                    os.waitpid(self.stand_in, linux.WALL)
                    self._start_stand_in()
                    self._watch_stand_in()
                else:
                    self._happened(descriptor, events)
        answers.summarise()
        os._exit(0)

    def _watch(self) -> None:
        """Open what serving waits with, before the program runs: later a limit may keep anything from being opened."""
        self._epoll = select.epoll()  # poll(2) fails where RLIMIT_NOFILE has been lowered
        for descriptor in (*self._listeners, self.program):
            self._epoll.register(descriptor, select.EPOLLIN)
        self._watch_stand_in()

    def _hand_over(self) -> None:
        """Give the stand-in the listeners."""
        lines = "".join(f"{listener} {phase}\n" for listener, phase in self._listeners.items())
        os.write(self._ready[1], f"{lines}\n".encode())
        kernel.unshare_files()

    def _confine(self, *others: int) -> None:
        """Close what is not needed, make no more calls than answering takes."""
        helper.close_all_but((self.program, *self._listeners, *self._devices, *self._fuse, *self.descriptors(), *others))
        self._answers = self._made()
        confinement.confine(self._filter)

    def _made(self) -> Answers:
        return Answers(self._notification, self._reporter, self._pid, self._devices)

    def _stand_by(self, helper_: int) -> NoReturn:
        """The first stand-in: wait for the listener, then for the helper's end."""
        ready, other = self._ready[0], self._watch_parent(helper_)
        self._epoll.register(ready, select.EPOLLIN)
        if ready not in dict(self._epoll.poll(None if other != _NONE else 0)):
            if self._follows:  # processes that are not traced any more would go on without anybody who answers
                kernel.send_signal(self.program, linux.SIGKILL)
            os._exit(0)  # else nothing was confined
        lines = b""
        while not lines.endswith(b"\n\n"):
            lines += os.read(ready, 1 << 16)
        fields = (line.partition(" ") for line in lines.decode().splitlines() if line)
        self._listeners = {int(listener): phase for listener, _, phase in fields}
        self._epoll.unregister(ready)
        kernel.unshare_files()
        self._confine(self._epoll.fileno(), other)
        self._wait(other)

    def _wait(self, other: int) -> NoReturn:
        """Wait for the end of the helper, whose pidfd `other` is; if there is more to answer then, take its place.

        Nothing is opened for that: a limit may be in force."""
        self._epoll.register(self.program, select.EPOLLIN)
        while other != _NONE and other not in (ready := dict(self._epoll.poll())):
            if self.program in ready:
                self._epoll.unregister(self.program)
                self._reporter.give_back()
                kernel.send_signal(other, linux.SIGCONT)  # a helper that was stopped has to give it back too
        if other != _NONE:
            self._epoll.unregister(other)
        for listener in self._listeners:
            self._epoll.register(listener, select.EPOLLIN)
        ready = dict(self._epoll.poll(0))
        if all(ready.get(listener, 0) & select.EPOLLHUP for listener in self._listeners):
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
            self._epoll.register(pidfd, select.EPOLLIN)
        except OSError:
            return
        self._watched = pidfd


def _fuse(pid: int) -> tuple[int, int]:
    """A pipe: when all copies of its second end are closed while there is one of the first, the kernel kills a process."""
    ends = os.pipe()
    kernel.kill_at_end_of(ends[0], pid)
    return ends


def _device(path: str, access: int) -> int:
    """A descriptor of a device; -1 if there is none."""
    try:
        return os.open(path, access | os.O_CLOEXEC)
    except OSError:
        return _NONE


def _parent(pid: int) -> int:
    """A pidfd of this process's parent; -1 if that is another process, because the one with that pid has ended."""
    try:
        pidfd = kernel.pidfd_open(pid)
    except OSError:
        return _NONE
    return pidfd if os.getppid() == pid else _NONE
