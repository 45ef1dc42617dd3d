"""Text that several commands print."""

from __future__ import annotations

from typing import TYPE_CHECKING

from enforcer.text import word
from policygen.language.naming import format_entry
from policygen.text import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from policygen.model import Entry
    from tracer.abi import Arch

__all__ = ["command_line", "on_one_line", "plural", "printable"]


def command_line(words: Sequence[str]) -> str:
    """The words as a shell command."""
    return " ".join(map(word, words))


def on_one_line(arch: Arch, number: int, entry: Entry) -> str:
    """The entry in the policy language, on one line."""
    return " ".join(map(str.strip, format_entry(arch, number, entry).splitlines()))


def plural(count: int, one: str, many: str = "") -> str:
    """`1 run`, `2 runs`, `1,200 calls`."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"
