"""The lines of logs that `enforce --log` wrote, and that programs with hostile users may have changed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import BinaryIO, Final

MAX_LINE: Final = 1 << 18
"""The most bytes of a line: twice the longest that enforce writes."""


def lines(stream: BinaryIO, limit: int = sys.maxsize) -> Iterator[tuple[int, bytes]]:
    """Yield the lines that are not blank of the next `limit` bytes, with their numbers; b"" for one that is too long.  No more
    than one is in memory."""
    number = 0
    while line := stream.readline(min(MAX_LINE, limit)):
        number += 1
        limit -= len(line)
        is_long = len(line) == MAX_LINE and not line.endswith(b"\n")
        if not is_long and line.strip():
            yield number, line
        while is_long and line and not line.endswith(b"\n"):
            line = stream.readline(min(MAX_LINE, limit))
            limit -= len(line)
        if is_long:
            yield number, b""
