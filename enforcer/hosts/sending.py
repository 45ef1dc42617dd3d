"""Make the calls that send datagrams, or messages with an address, for the program."""

from __future__ import annotations

import errno
import time
from _socket import AF_INET, AF_INET6, SOCK_DGRAM, SOCK_STREAM
from functools import partial

from callfence.enforcer import kernel
from callfence.enforcer.alarms import close_at_once
from callfence.enforcer.hosts import memory
from callfence.enforcer.hosts.addresses import AF_NETLINK, peer_of
from callfence.enforcer.hosts.identity import acting, credentials
from callfence.enforcer.hosts.making import EAGAIN, INT, Making, address_at, check, tried, write
from callfence.enforcer.hosts.sockets import MSG_DONTWAIT, MSG_NOSIGNAL
from callfence.enforcer.hosts.targets import Target, Targets
from callfence.enforcer.hub import WRITABLE
from callfence.tracer import TYPE_CHECKING, linux
from callfence.tracer.proc import owner

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from callfence.enforcer.hosts.sockets import Socket
    from callfence.enforcer.listener import Request

_SOURCE_ROUTES = ((0, 7), (41, 57), (41, 5))
"""Levels and types of control messages that send a datagram over other hosts: IP_RETOPTS, IPV6_RTHDR and its older form."""
_MAX_MESSAGES = 1024  # UIO_MAXIOV, for sendmmsg(2)
_TURN = 0.1
"""The seconds after which sendmmsg(2) returns how many messages it has sent so far: to read one may take 5 ms, and the
program's other calls wait meanwhile."""
_MAX_BYTES = 0x7FFFF000
"""The most bytes that one call sends (MAX_RW_COUNT, linux/fs.h)."""


class _Message:
    """A message that is being sent."""

    __slots__ = ("control", "copies", "done", "flags", "is_kept", "length", "request", "rest", "sent", "socket", "target")

    def __init__(self, request: Request, socket: Socket, flags: int, done: Callable[[int], int] = int) -> None:
        self.request = request
        self.done = done
        """Makes the call's result of that of sending, bytes or a negative errno."""
        self.socket = socket
        self.flags = flags
        self.length = 0
        """How many bytes the content has."""
        self.sent = 0
        """How many bytes have been sent."""
        self.rest: Callable[[int], bytes] = bytes
        """Reads what comes after so many bytes of the content, at most `memory.MAX_COPIED` bytes.  Raises OSError."""
        self.control: Sequence[tuple[int, int, bytes]] = ()
        self.copies: list[int] = []
        """Copies of the descriptors that it passes."""
        self.target = Target(b"")
        self.is_kept = False
        """Whether it waits until it can be sent."""

    def close_if_done(self) -> None:
        """Close what it holds unless it waits."""
        if not self.is_kept:
            self.socket.close()
            self.target.close()
            if self.copies:
                close_at_once(*self.copies)


class Sending:
    """Makes sendto(2), sendmsg(2) and sendmmsg(2); each method returns the call's result, or None if it comes later, and raises
    OSError with the errno of the call, and GoneError."""

    def __init__(self, making: Making, targets: Targets) -> None:
        self._making = making
        self._targets = targets

    # _Message

    def sendto(self, request: Request) -> int | None:
        task, (number, at, length, flags, where, size) = request.call.task, request.arguments
        socket = self._making.copier.socket(task, number & INT)
        sending = _Message(request, socket, flags & INT)
        try:
            sending.length = _length(socket, length)
            sending.rest = lambda sent: memory.read(task, at + sent, min(sending.length - sent, memory.MAX_COPIED))
            content = sending.rest(0)
            address = address_at(task, where, size & INT) if where else b""
            if where and not address and socket.type == SOCK_DGRAM and socket.domain in (AF_INET, AF_INET6):
                raise OSError(errno.EINVAL, "sendto")
            check(request)
            sending.target = self._send_target(request, socket, address)
            return self._send(sending, content)
        finally:
            sending.close_if_done()

    def sendmsg(self, request: Request) -> int | None:
        _, at, flags = request.arguments[:3]
        return self._send_message(request, at, flags & INT, int)

    def _send_message(self, request: Request, at: int, flags: int, done: Callable[[int], int]) -> int | None:
        """Send the message of a struct msghdr; return what `done` makes of the result, or None if it is waited for."""
        call = request.call
        socket = self._making.copier.socket(call.task, request.arguments[0] & INT)
        sending = _Message(request, socket, flags, done)
        try:
            message = memory.message(call.task, at, call.arch)
            sending.length = _length(socket, message.length)
            sending.rest = lambda sent: memory.gathered(call.task, memory.message(call.task, at, call.arch).parts, sent)
            content = memory.gathered(call.task, message.parts, 0)
            control = memory.control(call.task, message)
            address = address_at(call.task, message.name, message.name_length) if message.name else b""
            sending.control = self._making.copier.control(call.task, control, socket.domain, sending.copies)
            check(request)
            if any((level, kind) in _SOURCE_ROUTES for level, kind, _ in control):
                self._targets.deny_wholly(request, "its control data leads it over other hosts")
            sending.target = self._send_target(request, socket, address)
            return self._send(sending, content)
        finally:
            sending.close_if_done()

    def sendmmsg(self, request: Request) -> int | None:
        call = request.call
        at, flags = request.arguments[1], request.arguments[3]
        count = min(request.arguments[2] & INT, _MAX_MESSAGES)
        step, length_at = memory.steps(call.arch)
        if not count:
            self._making.copier.socket(call.task, request.arguments[0] & INT).close()

        def done(place: int, result: int) -> int:
            """Write how much of a message was sent, and return how many messages were."""
            if result < 0:
                return place or result
            write(request, at + place * step + length_at, result.to_bytes(4, "little"))
            return place + 1

        end = time.monotonic() + _TURN
        for place in range(count):
            if place and time.monotonic() > end:
                return place
            later = flags & INT | (MSG_DONTWAIT if place else 0)  # only the first one is waited for
            self._targets.is_part = place > 0
            try:
                result = self._send_message(request, at + place * step, later, partial(done, place))
            except OSError as error:
                return place or -(error.errno or errno.EACCES)
            finally:
                self._targets.is_part = False
            if result is None or result <= place:
                return result
        return count

    def _send_target(self, request: Request, socket: Socket, address: bytes) -> Target:
        if not address or (socket.type != SOCK_DGRAM and socket.use != "raw"):  # a connection, for which no address counts
            self._targets.judge_peer(request, socket)
            # Looking further takes as long as all else; who sends to the kernel counts by its capabilities, too.
            is_alike = socket.domain != AF_NETLINK and self._making.copier.is_own_user(request.call.task)
            return Target(address) if is_alike else self._targets.unjudged(request, socket, address)
        if socket.domain == AF_INET6 and address[:2] == bytes(2):  # AF_UNSPEC: as without an address (net/ipv6/udp.c)
            return Target(b"")  # for it may become an IPv4 socket meanwhile (IPV6_ADDRFORM), for which this is AF_INET
        return self._targets.of(request, socket, peer_of(address, socket.domain, sends=True), address, sends=True)

    def _send(self, sending: _Message, rest: bytes) -> int | None:
        """Send what is left; return the result, or None if it is waited for.  Then `rest` is read again, not kept: a program
        may have thousands of calls that wait, all with the same memory."""
        socket, request, target = sending.socket, sending.request, sending.target
        control = [*sending.control, *credentials(target.identity)]
        send = partial(socket.send, rest, sending.flags, target.address, control)
        result = acting(target.identity, send)
        self._targets.note(socket, target)
        is_waiting = not sending.flags & MSG_DONTWAIT and socket.is_blocking
        if result > 0 and socket.type == SOCK_STREAM:
            sending.sent += result
            is_waiting = is_waiting and sending.sent < sending.length
            sending.control = ()  # it goes with the first byte
            result = sending.sent
        elif result != EAGAIN:
            is_waiting = False
        if is_waiting:
            sending.is_kept = True
            self._making.wait(request, socket, WRITABLE, lambda late: self._send_more(sending, late), EAGAIN)
            return None
        signals = result == -errno.EPIPE and socket.type == SOCK_STREAM and not (sending.sent or sending.flags & MSG_NOSIGNAL)
        if signals and request.is_waiting():
            kernel.kill_thread(owner(request.call.task), request.call.task, linux.SIGPIPE)
        return sending.done(sending.sent or result)

    def _send_more(self, sending: _Message, result: int | None) -> None:
        self._making.hub.forget(sending.socket.descriptor)
        sending.is_kept = False
        rest = b""
        if result is None:
            try:
                rest = sending.rest(sending.sent)
            except OSError as error:
                result = -(error.errno or errno.EFAULT)
        if sending.request.is_waiting():  # else what was read may be another task's
            total = tried(lambda: self._send(sending, rest) if result is None else sending.done(sending.sent or result))
            if total is not None:
                self._making.finish(sending.request, total)
        sending.close_if_done()


def _length(socket: Socket, length: int) -> int:
    """Return how many bytes of a content a call sends.  Raises OSError for a message that would have to be sent at once."""
    if socket.type != SOCK_STREAM and length > memory.MAX_COPIED:
        raise OSError(errno.EMSGSIZE, "message")
    return min(length, _MAX_BYTES)
