"""What the pointers of a call point to, read from its caller's memory: names, socket addresses, the first words of a command.

Data that is read or written and the environment are never read: they may hold secrets.  Of a command, only the words before the
first option and that option's name are taken.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from typing import Protocol

from callfence.policygen.evidence.words import escaped, masked
from callfence.tracer.abi import NATIVE, Arch, Argument, Event, Kind, call_of, constants
from callfence.tracer.named import NamedTuple

AT_FDCWD = -100  # linux/fcntl.h
PAGE = 4096
MAX_STRING = 4096
"""The most bytes of a string that are read: PATH_MAX, linux/limits.h."""
_SHOWN = 256
"""The most characters of a string that are shown."""
_FIRST = 256
"""Bytes that the first read of a string takes: most names are shorter."""
_WORDS = 3
"""The most words of a command that are read."""
_WORD = 64
"""The most bytes of a word that are read."""
_PLAIN = r"[\w./+,-]+"
"""Pattern of a word that holds neither a secret of the form NAME=VALUE nor an address with a password."""
_SOCKADDR = 128  # struct sockaddr_storage, linux/socket.h
_UNIX, _INET, _INET6 = 1, 2, 10  # AF_*, linux/socket.h


class Caller(Protocol):
    """A task that is stopped in a call that it makes."""

    @property
    def ids(self) -> tuple[int, ...]:
        """The IDs of the thread and of the process."""

    def read(self, address: int, length: int) -> bytes:
        """Return `length` bytes of the task's memory, which lie within one page; fewer, or none, if they cannot be read."""

    def link(self, name: str) -> str:
        """Return the target of `cwd` or `fd/NUMBER` in the task's /proc folder; "" if it cannot be read."""


class Value(NamedTuple):
    """The data that an argument points to, as text that is safe to print."""

    sort: str
    """`path`, `text`, `words`, `unix` or `address`."""
    parts: tuple[str, ...]
    """The name; or the words, with a last `...` if there are more; or host and port; or the name of another address family."""
    folder: str = ""
    """The folder that a relative path starts from; "" if it is unknown."""

    def __str__(self) -> str:
        """Return the text of the value: `"/etc/redis.conf"`, `["sh", "-c", ...]`, `127.0.0.1:80`, `unix:"/run/x.sock"`."""
        if self.sort == "words":
            return f"[{', '.join(part if part == '...' else _cut(part) for part in self.parts)}]"
        if self.sort == "address":
            return ":".join(self.parts)
        return ("unix:" if self.sort == "unix" else "") + _cut(self.parts[0])


def quoted(text: str) -> str:
    return f'"{text}"'


def _cut(text: str) -> str:
    """Return a text in quotes, cut as strace(1) cuts long strings, and without what looks like a secret."""
    text = "/".join(map(masked, masked(text).split("/")))
    return quoted(text) if len(text) <= _SHOWN else f"{quoted(text[:_SHOWN])}..."


@cache
def arguments(arch: int, number: int) -> tuple[Argument, ...]:
    """Return the arguments of the call `number`; () if the tables do not have the call.  `arch` is AUDIT_ARCH_*."""
    call = call_of(arch, number)
    return call.arguments if call else ()


@cache
def evident(arch: int, number: int) -> tuple[tuple[int, Argument], ...]:
    """Return the arguments of the call `number` that are pointers to data which is recorded as evidence, each with its index
    (0 to 5).  `arch` is AUDIT_ARCH_*."""
    return tuple((index, argument) for index, argument in enumerate(arguments(arch, number)) if argument.kind.is_evident)


def pointed(event: Event, caller: Caller) -> dict[int, Value]:
    """Return the data that the arguments of a call point to, as far as it can be read: index of the argument -> value."""
    values = {}
    for index, argument in evident(event.arch, event.number):
        address = event.arguments[index] & argument.mask
        value = _READ[argument.kind](event, index, address, caller) if address else None
        if value is not None:
            values[index] = value
    return values


def _path(event: Event, index: int, address: int, caller: Caller) -> Value | None:
    data = _string(caller, address, MAX_STRING)
    if data is None:
        return None
    return Value("path", (escaped(data),), "" if data.startswith(b"/") else escaped(folder(event, index, caller)))


def folder(event: Event, index: int, caller: Caller) -> str:
    """Return the folder to which a relative path in the argument `index` is relative: that of the directory descriptor in the
    argument before it, or else the working folder.  Return "" if it is unknown."""
    before = arguments(event.arch, event.number)[index - 1] if index else None
    descriptor = AT_FDCWD
    if before is not None and before.kind is Kind.DIRFD:
        descriptor = before.value(event.arguments[index - 1])
    where = caller.link("cwd" if descriptor == AT_FDCWD else f"fd/{descriptor}")
    return where if where.startswith("/") else ""


def _text(event: Event, index: int, address: int, caller: Caller) -> Value | None:
    data = _string(caller, address, MAX_STRING)
    return None if data is None else Value("text", (escaped(data),))


def _word_size(event: Event) -> int:
    """Return the number of bytes of a pointer in the caller's memory."""
    return (Arch.from_audit(event.arch) or NATIVE).bits // 8


def _words(event: Event, index: int, address: int, caller: Caller) -> Value | None:
    width = _word_size(event)
    words: list[bytes] = []
    for place in range(_WORDS + 1):
        pointer = int.from_bytes(_bytes(caller, address + place * width, width), "little")
        data = _string(caller, pointer, _WORD) if pointer else None
        if data is None:
            break
        words.append(data)
    return Value("words", _harmless([escaped(word) for word in words])) if words else None


def _harmless(words: list[str]) -> tuple[str, ...]:
    """Return the words of a command up to the first option, whose value is cut off."""
    harmless = words[:1]
    for word in words[1:_WORDS]:
        if word.startswith("-"):
            name = word.partition("=")[0]
            harmless.append(name if name.startswith("--") else name[:2])
            break
        if not re.fullmatch(_PLAIN, word):
            break
        harmless.append(word)
    return (*harmless, "...") if harmless != words else tuple(harmless)


def _sockaddr(event: Event, index: int, address: int, caller: Caller) -> Value | None:
    return _address(caller, address, event.arguments[index + 1] & 0xFFFFFFFF)


def _message(event: Event, index: int, address: int, caller: Caller) -> Value | None:
    width = _word_size(event)
    head = _bytes(caller, address, width + 4)  # struct msghdr, linux/socket.h: msg_name, msg_namelen
    name = int.from_bytes(head[:width], "little")
    return _address(caller, name, int.from_bytes(head[width:], "little")) if name else None


def _address(caller: Caller, address: int, length: int) -> Value | None:
    """Return the address in a struct sockaddr in the caller's memory; None if it cannot be read."""
    data = _bytes(caller, address, min(length, _SOCKADDR))
    if len(data) < 2:
        return None
    family = int.from_bytes(data[:2], "little")
    if family == _INET and len(data) >= 8:
        return Value("address", (".".join(map(str, data[4:8])), str(int.from_bytes(data[2:4], "big"))))
    if family == _INET6 and len(data) >= 24:
        return Value("address", (f"[{_inet6(data[8:24])}]", str(int.from_bytes(data[2:4], "big"))))
    if family == _UNIX:
        name = data[2:]
        if name[:1] == b"\0":
            return Value("unix", ("@" + escaped(name[1:].rstrip(b"\0")),))
        return Value("unix", (escaped(name.partition(b"\0")[0]),))
    return Value("address", (constants.family("socket_family", NATIVE).format(family),))


def _inet6(data: bytes) -> str:
    """Return an IPv6 address as RFC 5952, section 4, has it: no leading zeros, the first longest zeros as `::`."""
    groups = [f"{data[at] << 8 | data[at + 1]:x}" for at in range(0, 16, 2)]
    runs = [next((end for end in range(start, 8) if groups[end] != "0"), 8) - start for start in range(8)]
    longest = max(runs)
    if longest < 2:
        return ":".join(groups)
    start = runs.index(longest)
    return f"{':'.join(groups[:start])}::{':'.join(groups[start + longest:])}"


def _string(caller: Caller, address: int, limit: int) -> bytes | None:
    """Return the string at an address, without its NUL, at most `limit` bytes of it; None if it cannot be read to its end."""
    text = b""
    while len(text) < limit:
        at = address + len(text)
        wanted = min(PAGE - at % PAGE, limit - len(text), PAGE if text else _FIRST)
        part = caller.read(at, wanted)
        end = part.find(b"\0")
        if end >= 0:
            return text + part[:end]
        if len(part) < wanted:
            return None
        text += part
    return text


def _bytes(caller: Caller, address: int, length: int) -> bytes:
    """Return bytes that lie in one or two pages of the caller's memory."""
    room = min(PAGE - address % PAGE, length)
    data = caller.read(address, room)
    return data + caller.read(address + room, length - room) if room == len(data) < length else data


_READ: dict[Kind, Callable[[Event, int, int, Caller], Value | None]] = {
    Kind.PATH: _path,
    Kind.TEXT: _text,
    Kind.WORDS: _words,
    Kind.SOCKADDR: _sockaddr,
    Kind.MESSAGE: _message,
}
