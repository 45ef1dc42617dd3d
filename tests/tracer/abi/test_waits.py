"""Which messages say that a program is ready."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from callfence.tracer.abi.waits import MOST, is_ready

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
        (b"STATUS=READY=1", False), (b"READY=0", False), (b"", False), (b"x" * MOST + b"\nREADY=1", False),
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
