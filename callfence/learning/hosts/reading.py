"""Reads the calls on sockets of a stopped task: their arguments, addresses and messages, of 64-bit and 32-bit programs.

Another thread may change what is read before the kernel reads it: nothing is judged by it, it is only recorded.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from callfence.enforcer import kernel as sockets
from callfence.enforcer.hosts.addresses import ECHOES
from callfence.tracer import kernel, linux
from callfence.tracer.abi import NATIVE, Arch, Event, name_of
from callfence.tracer.named import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

    from callfence.tracer.task import Task

MESSAGE = 65535 + 2
"""The most bytes of a message that are read: one of DNS over TCP, with its length."""
MAX_PARTS = 1024
"""The most parts of a message, and messages of a call: UIO_MAXIOV (linux/uio.h)."""
AF_INET, AF_INET6, AF_UNIX = 2, 10, 1  # linux/socket.h
TCP, UDP, UDPLITE = 6, 17, 136  # linux/in.h
ECHO = 1
"""IPPROTO_ICMP, also for IPPROTO_ICMPV6, of a datagram socket: it sends echo requests, as ping(8) does."""
_SOCK_DGRAM = 2  # linux/net.h
_SOCKETCALL = {2: "bind", 3: "connect", 4: "listen", 6: "getsockname", 9: "send", 10: "recv", 11: "sendto", 12: "recvfrom"}
_SOCKETCALL |= {16: "sendmsg", 17: "recvmsg", 19: "recvmmsg", 20: "sendmmsg"}  # linux/net.h
SENDING = ("sendto", "sendmsg", "sendmmsg")
"""The calls that can name the address to which they send."""
EXITS = (
    "recvfrom", "recvmsg", "recvmmsg", "recvmmsg_time64", "read", "readv", "sendto", "sendmsg", "sendmmsg", "write", "writev",
    "getsockname", "close", "socketcall",
)  # fmt: skip
"""The calls whose exits say what went over a socket."""


class Call(NamedTuple):
    """A call of a task, with the arguments of socketcall(2) read from memory."""

    name: str
    """Its name; that of the call which socketcall makes; "" if that is none of those that are looked at."""
    arguments: tuple[int, ...]
    word: int
    """Bytes of a pointer in the task's memory."""

    @property
    def descriptor(self) -> int:
        """The first argument."""
        return self.arguments[0] & 0xFFFFFFFF


def call_of(task: Task, event: Event) -> Call:
    """Return the call that a task makes by `event`."""
    arch = Arch.from_audit(event.arch) or NATIVE
    name, word = name_of(arch, event.number), arch.bits // 8
    if name != "socketcall":
        return Call(name.removesuffix("_time64"), event.arguments, word)
    words = memory(task, event.arguments[1], 24)  # fewer where it has fewer arguments, at the end of what can be read
    arguments = tuple(int.from_bytes(words[at : at + 4], "little") for at in range(0, len(words), 4))
    name = _SOCKETCALL.get(event.arguments[0] & 0xFFFFFFFF, "") if words else ""
    arguments += (0,) * (6 - len(arguments))
    if name in ("send", "recv"):  # those have no address
        return Call({"send": "sendto", "recv": "recvfrom"}[name], (*arguments[:4], 0, 0), word)
    return Call(name, arguments, word)


def memory(task: Task, address: int, length: int) -> bytes:
    """Return `length` bytes of a task's memory, fewer if not all can be read."""
    parts = []
    while length > 0 and address >> 63 == 0:
        size = min(length, kernel.PAGE - address % kernel.PAGE)
        part = kernel.read_memory(task.tid, address, size)
        parts.append(part)
        if len(part) < size:
            break
        address, length = address + size, length - size
    return b"".join(parts)


def _number(data: bytes, at: int, size: int) -> int:
    return int.from_bytes(data[at : at + size], "little")


def _messages(task: Task, call: Call) -> Iterator[int]:
    """Yield the address of each struct msghdr of a call."""
    if call.name in ("sendmsg", "recvmsg"):
        yield call.arguments[1]
    else:
        size = 64 if call.word == 8 else 32  # struct mmsghdr, linux/socket.h
        yield from (call.arguments[1] + size * index for index in range(min(call.arguments[2] & 0xFFFFFFFF, MAX_PARTS)))


def addresses(task: Task, call: Call) -> Iterator[bytes]:
    """Yield the addresses (struct sockaddr) to which a call of SENDING sends, connect(2) connects or bind(2) binds."""
    if call.name in ("connect", "bind"):
        yield memory(task, call.arguments[1], min(call.arguments[2] & 0xFFFFFFFF, linux.SOCKADDR))
    elif call.name == "sendto":
        if call.arguments[4]:
            yield memory(task, call.arguments[4], min(call.arguments[5] & 0xFFFFFFFF, linux.SOCKADDR))
    else:
        for header in _messages(task, call):
            head = memory(task, header, call.word + 4)  # begins with the address and its length
            if where := _number(head, 0, call.word):
                yield memory(task, where, min(_number(head, call.word, 4), linux.SOCKADDR))


def contents(task: Task, call: Call, result: int) -> Iterator[bytes]:
    """Yield the messages that a call has sent or received, which returned `result`."""
    if call.name in ("sendto", "recvfrom", "read", "write"):
        yield memory(task, call.arguments[1], min(result, MESSAGE))
    elif call.name in ("readv", "writev"):
        yield _gathered(task, call.arguments[1], call.arguments[2] & 0xFFFFFFFF, result, call.word)
    else:
        many = call.name in ("sendmmsg", "recvmmsg")
        for index, header in enumerate(_messages(task, call)):
            if many and index >= result:
                return
            head = memory(task, header, 8 * call.word)
            length = _number(head, 7 * call.word, 4) if many else result  # mmsghdr.msg_len is after the struct msghdr
            yield _gathered(task, _number(head, 2 * call.word, call.word), _number(head, 3 * call.word, 4), length, call.word)


def _gathered(task: Task, vector: int, count: int, length: int, word: int) -> bytes:
    """Return the first `length` bytes of the memory that an array of struct iovec names."""
    length, parts = min(length, MESSAGE), []
    table_ = memory(task, vector, 2 * word * min(count, MAX_PARTS))
    for at in range(0, len(table_), 2 * word):
        if length <= 0:
            break
        part = memory(task, _number(table_, at, word), min(_number(table_, at + word, word), length))
        parts.append(part)
        length -= len(part)
    return b"".join(parts)


def protocol(task: int, process: int, descriptor: int) -> int:
    """Return the protocol of a socket of a stopped task, of that process: TCP, UDP (also for UDPLITE), ECHO, or 0 for
    any other, such as a unix socket.  -1 if that cannot be found out."""
    try:
        copy = sockets.descriptor_of(task, process, descriptor)
        try:
            number = sockets.socket_option(copy, linux.SO_PROTOCOL)
            if sockets.socket_option(copy, linux.SO_DOMAIN) not in (AF_INET, AF_INET6):
                return 0
            if number in ECHOES and sockets.socket_option(copy, linux.SO_TYPE) == _SOCK_DGRAM:
                return ECHO
        finally:
            os.close(copy)
    except OSError as error:
        return 0 if error.errno in (88, 9) else -1  # ENOTSOCK, EBADF: asm-generic/errno.h
    return {TCP: TCP, UDP: UDP, UDPLITE: UDP}.get(number, 0)


def inode_of(process: int, descriptor: int) -> str:
    """Return the name of a process's socket, `socket:[INODE]`; "" if the descriptor is none."""
    try:
        name = os.readlink(f"/proc/{process}/fd/{descriptor}")
    except OSError:
        return ""
    return name if name.startswith("socket:") else ""
