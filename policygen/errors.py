"""The error for a policy that cannot be read: its position, the source line, and what to write instead."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Literal

from callfence.policygen.text import printable
from callfence.tracer.errors import UserError

Mistake = Literal["character", "syntax", "version", "name", "value", "twice", "place", "effect", "phase", "limit", "include"]
"""The kinds of mistakes in a policy, which docs/grammar.md defines; they stay the same when messages change."""

_EXCERPT = 100
"""Characters of a source line that a message shows; of a longer line, those around the column."""


class PolicyError(UserError):
    """The text of a policy has a mistake.  `str()` is the whole message, of several lines: position and message, the source
    line, carets, and any hint.  For an included file, the lines of the `include` statements that led to it follow."""

    def __init__(
        self,
        filename: str,
        line: int,
        column: int,
        message: str,
        source_line: str = "",
        hint: str = "",
        length: int = 1,
        chain: tuple[str, ...] = (),
        kind: Mistake = "syntax",
    ) -> None:
        super().__init__(message)
        self.filename = filename
        self.line = line
        """The line's number, from 1."""
        self.column = column
        """The column in the line, in characters, from 1."""
        self.message = message
        self.source_line = source_line
        """The text of the line, without its line end."""
        self.hint = hint
        """What to write instead, or ''."""
        self.length = length
        """Number of characters that the carets mark."""
        self.chain = chain
        """`file:line` of each include that led to this file, innermost first."""
        self.kind = kind

    def __str__(self) -> str:
        where = printable(f"{self.filename}:{self.line}:{self.column}")
        if _is_led_away(self.filename):  # in a log, the message could have what the reader should not see
            return f"{where}: a mistake that is not shown: this is a symbolic link to a file elsewhere; check that file"
        text, column = _excerpt(self.source_line, self.column - 1)
        carets = "^" * max(1, min(self.length, len(text) - column))
        lines = [f"{where}: {printable(self.message)}"]
        if self.source_line.strip() and not self.chain:  # an include may lead to a file that the reader should not see
            lines += [f"  {text}", f"  {' ' * column}{carets}"]
        if self.hint:
            lines.append(f"  {printable(self.hint)}")
        lines += [f"  included at {printable(place)}" for place in self.chain]
        return "\n".join(lines)


def _is_led_away(name: str) -> bool:
    """Return whether a file is a symbolic link to one that is not below the link's folder: a change to a repository can make it
    one, so that a check of the change prints any file."""
    if not os.path.islink(name):
        return False
    folder = os.path.realpath(os.path.dirname(name))
    return not os.path.realpath(name).startswith(os.path.join(folder, ""))


def _excerpt(line: str, column: int) -> tuple[str, int]:
    """Return the part of a line to show, in which each character takes one terminal cell, and the column within that part."""
    start = max(0, column - _EXCERPT // 2) if len(line) > _EXCERPT else 0
    text = line[start : start + _EXCERPT]
    # A tab would move the carets, and an escape sequence in a hostile policy would drive the reader's terminal.
    shown = "".join(c if c.isprintable() else " " if c == "\t" else "\ufffd" for c in text)
    return shown, column - start


def did_you_mean(word: str, names: Iterable[str]) -> str:
    """Return `did you mean A or B?` with those of `names` that are most similar to a misspelt word; '' if no other is."""
    by_fold = {name.casefold(): name for name in sorted(names, reverse=True) if name != word}
    from difflib import get_close_matches  # only a mistake needs it

    near = get_close_matches(word[:64].casefold(), by_fold, n=3, cutoff=0.7)
    return f"did you mean {' or '.join(by_fold[name] for name in near)}?" if near else ""
