"""What making the program's calls needs: copies of its sockets, whom they may reach, and answers, now or later."""

from __future__ import annotations

import errno
import os

from callfence.enforcer import kernel
from callfence.enforcer.hosts import memory
from callfence.enforcer.hosts.addresses import MAX_ADDRESS
from callfence.enforcer.hosts.sockets import Copier, Socket
from callfence.enforcer.hub import READABLE
from callfence.enforcer.pending import RESTART, Pending
from callfence.tracer import TYPE_CHECKING
from callfence.tracer.proc import proc

if TYPE_CHECKING:
    from collections.abc import Callable

    from callfence.enforcer.listener import Request

INT = 0xFFFFFFFF
"""The bits of a register that the kernel takes for an `int`."""
EAGAIN = -errno.EAGAIN
_MAX_KEPT = 4096
"""The most results that are kept because their calls were interrupted."""


class GoneError(Exception):
    """The call no longer waits."""


class Making:
    """Copies sockets, and answers calls when they have been made."""

    def __init__(self, pending: Pending) -> None:
        """`pending` gets the calls that are answered later."""
        self.pending = pending
        self.hub = pending.hub
        self.copier = Copier()
        self._undelivered: dict[int, tuple[tuple[object, ...], int]] = {}
        """By task: a call that was made and then interrupted before its answer (`_identity`), and its result."""

    def former(self, request: Request) -> int | None:
        """Return the result of a call that is made again because its answer was interrupted; None for another call."""
        former = self._undelivered.pop(request.call.task, None)
        return former[1] if former and former[0] == _identity(request) else None

    def finish(self, request: Request, result: int) -> None:
        """Answer a call: with its result, or with a negative errno."""
        self.pending.remove(request)
        try:
            request.finish(result)
        except OSError:
            if len(self._undelivered) >= _MAX_KEPT:
                self._undelivered.clear()
            self._undelivered[request.call.task] = _identity(request), result

    def let_run(self, request: Request) -> None:
        """Let a call run that can reach no one."""
        try:
            request.let_run()
        except OSError:
            return

    def comes_later(self, request: Request, interrupt: Callable[[int], None], *, is_timed: bool) -> None:
        """Note that a call is answered later (`Pending.add`).  `is_timed`: it waits for a limited time, so that it is not made
        again (net/core/sock.h, sock_intr_errno)."""
        self.pending.add(request, interrupt, -errno.EINTR if is_timed else RESTART)

    def wait(self, request: Request, socket: Socket, events: int, end: Callable[[int | None], None], too_late: int) -> None:
        """Call `end` once: with None when a socket is ready, or with a result: `too_late` when the time that it waits is over,
        a negative errno when a signal has come."""
        is_open, moment = [True], 0

        def once(result: int | None) -> None:
            if is_open:
                is_open.clear()
                self.hub.cancel(moment)
                self.pending.remove(request)
                end(result)

        seconds = socket.timeout(receiving=events == READABLE)
        self.comes_later(request, once, is_timed=seconds is not None)
        self.hub.watch(socket.descriptor, events, lambda: once(None))
        if seconds is not None:
            moment = self.hub.after(seconds, lambda: once(too_late))


def _identity(request: Request) -> tuple[object, ...]:
    """Return what is the same if a call is made again after a signal: its socket, too, since a program that does not make it
    again may have another one at that descriptor."""
    try:
        socket = os.readlink(f"{proc()}/{request.call.task}/fd/{request.call.arguments[0] & INT}")
    except OSError:
        socket = ""
    return *request.identity, socket


def check(request: Request) -> None:
    """Raise GoneError unless the call still waits: what has been read may be another task's."""
    if not request.is_waiting():
        raise GoneError


def write(request: Request, at: int, content: bytes) -> None:
    """Write into the memory of the task that waits.  Raises OSError, ESRCH if it no longer waits: its number may be another
    task's, and each write may have taken as long as the program wanted (userfaultfd(2))."""
    if not request.is_waiting():
        raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH), "write")
    kernel.write_memory(request.call.task, at, content)


def address_at(task: int, at: int, length: int) -> bytes:
    """Return the struct sockaddr at an address.  Raises OSError with the errno of connect(2)."""
    if length > MAX_ADDRESS:
        raise OSError(errno.EINVAL, "sockaddr")
    return memory.read(task, at, length)


def tried(work: Callable[[], int | None]) -> int | None:
    """Return the result of `work`, or a negative errno for an OSError."""
    try:
        return work()
    except OSError as error:
        return -(error.errno or errno.EACCES)
