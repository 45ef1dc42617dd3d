"""The reader of ELF headers: of both classes, and of files that only begin like one."""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from callfence.tracer.linux import PT_INTERP, PT_LOAD, PT_NOTE, elf_bits, elf_segments

WIDE = b"\x7fELF\x02\x01\x01".ljust(32, b"\0") + struct.pack("<QQIHHHHHH", 64, 0, 0, 64, 56, 2, 0, 0, 0)
WIDE += struct.pack("<IIQQQQQQ", PT_LOAD, 5, 0, 0x400000, 0x400000, 0x1000, 0x2000, 0x1000)
WIDE += struct.pack("<IIQQQQQQ", PT_NOTE, 4, 0x200, 0x400200, 0x400200, 0x24, 0x24, 4)
NARROW = b"\x7fELF\x01\x01\x01".ljust(28, b"\0") + struct.pack("<IIIHHHHHH", 52, 0, 0, 52, 32, 2, 0, 0, 0)
NARROW += struct.pack("<IIIIIIII", PT_LOAD, 0, 0x8000, 0x8000, 0x1000, 0x2000, 5, 0x1000)
NARROW += struct.pack("<IIIIIIII", PT_NOTE, 0x100, 0x8100, 0x8100, 0x24, 0x24, 4, 4)


def reading(content: bytes) -> Callable[[int, int], bytes]:
    return lambda offset, size: content[offset : offset + size]


@pytest.mark.parametrize(
    ("content", "bits", "segments"),
    [
        (WIDE, 64, [(PT_LOAD, 0, 0x400000, 0x1000), (PT_NOTE, 0x200, 0x400200, 0x24)]),
        (NARROW, 32, [(PT_LOAD, 0, 0x8000, 0x1000), (PT_NOTE, 0x100, 0x8100, 0x24)]),
        (WIDE[:96], 64, [(PT_LOAD, 0, 0x400000, 0), (0, 0, 0, 0)]),
        (b"#!/bin/sh\n", 0, []),
        (b"\x7fELF\x03" + WIDE[5:], 0, []),
        (b"\x7fELF", 0, []),
        (b"", 0, []),
    ],
    ids=["64 bits", "32 bits", "cut off", "script", "unknown class", "four bytes", "empty"],
)
def test_segments(content: bytes, bits: int, segments: list[tuple[int, int, int, int]]) -> None:
    assert elf_bits(content) == bits
    assert list(elf_segments(reading(content))) == segments


def test_an_interpreter() -> None:
    content = Path(sys.executable).read_bytes()
    names = [content[offset : offset + size] for kind, offset, _, size in elf_segments(reading(content)) if kind == PT_INTERP]
    assert [b"/ld-" in name for name in names] == [True]


def test_many_headers_are_not_all_read() -> None:
    content = WIDE[:56] + b"\xff\xff" + WIDE[58:]
    assert len(list(elf_segments(reading(content)))) < 2000
