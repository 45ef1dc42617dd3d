"""Coloured lines and tables on a terminal: the only module that imports rich."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

_STYLES = (
    ("danger: ", "bold red"),
    ("warning: ", "yellow"),
    ("note: ", "cyan"),
    ("  + ", "green"),
    ("  - ", "red"),
    ("  ~ ", "magenta"),
    ("+ ", "dim"),
    ("- ", "dim"),
    ("~ ", "dim"),
    ("      ", "dim"),
)
"""The style of each line, by how the line begins."""


_MORE = "  | "
"""What a line begins with that goes on from the one before."""


def folded(line: str, columns: int) -> list[str]:
    """Return a line as several that are no longer than a screen with so many columns, where each but the first begins with a
    bar: a terminal would begin them at its edge, where they could look like lines of ours.

    What is not ASCII counts as two columns: terminals differ in how many they take for signs, emoji and accents."""
    parts, room = [""], columns - len(_MORE)
    for character in line:
        room -= 1 if character.isascii() else 2
        if room < 0:
            room = columns - len(_MORE) - (1 if character.isascii() else 2)
            parts.append(_MORE)
        parts[-1] += character
    return parts


def print_lines(lines: Iterable[str], file: TextIO) -> None:
    """Print the lines of a comparison or of findings, each in a colour that depends on its beginning; without colour if
    NO_COLOR is set (no-color.org)."""
    console = Console(file=file, highlight=False)
    for line in lines:
        level = next((style for word, style in _STYLES[:3] if f": {word}" in f": {line}"[:80]), "")
        style = next((style for start, style in _STYLES[3:] if line.startswith(start)), level)
        console.print(Text(line, style=style), soft_wrap=True)


def print_summary(title: str, rows: Sequence[tuple[str, str]], lines: Sequence[str], file: TextIO) -> None:
    """Print a title, a table of two columns, and lines below it."""
    console = Console(file=file, highlight=False)
    table = Table(title=Text(title), title_justify="left", show_header=False, title_style="bold", expand=False)
    table.add_column(style="cyan", no_wrap=True)
    table.add_column()
    for label, text in rows:
        table.add_row(Text(label), Text(text))
    console.print(table)
    for line in lines:
        console.print(Text(line, style="green" if line.startswith("+") else ""), soft_wrap=True)  # a command is to be copied
