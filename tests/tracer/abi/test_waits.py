"""Which messages say that a program is ready."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from callfence.tracer.abi.waits import CANDIDATES, ENTER, MAX_MESSAGE, NOTIFY, bits, calls_of, executed, forked, is_ready

BASE = 0x10000 - 5
"""The message lies in two pages."""


def memory(*parts: tuple[int, bytes]) -> Callable[[int, int], bytes]:
    def read(address: int, size: int) -> bytes:
        assert size <= 4096 - address % 4096
        for place, content in parts:
            if place <= address < place + len(content):
                return content[address - place : address - place + size]
        return b""

    return read


@pytest.mark.parametrize(
    ("text", "ready"),
    [
        (b"READY=1", True), (b"READY=1\n", True), (b"MAINPID=7\nREADY=1\nSTATUS=up", True), (b"READY=10", False),
        (b"STATUS=READY=1", False), (b"READY=0", False), (b"", False), (b"x" * MAX_MESSAGE + b"\nREADY=1", False),
        (b"READY=1" + b"\n" * (MAX_MESSAGE - 7), True), (b"READY=1" + b"\n" * (MAX_MESSAGE - 6), False),
    ],
)  # fmt: skip
def test_written(text: bytes, ready: bool) -> None:
    assert is_ready((1, BASE, len(text), 0, 0, 0), memory((BASE, text)), pointer=8, is_sendmsg=False) is ready


@pytest.mark.parametrize("pointer", [4, 8])
def test_sendmsg(pointer: int) -> None:
    def words(*values: int) -> bytes:
        return b"".join(value.to_bytes(pointer, "little") for value in values)

    message = (0x2000, words(0, 0, 0x3000, 2, 0, 0, 0))
    vectors = (0x3000, words(0x4000, 5, BASE, 7))
    parts = (message, vectors, (0x4000, b"A=1\nR"), (BASE, b"EADY=1\n"))
    assert is_ready((3, 0x2000, 0, 0, 0, 0), memory(*parts), pointer=pointer, is_sendmsg=True)
    assert not is_ready((3, 0x2000, 0, 0, 0, 0), memory(message), pointer=pointer, is_sendmsg=True)
    assert not is_ready((3, 0x9000, 0, 0, 0, 0), memory(), pointer=pointer, is_sendmsg=True)


@pytest.mark.parametrize("pointer", [4, 8])
@pytest.mark.parametrize(("vectors", "ready"), [(1, True), (3, True), (16, True), (17, False)])
def test_a_message_of_many_parts(pointer: int, vectors: int, ready: bool) -> None:
    """Its last part says so; of more than 16 parts, the first 16 are read."""

    def words(*values: int) -> bytes:
        return b"".join(value.to_bytes(pointer, "little") for value in values)

    parts = [(0x4000 + 0x100 * place, b"A=1\n") for place in range(vectors - 1)] + [(0x8000, b"READY=1")]
    addresses = words(*(value for address, content in parts for value in (address, len(content))))
    memory_ = memory((0x2000, words(0, 0, 0x3000, vectors, 0, 0, 0)), (0x3000, addresses), *parts)
    assert is_ready((3, 0x2000, 0, 0, 0, 0), memory_, pointer=pointer, is_sendmsg=True) is ready


def test_what_a_wait_is_called_and_counted_as() -> None:
    assert [calls_of(name) for name in ("accept", ENTER, NOTIFY)] == [
        ("accept",), ("prctl",), ("sendmsg", "sendto", "write"),
    ]  # fmt: skip
    assert (bits(()), bits(("epoll_wait", "ppoll", "read")), bits((CANDIDATES[-1],))) == (0, 0b10001, 1 << len(CANDIDATES) - 1)
    waits = [0b101]
    for _ in range(17):
        waits.append(forked(waits[-1]))
    assert waits == [min(count, 15) << 28 | 0b101 for count in range(18)]
    assert {executed(each) for each in waits} == {0b101}
