"""What is drawn on a terminal: the one place that imports rich."""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import TextIO

REFRESH = 0.25
"""Seconds between two drawings of the progress line."""


def print_summary(title: str, rows: Sequence[tuple[str, str]], lines: Sequence[str], file: TextIO) -> None:
    console = Console(file=file, highlight=False)
    table = Table(title=Text(title), title_justify="left", show_header=False, title_style="bold", expand=False)
    table.add_column(style="cyan", no_wrap=True)
    table.add_column()
    for label, text in rows:
        table.add_row(Text(label), Text(text))
    console.print(table)
    for line in lines:
        console.print(Text(line, style="green" if line.startswith("+") else ""))


@contextmanager
def progress(figures: Callable[[], str], hidden: Callable[[], bool]) -> Iterator[Callable[[], None]]:
    """A line on stderr that is drawn anew when the yielded function is called, and is gone at the end.

    `figures` is its text; once `hidden` is true nothing is drawn any more, for the program draws itself.
    """
    console = Console(file=sys.stderr)
    live = Live("", console=console, auto_refresh=False, transient=True, redirect_stdout=False, redirect_stderr=False)
    drawn = time.monotonic()
    started = False

    def draw() -> None:
        nonlocal drawn, started
        now = time.monotonic()
        if now - drawn < REFRESH:
            return
        drawn = now
        if hidden():
            if started:
                live.stop()
                started = False
            return
        if not started:
            live.start()
            started = True
        live.update(Text(figures(), style="dim", overflow="ellipsis", no_wrap=True), refresh=True)

    try:
        yield draw
    finally:
        if started:
            live.stop()
