"""Text that several commands print; and text from outside as Markdown, in which nothing of it becomes markup, a mention, a
reference, a link or an image.

Escaping by backslashes is not enough: code hosts also link bare URLs, `@names`, `#numbers` and hashes of commits, which have
no markup to escape.  They read none of that, and no entity, inside a code span (CommonMark 6.1).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from policygen.language.naming import format_entry
from policygen.text import printable, word

if TYPE_CHECKING:
    from collections.abc import Sequence

    from policygen.model import Entry
    from tracer.abi import Arch

__all__ = ["cell", "code", "command_line", "ending", "on_one_line", "plural", "printable"]


def command_line(words: Sequence[str]) -> str:
    """Return the words as a shell command."""
    return " ".join(map(word, words))


def on_one_line(arch: Arch, number: int, entry: Entry) -> str:
    """Return the entry in the policy language, on one line."""
    return " ".join(map(str.strip, format_entry(arch, number, entry).splitlines()))


def ending(status: int | None) -> str:
    """Return how a run ended: its exit status, or the signal that ended it as a negative number; None if that was not seen."""
    if status is None:
        return "not seen to its end"
    return f"status {status}" if status >= 0 else f"signal {-status}"


def plural(count: int, one: str, many: str = "") -> str:
    """`1 run`, `2 runs`, `1,200 calls`."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def code(text: str) -> str:
    """Return the text as a code span that is longer than any row of backticks in it; what is not printable is escaped, "" is
    ""."""
    shown = printable(text)
    fence = "`" * (max(map(len, re.findall("`+", shown)), default=0) + 1)
    is_padded = shown.startswith("`") or shown.endswith("`") or (shown[:1] == shown[-1:] == " " and not shown.isspace())
    pad = " " if is_padded else ""  # a renderer removes one space of each end
    return f"{fence}{pad}{shown}{pad}{fence}" if shown else ""


def cell(text: str) -> str:
    """Return the same in a table, where `|` is to be escaped also in code (GFM 4.10)."""
    return code(text).replace("|", "\\|")
