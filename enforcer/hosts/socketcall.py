"""socketcall(2) of i386, by which its C libraries make all calls about sockets: the arguments are in memory.

Those that could reach a host are made by the helper with a copy of the arguments; all others run, since they cannot become
another: which call it is, is in a register.
"""

from __future__ import annotations

import errno
import os

from callfence.enforcer.alarms import close_at_once
from callfence.enforcer.hosts import identity, memory
from callfence.enforcer.hosts.granted import FAMILIES, PROTOCOLS, ROUTES
from callfence.enforcer.hosts.making import INT, Making, check
from callfence.enforcer.hosts.sockets import result_of
from callfence.tracer import TYPE_CHECKING, linux

if TYPE_CHECKING:
    from callfence.enforcer.listener import Request

_SOCKET, _SETSOCKOPT = 1, 14  # linux/net.h SYS_SOCKET, SYS_SETSOCKOPT
_DIRECT = {
    3: ("connect", 3), 7: ("getpeername", 3), 11: ("sendto", 6), 12: ("recvfrom", 6), 16: ("sendmsg", 3), 17: ("recvmsg", 3),
    20: ("sendmmsg", 4),
}  # fmt: skip
"""SYS_* (linux/net.h) -> the call that does the same, and how many arguments it has."""
_INTERNET = (2, 10)  # AF_INET, AF_INET6
_TIMEOUTS = (20, 21)  # SO_RCVTIMEO_OLD, SO_SNDTIMEO_OLD (asm-generic/socket.h)
_POINTERS = {linux.SOL_SOCKET: (26, 51), 0: (64, 96, 128, 129), 41: (64,)}
"""By level, the options whose values have pointers, by which the kernel would read and write this process's memory:
SO_ATTACH_FILTER, SO_ATTACH_REUSEPORT_CBPF; IPT_SO_SET_REPLACE, ARPT_SO_SET_REPLACE, EBT_SO_SET_ENTRIES, EBT_SO_SET_COUNTERS;
IP6T_SO_SET_REPLACE (linux/netfilter*)."""
_MAX_VALUE = 4096
"""The most bytes of an option's value."""


class SocketCall:
    """Makes socketcall(2)."""

    def __init__(self, making: Making) -> None:
        self._making = making

    def name_of(self, request: Request) -> str:
        """Give the request the arguments in memory, and return the name of the call that does the same; "" for a call that
        never has an address.  Raises OSError and GoneError.

        The registers stay as they are, for a call that is asked about is made again."""
        name, count = _DIRECT.get(int(request.call.arguments[0]) & INT, ("", 0))
        if name:
            request.arguments = [*_words(request, count), *(0,) * (6 - count)]
        return name

    def make(self, request: Request) -> int | None:
        """Make socket(2) and setsockopt(2), which could make what reaches any host, and let all others run.  Return the result,
        None if there is none to give.  Raises OSError and GoneError."""
        which = int(request.call.arguments[0]) & INT
        if which == _SOCKET:
            return self._socket(request)
        if which == _SETSOCKOPT:
            return self._setsockopt(request)
        self._making.let_run(request)
        return None

    def _socket(self, request: Request) -> int | None:
        family, kind, protocol = _words(request, 3)
        if family not in FAMILIES:
            return -linux.FAMILY_ERROR
        if family in _INTERNET and kind & 0xF not in PROTOCOLS:
            return -errno.EPERM
        if family in _INTERNET and protocol not in PROTOCOLS[kind & 0xF]:
            return -linux.PROTOCOL_ERROR
        caller = identity.of(request.call.task)
        is_here = os.readlink(b"%d/ns/net" % request.call.task) == os.readlink(b"self/ns/net")
        check(request)
        if not is_here:  # else a program that has left this network namespace would be in it again
            return -linux.FAMILY_ERROR
        made = identity.acting(caller, lambda: result_of(linux.functions.socket(family, kind | os.O_CLOEXEC, protocol)))
        if made < 0:
            return made
        try:
            request.give(made, inherited=not kind & os.O_CLOEXEC)
        except FileNotFoundError:  # it was interrupted, and makes the call again
            return None
        finally:
            os.close(made)
        return None

    def _setsockopt(self, request: Request) -> int:
        number, level, name, at, length = _words(request, 5)
        if name in ROUTES.get(level, ()):
            return -errno.EPERM
        if length > _MAX_VALUE:
            return -errno.EINVAL
        if name in _POINTERS.get(level, ()):
            return -errno.ENOPROTOOPT
        value = memory.read(request.call.task, at, length)
        if level == linux.SOL_SOCKET and name in _TIMEOUTS and length == 8:  # struct timeval has other sizes there
            value = b"".join(value[place : place + 4] + bytes(4) for place in (0, 4))
        caller = identity.of(request.call.task)
        copy = self._making.copier.descriptor(request.call.task, number)
        try:
            check(request)
            return identity.acting(caller, lambda: result_of(linux.functions.setsockopt(copy, level, name, value, len(value))))
        finally:
            close_at_once(copy)


def _words(request: Request, count: int) -> list[int]:
    """Return the arguments of a call, 32 bits each.  Raises OSError and GoneError."""
    content = memory.read(request.call.task, int(request.call.arguments[1]), 4 * count)
    check(request)
    return [int.from_bytes(content[place : place + 4], "little") for place in range(0, 4 * count, 4)]
