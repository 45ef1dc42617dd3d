"""What is drawn on a terminal: the one place that imports rich."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import TextIO

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
