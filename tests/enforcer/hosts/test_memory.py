"""What is read and written of messages in a task's memory: in this process's own."""

from __future__ import annotations

import ctypes
import errno
import os
import struct

import pytest

from callfence.enforcer.hosts import memory
from callfence.tracer.abi import NATIVE

ME, ARCH = os.getpid(), NATIVE.audit
KEPT: list[object] = []


def at(content: bytes) -> int:
    KEPT.append(buffer := ctypes.create_string_buffer(content, len(content)))
    return ctypes.addressof(buffer)


def header(
    name: int = 0, name_length: int = 0, parts: tuple[tuple[int, int], ...] = (), count: int | None = None, control: bytes = b""
) -> int:
    """The address of a struct msghdr of 64 bits."""
    vector = at(b"".join(struct.pack("<QQ", *part) for part in parts))
    count = len(parts) if count is None else count
    return at(struct.pack("<QI4xQQQQI4x", name, name_length, vector, count, at(control), len(control), 7))


def test_a_message_has_its_name_buffers_and_control_data() -> None:
    place = header(5, 16, ((64, 3), (128, 4)), control=b"12345")
    message = memory.message(ME, place, ARCH)
    assert message[:3] == (5, 16, [(64, 3), (128, 4)])
    assert (message.length, message.control_length, message.at, message.word) == (7, 5, place, 8)
    assert memory.read(ME, message.control, 5) == b"12345"


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"name": 0, "name_length": 16}, 0),
        ({"name": 5, "name_length": 200}, 128),
        ({"name": 5, "name_length": (1 << 31) - 1}, 128),
        ({"name": 5, "name_length": 1 << 31}, errno.EINVAL),
        ({"name": 0, "name_length": 1 << 31}, 0),
        ({"parts": ((0, (1 << 31) - 1),)}, 0),
        ({"parts": ((0, 1), (0, 1 << 31))}, errno.EINVAL),
        ({"parts": ((0, 1),) * 1024}, 0),
        ({"parts": ((0, 1),) * 1025}, errno.EMSGSIZE),
        ({"parts": ((0, 1),) * 2, "count": 1 << 40}, errno.EMSGSIZE),
    ],
)
def test_the_limits_of_a_message(fields: dict[str, int], expected: int) -> None:
    """The length of the name, or the errno of sendmsg(2)."""
    try:
        result = memory.message(ME, header(**fields), ARCH).name_length  # type: ignore[arg-type]
    except OSError as error:
        result = error.errno or 0
    assert result == expected


def test_what_recvmsg_sets_is_written_where_it_belongs() -> None:
    place = header(5, 16, control=b"12345")
    memory.message(ME, place, ARCH).write_result(lambda where, data: ctypes.memmove(where, data, len(data)), 28, 0x20)  # type: ignore[arg-type,return-value]
    name, name_length, _, _, control, control_length, flags = struct.unpack("<QI4xQQQQI4x", ctypes.string_at(place, 56))
    assert (name, name_length, control_length, flags) == (5, 28, 0, 0x20)
    assert control


@pytest.mark.parametrize(("start", "expected"), [(0, b"onethree"), (2, b"ethree"), (3, b"three"), (5, b"ree"), (8, b"")])
def test_buffers_are_gathered_from_a_byte_on(start: int, expected: bytes) -> None:
    assert memory.gathered(ME, [(at(b"one"), 3), (0, 0), (at(b"three"), 5)], start) == expected


def test_no_more_than_a_megabyte_is_gathered() -> None:
    many = at(b"x" * (memory.MAX_COPIED - 1))
    assert len(memory.gathered(ME, [(many, memory.MAX_COPIED - 1), (many, 9)], 0)) == memory.MAX_COPIED
    with pytest.raises(OSError, match=f"Errno {errno.EFAULT}"):
        memory.gathered(ME, [(8, 1)], 0)


def test_bytes_are_scattered_over_buffers() -> None:
    written: list[tuple[int, bytes]] = []
    memory.scatter(lambda where, data: written.append((where, data)), [(1, 2), (5, 2), (9, 9), (30, 1)], b"abcde")
    assert written == [(1, b"ab"), (5, b"cd"), (9, b"e")]


@pytest.mark.parametrize(("size", "written"), [(16, b"address"), (7, b"address"), (3, b"add"), (0, b"")])
def test_an_address_is_cut_and_its_length_is_not(size: int, written: bytes) -> None:
    found: dict[int, bytes] = {}
    size_at = at(size.to_bytes(4, "little"))
    memory.write_address(ME, found.__setitem__, b"address", 5, size_at)
    assert found == {5: written, size_at: (7).to_bytes(4, "little")}


def test_an_address_has_no_negative_length() -> None:
    with pytest.raises(OSError, match=f"Errno {errno.EINVAL}"):
        memory.write_address(ME, lambda *_: None, b"address", 5, at(b"\xff" * 4))


def cmsg(level: int, kind: int, data: bytes, length: int | None = None) -> bytes:
    padded = data + bytes(-len(data) % 8)
    return struct.pack("<QII", 16 + len(data) if length is None else length, level, kind) + padded


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", []),
        (cmsg(1, 2, b"abc") + cmsg(0, 8, b"12345678"), [(1, 2, b"abc"), (0, 8, b"12345678")]),
        (cmsg(1, 2, b""), [(1, 2, b"")]),
        (cmsg(1, 2, b"abc") + bytes(15), [(1, 2, b"abc")]),
        (cmsg(1, 2, b"abc")[:19], [(1, 2, b"abc")]),
        (cmsg(1, 2, b"abc")[:18], errno.EINVAL),
        (cmsg(1, 2, b"", 15), errno.EINVAL),
        (cmsg(1, 2, b"", 0), errno.EINVAL),
        (bytes(131073), errno.ENOBUFS),
    ],
)
def test_control_messages(content: bytes, expected: list[tuple[int, int, bytes]] | int) -> None:
    message = memory.message(ME, header(control=content), ARCH)
    try:
        result: object = memory.control(ME, message)
    except OSError as error:
        result = error.errno
    assert result == expected
