"""What making the program's calls needs: copies of its sockets, whom they may reach, and answers, now or later."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from enforcer.hosts import memory
from enforcer.hosts.addresses import LONGEST
from enforcer.hosts.hub import READABLE, Hub
from enforcer.hosts.sockets import Copier
from tracer.proc import fields_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from enforcer.hosts.sockets import Socket
    from enforcer.listener import Request

INT = 0xFFFFFFFF
"""The bits of a register that the kernel takes for an `int`."""
EAGAIN = -errno.EAGAIN
_MOST = 4096
"""The most results that are kept because their calls were interrupted."""


LOOK = (0.02, 0.5)
"""Seconds until a call that waits is looked at for signals: first, and at most."""
_ERESTARTSYS = 512  # linux/errno.h: EINTR, or the call is made again if the signal's handler has SA_RESTART


class GoneError(Exception):
    """The call no longer waits."""


class Making:
    """Copies sockets, and answers calls when they have been made."""

    def __init__(self) -> None:
        self.hub = Hub()
        self.copier = Copier()
        self._undelivered: dict[int, tuple[tuple[int, ...], int]] = {}
        """By task: the number and arguments of a call that was made and then interrupted before its answer, and its result."""

    def descriptors(self) -> tuple[int, ...]:
        """Return the open descriptors of this object."""
        return (*self.hub.descriptors(), *self.copier.descriptors())

    def former(self, request: Request) -> int | None:
        """Return the result of a call that was made already, and is made again because its answer was interrupted; None for
        another call."""
        call = request.call
        former = self._undelivered.pop(call.task, None)
        return former[1] if former and former[0] == (call.number, *call.arguments) else None

    def finish(self, request: Request, result: int) -> None:
        """Answer a call: with its result, or with a negative errno."""
        try:
            request.finish(result)
        except OSError:
            if len(self._undelivered) >= _MOST:
                self._undelivered.clear()
            call = request.call
            self._undelivered[call.task] = ((call.number, *call.arguments), result)

    def let_run(self, request: Request) -> None:
        """Let a call run that can reach no one."""
        try:
            request.let_run()
        except OSError:
            return

    def wait(
        self, request: Request, socket: Socket, events: int, end: Callable[[int | None], None], too_late: int, done: int = 0
    ) -> None:
        """Call `end` once: with None when a socket is ready, or with the result: with `too_late` when the time that it waits is
        over, or as a signal interrupts the call.  `done`: the bytes that have been sent, which are the result then."""
        is_open = [True]

        def once(result: int | None) -> None:
            if is_open:
                is_open.clear()
                end(result)

        self.hub.watch(socket.descriptor, events, lambda: once(None))
        if (seconds := socket.timeout(receiving=events == READABLE)) is not None:
            self.hub.later(seconds, lambda: once(done or too_late))

        def look(pause: float) -> None:
            if is_open and is_interrupted(request):
                once(done or interruption(seconds))
            elif is_open:
                self.hub.later(pause, lambda: look(min(2 * pause, LOOK[1])))

        if request.listener >= 0:
            self.hub.later(LOOK[0], lambda: look(2 * LOOK[0]))


def check(request: Request) -> None:
    """Raise GoneError unless the call still waits: what has been read may be another task's."""
    if not request.is_waiting():
        raise GoneError


def is_interrupted(request: Request) -> bool:
    """Return whether a signal is pending that the task does not block, or the call waits no more.

    Once a call has been received, only signals that kill wake its task (SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV).  Those of a
    process with several threads are left out: another thread may take them, and then this call would not be restarted."""
    fields = fields_of(request.call.task)
    if not request.is_waiting():
        return True
    names = ("SigPnd", *("ShdPnd",) * (fields.get("Threads") == "1"))
    return any(int(fields.get(name, "0"), 16) & ~int(fields.get("SigBlk", "0"), 16) for name in names)


def interruption(seconds: float | None) -> int:
    """Return the result of a call that a signal interrupts; `seconds`: how long its socket lets it wait (socket(7))."""
    return -_ERESTARTSYS if seconds is None else -errno.EINTR


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
