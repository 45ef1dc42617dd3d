"""Make connect(2) for the program."""

from __future__ import annotations

import errno
from functools import partial

from callfence.enforcer.hosts.addresses import peer_of
from callfence.enforcer.hosts.identity import acting
from callfence.enforcer.hosts.making import EAGAIN, INT, Making, address_at, check
from callfence.enforcer.hosts.rules import is_loopback
from callfence.enforcer.hub import WRITABLE
from callfence.tracer import TYPE_CHECKING
from callfence.tracer.linux import AF_UNIX

if TYPE_CHECKING:
    from callfence.enforcer.hosts.sockets import Socket
    from callfence.enforcer.hosts.targets import Target, Targets
    from callfence.enforcer.listener import Request

_EINPROGRESS, _EALREADY = -errno.EINPROGRESS, -errno.EALREADY
_AGAIN = (0.001, 0.05)
"""Seconds until a connection to a unix socket whose queue is full is tried again: first, and at most."""
_EACH = 0.0005
"""Seconds that each call which waits adds to that."""


class Connecting:
    """Makes connect(2)."""

    def __init__(self, making: Making, targets: Targets) -> None:
        self._making = making
        self._targets = targets

    def connect(self, request: Request) -> int | None:
        """Connect; return the result, or None if it comes later.  Raises OSError with the errno of the call, and GoneError."""
        task, (number, at, length, *_) = request.call.task, request.arguments
        socket = self._making.copier.socket(task, number & INT)
        target, is_kept = None, False
        try:
            address = address_at(task, at, length & INT)
            check(request)
            peer = peer_of(address, socket.domain, sends=False)
            target = self._targets.of(request, socket, peer, address)
            if self._targets.must_be_mute(socket, target):
                socket.mute()  # before: another thread may send at once
            # There the answer mostly comes at once; it is waited for unless that is under way for other calls.
            waits = (socket.domain == AF_UNIX or is_loopback(peer.host if peer else b"")) and not self._making.pending.count
            result = acting(target.identity, partial(socket.connect, target.address, waits=waits))
            self._targets.connected(socket, target)
            if result == EAGAIN and socket.domain == AF_UNIX and socket.is_blocking:
                is_kept = True
                self._try_again(request, socket, target)
                return None
            if result in (_EINPROGRESS, _EALREADY) and socket.is_blocking:
                is_kept = True
                self._await_connection(request, socket)
                return None
            return result
        finally:
            if not is_kept:
                socket.close()
                if target:
                    target.close()

    def _await_connection(self, request: Request, socket: Socket) -> None:
        """Answer a connect(2) when its connection has been established or has failed, or its time is over."""

        def end(result: int | None) -> None:
            self._making.hub.forget(socket.descriptor)
            is_waiting = request.is_waiting()  # else the program asks for the error itself
            if is_waiting and result is None:
                result = socket.error()
            socket.close()
            if is_waiting and result is not None:
                self._making.finish(request, result)

        self._making.wait(request, socket, WRITABLE, end, _EINPROGRESS)

    def _try_again(self, request: Request, socket: Socket, target: Target) -> None:
        """Connect to a unix socket whose queue is full, again and again, until that succeeds or its time is over."""
        seconds = socket.timeout(receiving=False)
        is_open = [True]

        def end(result: int | None) -> None:
            if is_open:
                is_open.clear()
                target.close()
                socket.close()
                if result is not None and request.is_waiting():
                    self._making.finish(request, result)

        def attempt(pause: float, waited: float) -> None:
            if not is_open:
                return
            if not request.is_waiting():
                self._making.pending.remove(request)
                end(None)
                return
            result = acting(target.identity, partial(socket.connect, target.address))
            if result == EAGAIN and (seconds is None or waited < seconds):
                pause = max(pause, self._making.pending.count * _EACH)  # many that wait leave time for others
                self._making.hub.after(pause, lambda: attempt(min(2 * pause, _AGAIN[1]), waited + pause))
            else:
                end(result)

        self._making.comes_later(request, end, is_timed=seconds is not None)
        self._making.hub.after(_AGAIN[0], lambda: attempt(2 * _AGAIN[0], _AGAIN[0]))
