"""What several commands print alike."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from policygen.naming import format_entry

if TYPE_CHECKING:
    from collections.abc import Sequence

    from policygen.model import Entry
    from tracer.abi import Arch


def printable(text: str) -> str:
    """Names of files come from the program: they must not drive the reader's terminal, or forge a line."""
    valid = text.encode(errors="surrogateescape").decode(errors="backslashreplace")
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in valid)


def command_line(words: Sequence[str]) -> str:
    """As one would type it."""
    return printable(shlex.join(words))


def on_one_line(arch: Arch, number: int, entry: Entry) -> str:
    """The entry as the policy language has it, its alternatives side by side."""
    return " ".join(map(str.strip, format_entry(arch, number, entry).splitlines()))


def plural(count: int, one: str, many: str = "") -> str:
    """`1 run`, `2 runs`, `1,200 calls`."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"
