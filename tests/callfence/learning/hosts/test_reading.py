"""What is read of calls on sockets, in the memory of this process."""

from __future__ import annotations

import ctypes
import mmap
import os
import socket
import struct
from contextlib import closing
from typing import Any

import pytest

from callfence.learning.hosts import reading
from callfence.learning.hosts.reading import ECHO, MESSAGE, TCP, UDP, Call
from callfence.tracer.abi import NATIVE, Arch, Event, table
from callfence.tracer.task import Task

ME = os.getpid()
TASK = Task(ME, ME)
KEPT: list[object] = []
NOWHERE = 8
"""An address at which nothing can be read."""


def at(content: bytes) -> int:
    KEPT.append(buffer := ctypes.create_string_buffer(content, len(content)))
    return ctypes.addressof(buffer)


def event(arch: Arch, name: str, *arguments: int) -> Event:
    registers: Any = (*arguments, *[0] * (6 - len(arguments)))
    return Event(arch.audit, table(arch).by_name[name].number, registers)


def test_calls_have_their_name_whatever_their_times_are() -> None:
    assert reading.call_of(TASK, event(NATIVE, "connect", 3, 5, 16)) == Call("connect", (3, 5, 16, 0, 0, 0), 8)
    assert reading.call_of(TASK, event(Arch.I386, "recvmmsg_time64", 3)) == Call("recvmmsg", (3, 0, 0, 0, 0, 0), 4)
    assert Call("close", ((1 << 64) - 1, 0), 8).descriptor == 0xFFFFFFFF


@pytest.mark.parametrize(
    ("number", "name", "arguments"),
    [
        (3, "connect", (1, 2, 3, 4, 5, 6)), (11, "sendto", (1, 2, 3, 4, 5, 6)), (9, "sendto", (1, 2, 3, 4, 0, 0)),
        (10, "recvfrom", (1, 2, 3, 4, 0, 0)), (1 << 32 | 20, "sendmmsg", (1, 2, 3, 4, 5, 6)), (1, "", (1, 2, 3, 4, 5, 6)),
    ],
)  # fmt: skip
def test_socketcall_has_its_arguments_in_memory(number: int, name: str, arguments: tuple[int, ...]) -> None:
    words = at(struct.pack("<6I", 1, 2, 3, 4, 5, 6))
    assert reading.call_of(TASK, event(Arch.I386, "socketcall", number, words)) == Call(name, arguments, 4)
    assert reading.call_of(TASK, event(Arch.I386, "socketcall", number, NOWHERE)) == Call("", (0,) * 6, 4)


@pytest.mark.parametrize("count", [6, 3])
def test_socketcall_may_have_its_arguments_at_the_end_of_memory(count: int) -> None:
    with mmap.mmap(-1, 2 * mmap.PAGESIZE) as pages:
        place = ctypes.addressof(ctypes.c_char.from_buffer(pages))
        assert not ctypes.CDLL(None).mprotect(ctypes.c_void_p(place + mmap.PAGESIZE), mmap.PAGESIZE, 0)
        words = (1, 2, 3, 4, 5, 6)[:count]
        pages[mmap.PAGESIZE - 4 * count : mmap.PAGESIZE] = struct.pack(f"<{count}I", *words)
        call = event(Arch.I386, "socketcall", 3, place + mmap.PAGESIZE - 4 * count)
        assert reading.call_of(TASK, call) == Call("connect", (*words, *(0,) * (6 - count)), 4)


def header(word: int, name: bytes, *parts: bytes) -> bytes:
    """A struct msghdr with an address and a struct iovec for each part."""
    form = "Q" if word == 8 else "I"
    vector = at(b"".join(struct.pack(f"<{form}{form}", at(part), len(part)) for part in parts))
    values = (at(name) if name else 0, len(name), vector, len(parts), 0, 0, 0)
    return struct.pack(f"<{form}I{'4x' if word == 8 else ''}5{form}", *values)


def test_addresses() -> None:
    name = at(b"address...")
    assert [*reading.addresses(TASK, Call("connect", (3, name, 7, 0, 0, 0), 8))] == [b"address"]
    assert [*reading.addresses(TASK, Call("connect", (3, name, 1 << 32 | 9, 0, 0, 0), 8))] == [b"address.."]
    assert [*reading.addresses(TASK, Call("sendto", (3, 0, 0, 0, name, 8), 8))] == [b"address."]
    assert [*reading.addresses(TASK, Call("sendto", (3, name, 7, 0, 0, 8), 8))] == []
    assert [*reading.addresses(TASK, Call("connect", (3, at(b"x" * 200), 200, 0, 0, 0), 8))] == [b"x" * 128]
    assert [*reading.addresses(TASK, Call("sendmsg", (3, at(header(8, b"one")), 0, 0, 0, 0), 8))] == [b"one"]
    assert [*reading.addresses(TASK, Call("sendmsg", (3, at(header(8, b"")), 0, 0, 0, 0), 8))] == []
    many = b"".join(header(8, name) + bytes(8) for name in (b"one", b"", b"three", b"four"))
    assert [*reading.addresses(TASK, Call("sendmmsg", (3, at(many), 3, 0, 0, 0), 8))] == [b"one", b"three"]


def test_addresses_of_a_process_of_32_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its pointers reach only the low 4 GiB, which this process need not have: two messages, 32 bytes apart."""
    headers = b"".join(struct.pack("<8I", name, length, *[0] * 6) for name, length in ((0x2000, 3), (0x3000, 4)))
    low = {0x1000: headers, 0x2000: b"one", 0x3000: b"four"}

    def read(_: object, address: int, size: int) -> bytes:
        return next(part[address - at :][:size] for at, part in low.items() if at <= address < at + len(part))

    monkeypatch.setattr(reading, "memory", read)
    assert [*reading.addresses(TASK, Call("sendmmsg", (3, 0x1000, 2, 0, 0, 0), 4))] == [b"one", b"four"]


def contents(name: str, result: int, *arguments: int) -> list[bytes]:
    return [*reading.contents(TASK, Call(name, (3, *arguments, *[0] * (5 - len(arguments))), 8), result)]


def test_contents_of_one_part() -> None:
    text = at(b"message")
    for name in ("sendto", "recvfrom", "read", "write"):
        assert contents(name, 4, text, 7) == [b"mess"]
    long = at(b"x" * 70_000)
    assert contents("write", 70_000, long, 70_000) == [b"x" * MESSAGE]


def test_contents_of_several_parts() -> None:
    vector = at(b"".join(struct.pack("<QQ", at(part), len(part)) for part in (b"one", b"two", b"three")))
    for name in ("readv", "writev"):
        assert contents(name, 8, vector, 3) == [b"onetwoth"]
        assert contents(name, 6, vector, 3) == [b"onetwo"]
        assert contents(name, 100, vector, 2) == [b"onetwo"]
        assert contents(name, 0, vector, 3) == [b""]


def test_contents_of_messages() -> None:
    assert contents("sendmsg", 5, at(header(8, b"", b"one", b"two"))) == [b"onetw"]
    parts = ((b"one", 4), (b"two", 3), (b"x", 1))
    many = [header(8, b"", part, b"more") + struct.pack("<II", length, 0) for part, length in parts]
    assert contents("recvmmsg", 2, at(b"".join(many)), 3) == [b"onem", b"two"]
    assert contents("sendmmsg", 3, at(b"".join(many)), 3) == [b"onem", b"two", b"x"]


def test_memory_ends_where_it_cannot_be_read() -> None:
    text = at(b"x" * 20_000)
    assert reading.memory(TASK, text, 20_000) == b"x" * 20_000
    assert reading.memory(TASK, NOWHERE, 5) == reading.memory(TASK, 1 << 63, 5) == reading.memory(TASK, text, 0) == b""


@pytest.mark.parametrize(
    ("kind", "protocol"),
    [
        ((socket.AF_INET, socket.SOCK_STREAM, 0), TCP), ((socket.AF_INET6, socket.SOCK_DGRAM, 0), UDP),
        ((socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_UDPLITE), UDP), ((socket.AF_UNIX, socket.SOCK_STREAM, 0), 0),
        ((socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP), ECHO),
        ((socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP), 0),
    ],
)  # fmt: skip
def test_protocols(kind: tuple[int, int, int], protocol: int) -> None:
    try:
        made = socket.socket(*kind)
    except OSError:  # as sysctl net.ipv4.ping_group_range says; raw sockets take root; new kernels have no UDP-Lite
        return
    with closing(made):
        before = len(os.listdir("/proc/self/fd"))
        assert reading.protocol(ME, ME, made.fileno()) == protocol
        assert len(os.listdir("/proc/self/fd")) == before
        assert reading.inode_of(ME, made.fileno()) == f"socket:[{os.fstat(made.fileno()).st_ino}]"


def test_what_is_no_socket() -> None:
    descriptor = os.open("/dev/null", os.O_RDONLY)
    assert (reading.protocol(ME, ME, descriptor), reading.inode_of(ME, descriptor)) == (0, "")
    os.close(descriptor)
    assert (reading.protocol(ME, ME, 1 << 20), reading.inode_of(ME, 1 << 20)) == (0, "")
    assert reading.protocol(1 << 22, 1 << 22, 0) == -1
