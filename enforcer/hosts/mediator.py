"""Make the program's calls that reach other hosts and unix sockets: each is judged by a copy of its address, and then made on a
copy of the socket with that copy, so that nothing which the program changes meanwhile counts.

A call that would wait is waited for here (`enforcer.hosts.hub`), while others are answered.
"""

from __future__ import annotations

import errno
import os
from _socket import AF_INET, AF_INET6, SOCK_DGRAM
from functools import partial

from enforcer import kernel
from enforcer.hosts import memory, unix
from enforcer.hosts.addresses import LONGEST, Peer, address_of, peer_of
from enforcer.hosts.granted import NAMES
from enforcer.hosts.hub import READABLE, WRITABLE, Hub
from enforcer.hosts.names import PORT, Names
from enforcer.hosts.resolver import Judge, Resolver
from enforcer.hosts.rules import is_near
from enforcer.hosts.sockets import Copier
from tracer import TYPE_CHECKING, linux
from tracer.linux import AF_UNIX
from tracer.proc import fields_of, owner

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from enforcer.hosts.granted import Hosts
    from enforcer.hosts.sockets import Socket
    from enforcer.listener import Request

_INT = 0xFFFFFFFF
_EINPROGRESS, _EALREADY, _EAGAIN = -errno.EINPROGRESS, -errno.EALREADY, -errno.EAGAIN
_MSG_TRUNC, _MSG_DONTWAIT, _MSG_ERRQUEUE, _MSG_NOSIGNAL = 0x20, 0x40, 0x2000, 0x4000  # linux/socket.h
_MOST_MESSAGES = 1024  # UIO_MAXIOV, for sendmmsg(2)
_LINES = {"connect": "tcp connect", "send": "udp send"}
"""The beginning of the line about each use."""
_SOURCE_ROUTES = ((0, 7), (41, 57), (41, 5))
"""Levels and types of control messages that send a datagram over other hosts: IP_RETOPTS, IPV6_RTHDR and its older form."""
_AGAIN = (0.001, 0.05)
"""Seconds until a call that cannot be waited for is tried again: first, and at most."""
_MOST = 4096
"""The most results that are kept because their calls were interrupted, and the most sockets that are led to a resolver."""


class Denial:
    """What policies do not grant to a call, for a report."""

    __slots__ = ("error", "lacking", "why")

    def __init__(self, lacking: Sequence[tuple[str, str, str]], why: str = "", error: str = "EACCES") -> None:
        self.lacking = lacking
        """The policy's file, the beginning of the line that would grant it, and what that line grants after its colon."""
        self.why = why
        self.error = error


class _Led:
    """A socket of the program that was led to a resolver instead of a name server."""

    __slots__ = ("ports", "request", "server")

    def __init__(self, server: bytes, ports: frozenset[int], request: Request) -> None:
        self.server = server
        """The address of the name server, 4 or 16 bytes."""
        self.ports = ports
        """The ports of the resolver."""
        self.request = request
        """The call by which it was led."""


class _Target:
    """An address that a call may be made to."""

    __slots__ = ("_found", "address", "is_mute", "led")

    def __init__(
        self, address: bytes, found: unix.Found | None = None, led: _Led | None = None, *, is_mute: bool = False
    ) -> None:
        self.address = address
        """struct sockaddr; b"" for none."""
        self.is_mute = is_mute
        """Whether the socket may send nothing there."""
        self.led = led
        """What is known of the socket, if it is led to a resolver."""
        self._found = found
        """The file of a unix socket, which has to stay open until the call has been made."""

    def close(self) -> None:
        if self._found:
            self._found.close()
            self._found = None


class GoneError(Exception):
    """The call no longer waits."""


class DeniedError(OSError):
    """The call fails, with this errno, after a report."""

    def __init__(self, number: int = errno.EACCES) -> None:
        super().__init__(number, os.strerror(number))


class Mediator:
    """Answers the calls of `granted.NAMES` that the policies' filters allow."""

    def __init__(self, hosts: Hosts, deny: Callable[[Request, Denial], None], complain: Callable[[str], None]) -> None:
        """`deny` reports a denied call or look-up.  `complain` writes a message about a failure."""
        self._hosts = hosts
        self._deny = deny
        self._complain = complain
        self.hub = Hub()
        self._copier = Copier()
        self._names = Names([rules for _, rules in hosts.policies]) if hosts.has_names else None
        self._resolvers: dict[bytes, Resolver] = {}
        """By the name server's address."""
        self._led: dict[int, _Led] = {}
        """By the socket's inode."""
        self._led_from: dict[int, _Led] = {}
        """By the port from which the program's socket asks."""
        self._undelivered: dict[int, tuple[tuple[int, ...], int]] = {}
        """By task: the number and arguments of a call that was made and then interrupted before its answer, and its result."""
        self._makers = {
            "connect": self._connect,
            "sendto": self._sendto,
            "sendmsg": self._sendmsg,
            "sendmmsg": self._sendmmsg,
            "recvfrom": self._recvfrom,
            "recvmsg": self._recvmsg,
            "getpeername": self._getpeername,
        }

    def make(self, request: Request) -> Request:
        """Make a call that the policies allow (`Hosts.are_judged`), and answer it now or later; return the request that will have been answered."""
        call = request.call
        former = self._undelivered.pop(call.task, None)
        request = request.kept()
        if former and former[0] == (call.number, *call.arguments):  # it was interrupted, and is made again: it has been done
            self._finish(request, former[1])
            return request
        name = NAMES[call.arch, call.number]
        try:
            result = self._makers[name](request)
        except GoneError:
            return request
        except OSError as error:
            result = -(error.errno or errno.EACCES)
            if result in (-errno.EPERM, -errno.ESRCH):  # this process may not look into the task
                result = -errno.EACCES
        except Exception as error:
            self._complain(f"{name} could not be judged and fails: {type(error).__name__}: {error}")
            result = -errno.EACCES
        if result is not None:
            self._finish(request, result)
        return request

    def make_stopped(self, request: Request) -> int | None:
        """Make a call that the policies allow (`Hosts.are_judged`) and whose task is stopped; return its result or a negative errno, None if the task makes
        it itself."""
        request = self.make(request)
        while request.result is None and not request.runs:
            self.hub.run(waits=True)
        return request.result

    def descriptors(self) -> tuple[int, ...]:
        """Return the open descriptors of this object."""
        return (*self.hub.descriptors(), *self._copier.descriptors())

    def _finish(self, request: Request, result: int) -> None:
        try:
            request.finish(result)
        except OSError:
            if len(self._undelivered) >= _MOST:
                self._undelivered.clear()
            call = request.call
            self._undelivered[call.task] = ((call.number, *call.arguments), result)

    def _let_run(self, request: Request) -> None:
        """Let a call run that can reach no one."""
        try:
            request.let_run()
        except OSError:
            return

    # Connecting

    def _connect(self, request: Request) -> int | None:
        task, (number, at, length, *_) = request.call.task, request.call.arguments
        socket = self._copier.socket(task, number & _INT)
        target, is_kept = None, False
        try:
            address = _address(task, at, length & _INT)
            _check(request)
            target = self._target(request, socket, peer_of(address, socket.domain, sends=False), address)
            result = socket.connect(target.address)
            if target.is_mute:
                socket.mute()
            self._note(socket, target)
            if result == _EAGAIN and socket.domain == AF_UNIX and socket.is_blocking:
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
            self.hub.forget(socket.descriptor)
            is_waiting = request.is_waiting()  # else the program asks for the error itself
            if is_waiting and result is None:
                result = socket.error()
            socket.close()
            if is_waiting and result is not None:
                self._finish(request, result)

        self._wait(socket, WRITABLE, end, _EINPROGRESS)

    def _wait(self, socket: Socket, events: int, end: Callable[[int | None], None], too_late: int) -> None:
        """Call `end` once: with None when a socket is ready, or with `too_late` when the time that it waits is over."""
        is_open = [True]

        def once(result: int | None) -> None:
            if is_open:
                is_open.clear()
                end(result)

        self.hub.watch(socket.descriptor, events, lambda: once(None))
        if (seconds := socket.timeout(receiving=events == READABLE)) is not None:
            self.hub.later(seconds, lambda: once(too_late))

    def _try_again(self, request: Request, socket: Socket, target: _Target) -> None:
        """Connect to a unix socket whose queue is full, again and again, until that succeeds or its time is over."""
        seconds = socket.timeout(receiving=False)

        def attempt(pause: float, waited: float) -> None:
            is_waiting = request.is_waiting()
            result = socket.connect(target.address) if is_waiting else 0
            if is_waiting and result == _EAGAIN and (seconds is None or waited < seconds):
                self.hub.later(pause, lambda: attempt(min(2 * pause, _AGAIN[1]), waited + pause))
                return
            target.close()
            socket.close()
            if is_waiting:
                self._finish(request, result)

        self.hub.later(_AGAIN[0], lambda: attempt(2 * _AGAIN[0], _AGAIN[0]))

    # Sending

    def _sendto(self, request: Request) -> int | None:
        task, (number, at, length, flags, where, size) = request.call.task, request.call.arguments
        socket = self._copier.socket(task, number & _INT)
        sending = _Sending(request, socket, flags & _INT)
        try:
            if socket.type == SOCK_DGRAM and length > memory.MOST:
                raise OSError(errno.EMSGSIZE, "sendto")
            sending.content = memory.read(task, at, min(length, memory.MOST))
            address = _address(task, where, size & _INT)
            _check(request)
            sending.target = self._send_target(request, socket, address)
            return self._send(sending)
        finally:
            sending.close_if_done()

    def _sendmsg(self, request: Request) -> int | None:
        _, at, flags = request.call.arguments[:3]
        return self._send_message(request, at, flags & _INT, int)

    def _send_message(self, request: Request, at: int, flags: int, done: Callable[[int], int]) -> int | None:
        """Send the message of a struct msghdr; return the call's result, which `done` makes of that of sending, or None if it is
        waited for."""
        call = request.call
        socket = self._copier.socket(call.task, call.arguments[0] & _INT)
        sending = _Sending(request, socket, flags, done)
        try:
            message = memory.message(call.task, at, call.arch)
            if socket.type == SOCK_DGRAM and message.length > memory.MOST:
                raise OSError(errno.EMSGSIZE, "sendmsg")
            sending.content = memory.gathered(call.task, message.parts, memory.MOST)
            control = memory.control(call.task, message)
            address = _address(call.task, message.name, message.name_length) if message.name else b""
            sending.control = self._copier.control(call.task, control, sending.copies)
            _check(request)
            if any((level, kind) in _SOURCE_ROUTES for level, kind, _ in control):
                self._deny_wholly(request, "its control data leads it over other hosts")
                raise DeniedError(errno.EPERM)
            sending.target = self._send_target(request, socket, address)
            return self._send(sending)
        finally:
            sending.close_if_done()

    def _sendmmsg(self, request: Request) -> int | None:
        call = request.call
        _, at, count, flags = call.arguments[:4]
        step, length_at = memory.steps(call.arch)

        def done(place: int, result: int) -> int:
            """Write how much of a message was sent, and return how many messages were."""
            if result < 0:
                return place or result
            kernel.write_memory(call.task, at + place * step + length_at, result.to_bytes(4, "little"))
            return place + 1

        for place in range(min(count & _INT, _MOST_MESSAGES)):
            later = flags & _INT | (_MSG_DONTWAIT if place else 0)  # only the first one is waited for
            try:
                result = self._send_message(request, at + place * step, later, partial(done, place))
            except OSError as error:
                return place or -(error.errno or errno.EACCES)
            if result is None or result <= place:
                return result
        return min(count & _INT, _MOST_MESSAGES)

    def _send_target(self, request: Request, socket: Socket, address: bytes) -> _Target:
        if not address or (socket.type != SOCK_DGRAM and socket.use != "raw"):  # a connection, for which no address counts
            return _Target(address)
        return self._target(request, socket, peer_of(address, socket.domain, sends=True), address, sends=True)

    def _send(self, sending: _Sending) -> int | None:
        """Send; return the result, or None if it is waited for."""
        socket, request = sending.socket, sending.request
        result = socket.send(sending.content[sending.sent :], sending.flags, sending.target.address, sending.control)
        self._note(socket, sending.target)
        is_waiting = not sending.flags & _MSG_DONTWAIT and socket.is_blocking
        if result > 0 and socket.type != SOCK_DGRAM:
            sending.sent += result
            sending.control = ()  # it goes with the first byte
            result = sending.sent
            is_waiting = is_waiting and sending.sent < len(sending.content)
        elif result != _EAGAIN:
            is_waiting = False
        if is_waiting:
            sending.is_kept = True
            self._wait(socket, WRITABLE, lambda late: self._send_more(sending, late), sending.sent or _EAGAIN)
            return None
        if result == -errno.EPIPE and socket.type != SOCK_DGRAM and not sending.flags & _MSG_NOSIGNAL:
            kernel.kill_thread(owner(request.call.task), request.call.task, linux.SIGPIPE)
        return sending.done(sending.sent or result)

    def _send_more(self, sending: _Sending, result: int | None) -> None:
        self.hub.forget(sending.socket.descriptor)
        sending.is_kept = False
        if sending.request.is_waiting():
            total = _tried(lambda: self._send(sending) if result is None else sending.done(result))
            if total is not None:
                self._finish(sending.request, total)
        sending.close_if_done()

    # Receiving from a name server, and asking for its address

    def _recvfrom(self, request: Request) -> int | None:
        task, (number, at, size, flags, where, size_at) = request.call.task, request.call.arguments

        def write(count: int, content: bytes, address: bytes) -> int:
            memory.scatter(task, [(at, size)], content)
            memory.write_address(task, address, where, size_at)
            return count

        return self._receive(request, number & _INT, size, flags & _INT, write)

    def _recvmsg(self, request: Request) -> int | None:
        call = request.call
        number, at, flags = call.arguments[:3]
        if not self._led or flags & _MSG_ERRQUEUE:
            self._let_run(request)
            return None
        message = memory.message(call.task, at, call.arch)

        def write(count: int, content: bytes, address: bytes) -> int:
            memory.scatter(call.task, message.parts, content)
            if message.name:
                kernel.write_memory(call.task, message.name, address[: message.name_length])
            is_cut = count > message.length
            message.write_result(call.task, len(address) if message.name else 0, _MSG_TRUNC if is_cut else 0)
            return count if flags & _MSG_TRUNC else min(count, message.length)

        return self._receive(request, number & _INT, message.length, flags & _INT | _MSG_TRUNC, write)

    def _receive(
        self, request: Request, number: int, size: int, flags: int, write: Callable[[int, bytes, bytes], int]
    ) -> int | None:
        """Receive from a resolver as if from the name server; let the call run for any other socket, since receiving reaches no
        one."""
        if not self._led or flags & _MSG_ERRQUEUE:
            self._let_run(request)
            return None
        socket = self._copier.socket(request.call.task, number)
        led = self._led.get(socket.inode) if request.is_waiting() else None
        if led is None or socket.type != SOCK_DGRAM:
            socket.close()
            self._let_run(request)
            return None
        waits = not flags & _MSG_DONTWAIT and socket.is_blocking

        def receive(late: int | None = None) -> int | None:
            if late is not None:
                return late
            count, content, address = socket.receive(min(size, memory.MOST), flags)
            if count == _EAGAIN and waits:
                self._wait(socket, READABLE, ready, _EAGAIN)
                return None
            if count < 0:
                return count
            peer = peer_of(address, socket.domain, sends=False)
            if peer and peer.port in led.ports:
                address = address_of(led.server, PORT, socket.domain)
            return write(count, content, address)

        def ready(late: int | None) -> None:
            self.hub.forget(socket.descriptor)
            result = _tried(lambda: receive(late)) if request.is_waiting() else 0
            if result is not None:
                socket.close()
                self._finish(request, result)

        result = _tried(receive)
        if result is not None:
            socket.close()
        return result

    def _getpeername(self, request: Request) -> int | None:
        task, (number, where, size_at, *_) = request.call.task, request.call.arguments
        if not self._led:
            self._let_run(request)
            return None
        socket = self._copier.socket(task, number & _INT)
        try:
            led = self._led.get(socket.inode) if request.is_waiting() else None
            peer = peer_of(socket.peer(), socket.domain, sends=False) if led else None
            if led is None or peer is None or peer.port not in led.ports:
                self._let_run(request)
                return None
            memory.write_address(task, address_of(led.server, PORT, socket.domain), where, size_at)
            return 0
        finally:
            socket.close()

    # Judging

    def _target(
        self, request: Request, socket: Socket, peer: Peer | None, address: bytes, *, sends: bool = False
    ) -> _Target:
        """Return the address to which a call may be made.  Raises OSError for a call that is denied, after a report, or that
        would fail."""
        use = socket.use
        if use == "unix" and peer and peer.family == AF_UNIX and peer.path:
            return self._unix_target(request, peer, address)
        if use == "raw":
            self._deny_wholly(request, "this kind of socket can reach any host")
        elif peer and use in _LINES and peer.family in (AF_INET, AF_INET6):
            if self._names and self._names.is_server(peer.host, peer.port):
                return self._lead(request, socket, peer)
            if use == "send" and not sends and self._is_known(peer):
                return _Target(address, is_mute=True)
            self._judge(request, use, peer)
        return _Target(address)  # any other address reaches no host: the kernel fails the call, or ends a connection

    def _is_known(self, peer: Peer) -> bool:
        """Return whether policies deny datagrams to a host, but not connections, or it is this host itself.

        Resolvers connect a datagram socket to each address of a name to see from which address it would be reached (RFC 6724,
        6), and send nothing."""
        names = self._names.of(peer.host) if self._names else []
        policies = [rules for _, rules in self._hosts.policies]
        if all(rules.grants("send", peer.host, peer.port, names) for rules in policies):
            return False
        return is_near(peer.host) or all(rules.reaches("connect", peer.host, names) for rules in policies)

    def _judge(self, request: Request, use: str, peer: Peer) -> None:
        """Raise DeniedError, after a report, unless all policies let the program reach a host."""
        names = self._names.of(peer.host) if self._names else []
        lacking = [file for file, rules in self._hosts.policies if not rules.grants(use, peer.host, peer.port, names)]
        if lacking:
            why = f"{peer.text} is an address of {', '.join(names)}" if names else ""
            host = names[-1] if names else peer.text
            if names and is_near(peer.host):
                why += ", and a name opens no address of this host or its link"
                host = peer.text
            self._deny_call(request, [(file, f"{_LINES[use]} {host}", str(peer.port)) for file in lacking], why)

    def _unix_target(self, request: Request, peer: Peer, address: bytes) -> _Target:
        if self._names and peer.path in unix.NAME_SERVICES:
            raise OSError(errno.ENOENT, "connect")
        confining = [file for file, rules in self._hosts.policies if "unix" in rules.confines]
        if peer.path.startswith(b"\0"):
            name, target = b"@" + peer.path[1:], _Target(address)
        else:
            try:
                found = unix.find(request.call.task, peer.path)
            except unix.HardLinkError as error:
                self._deny_wholly(request, str(error))
                return _Target(address)
            name, target = found.path, _Target(found.address, found)
        lacking = [file for file in confining if not unix.is_granted(name, self._hosts.sockets[file])]
        try:
            if lacking:
                from policygen.paths import shown

                line = f"unix connect {shown(name.decode('utf-8', 'surrogateescape'))}"
                self._deny_call(request, [(file, line, "") for file in lacking], "")
            if not _is_like_us(request.call.task):
                self._deny_wholly(request, "the process runs as another user than its helper, who would connect for it")
        except OSError:
            target.close()
            raise
        return target

    def _deny_call(self, request: Request, lacking: Sequence[tuple[str, str, str]], why: str) -> None:
        """Report a call, and raise DeniedError unless nothing is enforced."""
        self._deny(request, Denial(lacking, why))
        if not self._hosts.is_audit:
            raise DeniedError

    def _deny_wholly(self, request: Request, why: str) -> None:
        """The same for a call that no line would allow."""
        self._deny_call(request, [(file, "", "") for file, _ in self._hosts.policies], why)

    # Name servers

    def _lead(self, request: Request, socket: Socket, peer: Peer) -> _Target:
        """Return the address of the resolver for a name server.  Raises OSError."""
        assert self._names
        resolver = self._resolvers.get(peer.host)
        if resolver is None:
            judge = Judge(self._names, self._deny_name, is_audit=self._hosts.is_audit)
            resolver = self._resolvers[peer.host] = Resolver(peer.host, self.hub, self._names, judge)
        led = _Led(peer.host, frozenset(resolver.ports.values()), request)
        family = socket.domain if (socket.domain, socket.type) in resolver.ports else AF_INET
        host = b"\x7f\0\0\1" if family == AF_INET else bytes(15) + b"\1"
        return _Target(address_of(host, resolver.ports[family, socket.type], socket.domain), led=led)

    def _note(self, socket: Socket, target: _Target) -> None:
        """Remember a socket that has been led to a resolver, and one that is led there no more."""
        inode = socket.inode if self._led or target.led else 0
        self._led.pop(inode, None)
        if target.led:
            for kept, key in ((self._led, inode), (self._led_from, socket.local_port())):
                if len(kept) >= _MOST:
                    del kept[next(iter(kept))]
                kept.pop(key, None)
                kept[key] = target.led

    def _deny_name(self, name: str, why: str, port: int) -> None:
        if led := self._led_from.get(port):
            files = [file for file, rules in self._hosts.policies if rules.has_names]
            rows = [(file, "", "") if why else (file, f"tcp connect {name}", "443") for file in files]
            self._deny(led.request.kept(stopped=True), Denial(rows, why, "REFUSED"))


class _Sending:
    """A message that is being sent."""

    __slots__ = ("content", "control", "copies", "done", "flags", "is_kept", "request", "sent", "socket", "target")

    def __init__(self, request: Request, socket: Socket, flags: int, done: Callable[[int], int] = int) -> None:
        self.request = request
        self.done = done
        """Makes the call's result of that of sending, bytes or a negative errno."""
        self.socket = socket
        self.flags = flags
        self.content = b""
        self.sent = 0
        """How many bytes have been sent."""
        self.control: Sequence[tuple[int, int, bytes]] = ()
        self.copies: list[int] = []
        """Copies of the descriptors that it passes."""
        self.target = _Target(b"")
        self.is_kept = False
        """Whether it waits until it can be sent."""

    def close_if_done(self) -> None:
        """Close what it holds unless it waits."""
        if not self.is_kept:
            self.socket.close()
            self.target.close()
            for copy in self.copies:
                os.close(copy)


def _check(request: Request) -> None:
    """Raise GoneError unless the call still waits: what has been read may be another task's."""
    if not request.is_waiting():
        raise GoneError


def _address(task: int, at: int, length: int) -> bytes:
    """Return the struct sockaddr at an address.  Raises OSError with the errno of connect(2)."""
    if length > LONGEST:
        raise OSError(errno.EINVAL, "sockaddr")
    return memory.read(task, at, length)


def _tried(work: Callable[[], int | None]) -> int | None:
    """Return the result of `work`, or a negative errno for an OSError."""
    try:
        return work()
    except OSError as error:
        return -(error.errno or errno.EACCES)


def _is_like_us(task: int) -> bool:
    """Return whether a task has the same user and group ids as this process."""
    own, other = fields_of(os.getpid()), fields_of(task)
    return all(len({*other.get(name, "").split(), *own[name].split()}) == 1 for name in ("Uid", "Gid"))
