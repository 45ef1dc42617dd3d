"""Text from outside as Markdown, in which nothing of it becomes markup, a mention, a reference, a link or an image.

Escaping by backslashes is not enough: code hosts also link bare URLs, `@names`, `#numbers` and hashes of commits, which have
no markup to escape.  They read none of that, and no entity, inside a code span (CommonMark 6.1).
"""

from __future__ import annotations

import re

from callfence.shared.text import printable


def code(text: str) -> str:
    """The text as a code span that is longer than any row of backticks in it; what is not printable is escaped, "" is ""."""
    shown = printable(text)
    fence = "`" * (max(map(len, re.findall("`+", shown)), default=0) + 1)
    is_padded = shown.startswith("`") or shown.endswith("`") or (shown[:1] == shown[-1:] == " " and not shown.isspace())
    pad = " " if is_padded else ""  # a renderer removes one space of each end
    return f"{fence}{pad}{shown}{pad}{fence}" if shown else ""


def cell(text: str) -> str:
    """The same in a table, where `|` is to be escaped also in code (GFM 4.10)."""
    return code(text).replace("|", "\\|")
