"""The log of `enforce`: the kinds of its records, which docs/events.schema.json describes (`versions.EVENTS` is their version),
and its lines, which programs with hostile users may have changed."""

from __future__ import annotations

import sys

from callfence.tracer import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

START, DENIED, ANSWERED, MESSAGE, REFUSED, END = "start", "denied", "answered", "message", "refused", "end"
"""The program was started; a call was denied; a question about denied calls was answered; a message of `enforce` about itself;
the program was not run; its last process has ended."""
KINDS = (START, DENIED, ANSWERED, MESSAGE, REFUSED, END)
MAX_LINE = 1 << 18
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
