"""Receive for the program from a resolver as if from the name server to which its socket was led, and name that as its peer.

Some programs compare who answers with whom they have asked (musl, c-ares)."""

from __future__ import annotations

from _socket import SOCK_DGRAM
from functools import partial

from callfence.enforcer.hosts import memory
from callfence.enforcer.hosts.addresses import peer_of
from callfence.enforcer.hosts.making import EAGAIN, INT, Making, tried, write
from callfence.enforcer.hosts.sockets import MSG_DONTWAIT
from callfence.enforcer.hub import READABLE
from callfence.tracer import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from callfence.enforcer.hosts.targets import Targets
    from callfence.enforcer.listener import Request

_MSG_TRUNC, _MSG_ERRQUEUE = 0x20, 0x2000  # linux/socket.h


class Receiving:
    """Makes recvfrom(2), recvmsg(2) and getpeername(2) on sockets that are led to a resolver, and lets all others run; each
    method returns the call's result, or None if it comes later, and raises OSError with the errno of the call."""

    def __init__(self, making: Making, targets: Targets) -> None:
        self._making = making
        self._targets = targets

    def recvfrom(self, request: Request) -> int | None:
        task, (number, at, size, flags, where, size_at) = request.call.task, request.arguments

        def store(count: int, content: bytes, address: bytes) -> int:
            memory.scatter(partial(write, request), [(at, size)], content)
            if where:
                memory.write_address(task, partial(write, request), address, where, size_at)
            return count

        return self._receive(request, number & INT, size, flags & INT, store)

    def recvmsg(self, request: Request) -> int | None:
        call = request.call
        number, at, flags = request.arguments[:3]
        if not self._targets.led or flags & _MSG_ERRQUEUE:
            self._making.let_run(request)
            return None
        message = memory.message(call.task, at, call.arch)

        def store(count: int, content: bytes, address: bytes) -> int:
            memory.scatter(partial(write, request), message.parts, content)
            if message.name:
                write(request, message.name, address[: message.name_length])
            is_cut = count > message.length
            message.write_result(partial(write, request), len(address) if message.name else 0, _MSG_TRUNC if is_cut else 0)
            return count if flags & _MSG_TRUNC else min(count, message.length)

        return self._receive(request, number & INT, message.length, flags & INT | _MSG_TRUNC, store)

    def _receive(
        self, request: Request, number: int, size: int, flags: int, store: Callable[[int, bytes, bytes], int]
    ) -> int | None:
        """Receive from a resolver as if from the name server; let calls on other sockets run: receiving reaches no one."""
        if not self._targets.led or flags & _MSG_ERRQUEUE:
            self._making.let_run(request)
            return None
        socket = self._making.copier.socket(request.call.task, number)
        led = self._targets.led.get(socket.inode) if request.is_waiting() else None
        if led is None or socket.type != SOCK_DGRAM:
            socket.close()
            self._making.let_run(request)
            return None
        waits = not flags & MSG_DONTWAIT and socket.is_blocking

        def receive(late: int | None = None) -> int | None:
            if late is not None:
                return late
            count, content, address = socket.receive(min(size, memory.MAX_COPIED), flags)
            if count == EAGAIN and waits:
                self._making.wait(request, socket, READABLE, ready, EAGAIN)
                return None
            if count < 0:
                return count
            peer = peer_of(address, socket.domain, sends=False)
            if peer and peer.port in led.ports:
                address = led.address(socket.domain)
            return store(count, content, address)

        def ready(late: int | None) -> None:
            self._making.hub.forget(socket.descriptor)
            if not request.is_waiting():
                socket.close()
            elif (result := tried(lambda: receive(late))) is not None:
                socket.close()
                self._making.finish(request, result)

        result = tried(receive)
        if result is not None:
            socket.close()
        return result

    def getpeername(self, request: Request) -> int | None:
        task, (number, where, size_at, *_) = request.call.task, request.arguments
        if not self._targets.led:
            self._making.let_run(request)
            return None
        socket = self._making.copier.socket(task, number & INT)
        try:
            led = self._targets.led.get(socket.inode) if request.is_waiting() else None
            peer = peer_of(socket.peer(), socket.domain, sends=False) if led else None
            if led is None or peer is None or peer.port not in led.ports:
                self._making.let_run(request)
                return None
            memory.write_address(task, partial(write, request), led.address(socket.domain), where, size_at)
            return 0
        finally:
            socket.close()
