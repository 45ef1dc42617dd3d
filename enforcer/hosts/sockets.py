"""Copies of the program's sockets, and calls on them as the program would make them, without waiting."""

from __future__ import annotations

import errno
import fcntl
import os
from _socket import AF_INET, AF_INET6, SO_RCVTIMEO, SO_SNDTIMEO, SOCK_DGRAM, SOCK_STREAM, SOL_SOCKET, inet_ntop, socket

from callfence.enforcer import kernel
from callfence.enforcer.alarms import SHORT, close_at_once, limit_calls
from callfence.enforcer.hosts import identity
from callfence.enforcer.hosts.addresses import ECHOES, MAX_ADDRESS, peer_of
from callfence.enforcer.hosts.granted import PROTOCOLS
from callfence.tracer import TYPE_CHECKING, linux
from callfence.tracer.linux import AF_UNIX
from callfence.tracer.machine import MACHINE
from callfence.tracer.named import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence
    from ctypes import Array

MSG_DONTWAIT, MSG_NOSIGNAL, _MSG_ZEROCOPY = 0x40, 0x4000, 0x4000000  # linux/socket.h
_MAX_PIDFDS = 64
"""The most processes whose pidfd is kept."""
_RIGHTS, _CREDENTIALS = 1, 2  # SCM_RIGHTS, SCM_CREDENTIALS (linux/socket.h)


_USES = {SOCK_STREAM: "connect", SOCK_DGRAM: "send"}
_LOCAL = (16, 38)  # AF_NETLINK, AF_ALG (linux/socket.h)


class Socket(NamedTuple):
    """A copy of a socket of the program: the same socket, whatever the program does to its own number meanwhile."""

    descriptor: int
    domain: int
    """AF_*."""
    type: int
    """SOCK_*."""
    protocol: int
    """IPPROTO_*."""

    @property
    def use(self) -> str:
        """What a policy calls reaching a peer by this socket: `connect` (TCP), `send` (UDP), `unix`; "" for a kind of socket
        that reaches no other host; `raw` for one that could reach any."""
        if self.domain in (AF_INET, AF_INET6):  # it may be inherited, so of a kind that the program cannot make
            return _USES[self.type] if self.protocol in PROTOCOLS.get(self.type, ()) else "raw"
        return "unix" if self.domain == AF_UNIX else "" if self.domain in _LOCAL else "raw"

    @property
    def has_ports(self) -> bool:
        """Whether the peer's port counts."""
        return self.type != SOCK_DGRAM or self.protocol not in ECHOES

    @property
    def inode(self) -> int:
        """The number that tells it from other sockets as long as it is open."""
        return os.fstat(self.descriptor).st_ino

    @property
    def is_blocking(self) -> bool:
        """Whether calls on it wait."""
        return not fcntl.fcntl(self.descriptor, fcntl.F_GETFL) & os.O_NONBLOCK

    def connect(self, address: bytes, *, waits: bool = False) -> int:
        """Connect it without waiting, or for at most SHORT seconds if it `waits`; return 0 or a negative errno, EINPROGRESS or
        EALREADY while it is under way."""
        if self.domain == AF_INET6 and self.type == SOCK_DGRAM and _is_ipv4(address):
            if not _is_ipv4(self.peer()):  # or another thread puts a datagram together at once
                linux.functions.connect(self.descriptor, _NOBODY, len(_NOBODY))
            self._send_begun()
        flags = os.O_NONBLOCK if self.type == SOCK_DGRAM else fcntl.fcntl(self.descriptor, fcntl.F_GETFL)
        is_blocking = not flags & os.O_NONBLOCK
        changes = is_blocking and not waits  # there is no flag for one call
        if changes:
            fcntl.fcntl(self.descriptor, fcntl.F_SETFL, flags | os.O_NONBLOCK)
        if is_blocking:
            limit_calls(SHORT)  # the program may have changed that back
        try:
            result = result_of(linux.functions.connect(self.descriptor, address, len(address)))
            if result == -errno.EINPROGRESS and changes:  # the answer of this host itself may be there already
                result = result_of(linux.functions.connect(self.descriptor, address, len(address)))
            if result == -errno.EINTR:
                return -errno.EAGAIN if self.domain == AF_UNIX else -errno.EINPROGRESS
            return result
        finally:
            if is_blocking:
                limit_calls(0)
            if changes:
                fcntl.fcntl(self.descriptor, fcntl.F_SETFL, flags)

    def send(self, content: bytes, flags: int, address: bytes, control: Sequence[tuple[int, int, bytes]] = ()) -> int:
        """Send without waiting; return how many bytes were sent, or a negative errno."""
        if flags & linux.MSG_FASTOPEN:  # it connects; flags in the memory of socketcall(2) are seen by no filter
            return -linux.FAST_OPEN_ERROR
        if flags & _MSG_ZEROCOPY:
            return -errno.ENOBUFS  # as if no memory were left for that (Documentation/networking/msg_zerocopy.rst)
        flags |= MSG_DONTWAIT | MSG_NOSIGNAL
        if not control:
            arguments = self.descriptor, content, linux.c_size_t(len(content)), flags, address or None, len(address)
            return result_of(linux.functions.sendto(*arguments))
        body, data, name = (_copied(part) for part in (content, b"".join(_packed(*message) for message in control), address))
        parts = (linux.c_uint64 * 2)(linux.addressof(body), len(content))
        place = linux.addressof(name) if address else 0
        head = (linux.c_uint64 * 7)(
            place, len(address), linux.addressof(parts), 1, linux.addressof(data), linux.sizeof(data), 0
        )
        return result_of(MACHINE.syscall("sendmsg", self.descriptor, linux.byref(head), flags))

    def receive(self, size: int, flags: int) -> tuple[int, bytes, bytes]:
        """Receive without waiting; return the result of recvfrom(2) or a negative errno, the content, and the address."""
        content, address = (linux.c_char * (size or 1))(), (linux.c_char * MAX_ADDRESS)()
        length = linux.c_int(MAX_ADDRESS)
        arguments = linux.byref(content), size, flags | MSG_DONTWAIT, linux.byref(address), linux.byref(length)
        count = result_of(MACHINE.syscall("recvfrom", self.descriptor, *arguments))
        return count, content.raw[: min(max(count, 0), size)], address.raw[: min(length.value, MAX_ADDRESS)]

    def mute(self) -> None:
        """Keep it from sending anything, for good, but what was begun for another address."""
        MACHINE.syscall("shutdown", self.descriptor, _SHUT_WR)
        self._send_begun()

    def _send_begun(self) -> None:
        """Send the datagram that the program has begun (MSG_MORE, UDP_CORK) to where it was to go: the kernel writes the IPv4
        address of a connect(2) over that, and over a part of an IPv6 one (net/ipv4/datagram.c, net/inet_sock.h)."""
        linux.functions.setsockopt(self.descriptor, _UDP, _UDP_CORK, bytes(4), 4)

    def fail(self) -> None:
        """Let the kernel tell a datagram socket, connected to this host, that nobody listens at its peer.  Raises OSError."""
        peer = self.peer()
        host = inet_ntop(self.domain, peer[8:24] if self.domain == AF_INET6 else peer[4:8])
        deaf = socket(self.domain, SOCK_DGRAM)
        try:
            deaf.bind((host, 0))
            deaf.connect(deaf.getsockname())  # so it takes nothing from others, and its port is nobody else's
            self.connect(peer[:2] + deaf.getsockname()[1].to_bytes(2, "big") + peer[4:])
            self.send(b"", 0, b"")
            if self.connect(peer) < 0:  # the program has changed its options meanwhile; another may get that port
                self.mute()
        finally:
            deaf.close()

    def error(self) -> int:
        """Return the error of a connection that was under way as a negative errno, and clear it; 0 if it is established."""
        return -kernel.socket_option(self.descriptor, _SO_ERROR)

    def timeout(self, *, receiving: bool) -> float | None:
        """Return for how many seconds a call waits at most (SO_SNDTIMEO, SO_RCVTIMEO); None for ever."""
        value, size = (linux.c_int64 * 2)(), linux.c_int(16)
        option = SO_RCVTIMEO if receiving else SO_SNDTIMEO
        arguments = SOL_SOCKET, option, linux.byref(value), linux.byref(size)
        if MACHINE.syscall("getsockopt", self.descriptor, *arguments) < 0 or not any(value):
            return None
        return float(value[0] + value[1] / 1e6)

    def local_port(self) -> int:
        """Return the port that it is bound to."""
        address, length = (linux.c_uint8 * MAX_ADDRESS)(), linux.c_int(MAX_ADDRESS)
        MACHINE.syscall("getsockname", self.descriptor, linux.byref(address), linux.byref(length))
        return address[2] << 8 | address[3]

    def peer(self) -> bytes:
        """Return the struct sockaddr of its peer; b"" if it has none."""
        address, length = (linux.c_char * MAX_ADDRESS)(), linux.c_int(MAX_ADDRESS)
        if MACHINE.syscall("getpeername", self.descriptor, linux.byref(address), linux.byref(length)) < 0:
            return b""
        return address.raw[: length.value]

    def close(self) -> None:
        """Close this copy."""
        if self.type == SOCK_STREAM and self.domain != AF_UNIX:
            close_at_once(self.descriptor)
        else:
            os.close(self.descriptor)


_SO_ERROR = 4  # asm-generic/socket.h
_SHUT_WR = 1  # linux/net.h SHUT_WR
_UDP, _UDP_CORK = 17, 1  # IPPROTO_UDP (linux/in.h), linux/udp.h
_NOBODY = bytes(16)
"""A struct sockaddr of AF_UNSPEC, which ends a connection."""


class Copier:
    """Copies descriptors of the program's tasks."""

    def __init__(self) -> None:
        self._pidfds: dict[int, int] = {}
        """By task."""

    def descriptor(self, task: int, number: int) -> int:
        """Return a copy of a task's descriptor.  Raises OSError."""
        pidfd = self._pidfds.get(task)
        if pidfd is not None:
            try:
                return kernel.pidfd_getfd(pidfd, number)
            except ProcessLookupError:  # another task has this number now
                os.close(self._pidfds.pop(task))
        if len(self._pidfds) >= _MAX_PIDFDS:
            os.close(self._pidfds.pop(next(iter(self._pidfds))))
        self._pidfds[task] = pidfd = _pidfd(task)
        return kernel.pidfd_getfd(pidfd, number)

    def is_own_user(self, task: int) -> bool:
        """Return whether a task, of which a descriptor was copied just now, has the user and group of this process; False if
        the kernel does not say so."""
        own = identity.own()
        return kernel.ids_of(self._pidfds[task]) == (own.user, own.group)

    def descriptors(self) -> tuple[int, ...]:
        """Return the open pidfds."""
        return tuple(self._pidfds.values())

    def socket(self, task: int, number: int) -> Socket:
        """Return a copy of a task's socket.  Raises OSError with the errno of connect(2): EBADF, ENOTSOCK."""
        descriptor = self.descriptor(task, number)
        try:
            options = [kernel.socket_option(descriptor, option) for option in _KIND]
        except OSError:
            os.close(descriptor)
            raise
        return Socket(descriptor, *options)

    def control(
        self, task: int, messages: Sequence[tuple[int, int, bytes]], domain: int, copies: list[int]
    ) -> list[tuple[int, int, bytes]]:
        """Return control messages for this process to send by a socket of the family `domain`: with copies of the descriptors
        that they pass, which are added to `copies`, and without credentials, which only their owner can send.  Raises
        OSError."""
        result = []
        for level, kind, data in messages:
            if level == SOL_SOCKET and kind in (_RIGHTS, _CREDENTIALS) and domain != AF_UNIX:
                continue  # as the kernel does (net/core/sock.c, __sock_cmsg_send)
            if (level, kind) == (SOL_SOCKET, _RIGHTS):
                start = len(copies)
                for place in range(0, len(data) & ~3, 4):
                    copies.append(self.descriptor(task, int.from_bytes(data[place : place + 4], "little")))
                data = b"".join(copy.to_bytes(4, "little") for copy in copies[start:])
            elif (level, kind) == (SOL_SOCKET, _CREDENTIALS):
                continue
            result.append((level, kind, data))
        return result


_KIND = (linux.SO_DOMAIN, linux.SO_TYPE, linux.SO_PROTOCOL)


def _pidfd(task: int) -> int:
    from callfence.tracer.proc import owner

    return kernel.pidfd_of_thread(task, owner(task))


def result_of(value: int) -> int:
    """Return what a C function returned, or a negative errno if it has failed just now."""
    return value if value >= 0 else -linux.get_errno()


def _is_ipv4(address: bytes) -> bool:
    """Return whether a struct sockaddr has an IPv4 address, perhaps written as IPv6."""
    peer = peer_of(address, AF_INET6, sends=False)
    return peer is not None and len(peer.host) == 4


def _copied(content: bytes) -> Array[linux.c_char]:
    """Return memory of this process with these bytes."""
    return (linux.c_char * len(content)).from_buffer_copy(content)


def _packed(level: int, kind: int, data: bytes) -> bytes:
    """Return a control message as cmsg(3) lays it out."""
    head = (16 + len(data)).to_bytes(8, "little") + level.to_bytes(4, "little") + kind.to_bytes(4, "little")
    return head + data + bytes(-len(data) % 8)
