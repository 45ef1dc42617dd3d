"""Texts that several commands print, and untrusted text as Markdown code that cannot become markup, a mention, a reference, a
link or an image.

Escaping by backslashes is not enough: code hosts also link bare URLs, `@names`, `#numbers` and hashes of commits, which have
no markup to escape.  They read none of that, and no entity, inside a code span (CommonMark 6.1).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from callfence.policygen.language.naming import format_entry
from callfence.policygen.model import Entry
from callfence.policygen.text import printable, word
from callfence.tracer.abi import Arch

__all__ = ["cell", "code", "command_line", "ending", "on_one_line", "plural", "printable"]


def command_line(words: Sequence[str]) -> str:
    """Return the words as a command that can be typed into a shell."""
    return " ".join(map(word, words))


def on_one_line(arch: Arch, number: int, entry: Entry) -> str:
    """Return an entry in the policy language, on one line."""
    return " ".join(map(str.strip, format_entry(arch, number, entry).splitlines()))


def ending(status: int | None) -> str:
    """Return a description of how a run ended.  `status`: exit status, or -N for signal N; None if not recorded."""
    if status is None:
        return "not seen to its end"
    return f"status {status}" if status >= 0 else f"signal {-status}"


def plural(count: int, singular: str, many: str = "") -> str:
    """Return a count with its noun: `1 run`, `1,200 calls`.  `many` is the plural if it is not `singular` with an s."""
    return f"{count:,} {singular if count == 1 else many or singular + 's'}"


def code(text: str) -> str:
    """Return the text as a Markdown code span, with unprintable characters escaped; "" if the text is empty."""
    shown = printable(text)
    fence = "`" * (max(map(len, re.findall("`+", shown)), default=0) + 1)
    is_padded = shown.startswith("`") or shown.endswith("`") or (shown[:1] == shown[-1:] == " " and not shown.isspace())
    pad = " " if is_padded else ""  # a renderer removes one space of each end
    return f"{fence}{pad}{shown}{pad}{fence}" if shown else ""


def cell(text: str) -> str:
    """Return the text as a code span for a cell of a Markdown table, where `|` is escaped even in code (GFM 4.10)."""
    return code(text).replace("|", "\\|")
