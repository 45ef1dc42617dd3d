"""What making the program's calls needs: copies of its sockets, whom they may reach, and answers, now or later."""

from __future__ import annotations

import errno
import time
from typing import TYPE_CHECKING

from enforcer.hosts import memory
from enforcer.hosts.addresses import LONGEST
from enforcer.hosts.hub import READABLE, Hub
from enforcer.hosts.sockets import Copier
from tracer.proc import fields_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from enforcer.hosts.sockets import Socket
    from enforcer.listener import Request, Waiting

INT = 0xFFFFFFFF
"""The bits of a register that the kernel takes for an `int`."""
EAGAIN = -errno.EAGAIN
_ERESTARTSYS = -512
"""The kernel fails the call with EINTR, or makes it again, as the handler of the task's signal says (linux/errno.h)."""
_SWEEP, _SHARE = 0.02, 20
"""Seconds between two looks for signals of tasks that wait: at least, and as a multiple of the time that a look takes."""
_MOST = 4096
"""The most results that are kept because their calls were interrupted."""


class GoneError(Exception):
    """The call no longer waits."""


class Making:
    """Copies sockets, and answers calls when they have been made."""

    def __init__(self, waiting: Waiting) -> None:
        """`waiting` gets the calls that are answered later."""
        self._waiting = waiting
        self.hub = Hub()
        self.copier = Copier()
        self._undelivered: dict[int, tuple[tuple[int, ...], int]] = {}
        """By task: the number and arguments of a call that was made and then interrupted before its answer, and its result."""
        self._interrupts: dict[int, tuple[int, Callable[[int], None], int]] = {}
        """By id, of calls that wait: the task, and what to call with what when it has a signal."""
        self._signalled: set[int] = set()
        """The ids of those whose processes had a signal when they were last looked at."""

    def descriptors(self) -> tuple[int, ...]:
        """Return the open descriptors of this object."""
        return (*self.hub.descriptors(), *self.copier.descriptors())

    @property
    def count(self) -> int:
        """How many calls wait."""
        return len(self._interrupts)

    def former(self, request: Request) -> int | None:
        """Return the result of a call that was made already, and is made again because its answer was interrupted; None for
        another call."""
        former = self._undelivered.pop(request.call.task, None)
        return former[1] if former and former[0] == request.identity else None

    def finish(self, request: Request, result: int) -> None:
        """Answer a call: with its result, or with a negative errno."""
        self.done(request)
        try:
            request.finish(result)
        except OSError:
            if len(self._undelivered) >= _MOST:
                self._undelivered.clear()
            self._undelivered[request.call.task] = request.identity, result

    def let_run(self, request: Request) -> None:
        """Let a call run that can reach no one."""
        try:
            request.let_run()
        except OSError:
            return

    def comes_later(self, request: Request, interrupt: Callable[[int], None], *, is_timed: bool) -> None:
        """Note that a call is answered later.  `interrupt` is called with a negative errno when a signal ends it before;
        `is_timed`: it waits for a limited time, so that it is not made again (net/core/sock.h, sock_intr_errno)."""
        if request.listener >= 0:
            self._waiting.add(request.call.id)
            if not self._interrupts:
                self.hub.later(_SWEEP, self._sweep)
            self._interrupts[request.call.id] = request.call.task, interrupt, -errno.EINTR if is_timed else _ERESTARTSYS

    def _sweep(self) -> None:
        """End the calls that wait and whose tasks have a signal: the kernel, which knows that they are being answered, wakes
        them for no other signal than SIGKILL (SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV)."""
        begin = time.monotonic()
        for id_, (task, interrupt, result) in [*self._interrupts.items()]:
            fields = fields_of(task)
            blocked = _mask(fields, "SigBlk") | _mask(fields, "SigIgn")
            if _mask(fields, "SigPnd") & ~blocked:
                interrupt(result)
            elif _mask(fields, "ShdPnd") & ~blocked:  # it may be another thread's to take
                if fields["Threads"] == "1":
                    interrupt(result)
                elif id_ in self._signalled:
                    interrupt(-errno.EINTR)
                else:
                    self._signalled.add(id_)
        self._signalled &= self._interrupts.keys()
        if self._interrupts:
            self.hub.later(max(_SWEEP, _SHARE * (time.monotonic() - begin)), self._sweep)

    def done(self, request: Request) -> None:
        """Note that a call is no longer waited for."""
        self._waiting.remove(request.call.id)
        self._interrupts.pop(request.call.id, None)

    def wait(
        self, request: Request, socket: Socket, events: int, end: Callable[[int | None], None], too_late: int
    ) -> None:
        """Call `end` once: with None when a socket is ready, or with a result: `too_late` when the time that it waits is over,
        a negative errno when a signal has come."""
        is_open = [True]

        def once(result: int | None) -> None:
            if is_open:
                is_open.clear()
                self.done(request)
                end(result)

        seconds = socket.timeout(receiving=events == READABLE)
        self.comes_later(request, once, is_timed=seconds is not None)
        self.hub.watch(socket.descriptor, events, lambda: once(None))
        if seconds is not None:
            self.hub.later(seconds, lambda: once(too_late))


def _mask(fields: Mapping[str, str], name: str) -> int:
    return int(fields.get(name, "0"), 16)


def check(request: Request) -> None:
    """Raise GoneError unless the call still waits: what has been read may be another task's."""
    if not request.is_waiting():
        raise GoneError


def address_at(task: int, at: int, length: int) -> bytes:
    """Return the struct sockaddr at an address.  Raises OSError with the errno of connect(2)."""
    if length > LONGEST:
        raise OSError(errno.EINVAL, "sockaddr")
    return memory.read(task, at, length)


def tried(work: Callable[[], int | None]) -> int | None:
    """Return the result of `work`, or a negative errno for an OSError."""
    try:
        return work()
    except OSError as error:
        return -(error.errno or errno.EACCES)
