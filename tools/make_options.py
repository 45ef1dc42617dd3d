"""Writes docs/options.md, all options of all commands, from what --help is made of: make_options.py [FOLDER]; default: docs."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).parent))
from command_parsers import options, parser_of

from callfence.cli import COMMANDS

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

HEAD = """\
# Options

`make commands` writes this page from the commands' parsers. `learn --help` and `enforce --help` show what most people need,
`--help-all` the rest; `callfence COMMAND --help` has all options of a command.
"""


def section(command: str) -> Iterator[str]:
    parser = parser_of(command)
    yield f"## {parser.prog}\n"
    what = COMMANDS[command]
    yield f"{what[0].upper()}{what[1:]}.\n"
    found = options(parser)
    if not found:
        yield "It has no options.\n"
        return
    yield "| option | |\n|---|---|"
    for action in found:
        text = (action.help or "") % {**vars(action), "prog": parser.prog}
        yield f"| {', '.join(spelling(action))} | {cell(text)} |"
    yield ""


def spelling(action: argparse.Action) -> Iterator[str]:
    """The names, the last one with its value."""
    *others, last = action.option_strings
    for name in others:
        yield f"`{name}`"
    value = action.metavar or ("|".join(map(str, action.choices)) if action.choices else action.dest.upper())
    if action.nargs != 0:
        last += f"[={value}]" if action.nargs == "?" else f" {value}"
    yield f"`{last}`".replace("|", "\\|")


def cell(text: str) -> str:
    """A help text as a table's cell: pages of this folder become links, and `<` and `|` are no markup."""
    text = " ".join(text.split()).replace("|", "\\|")
    return re.sub(r"\bdocs/([\w-]+\.md)", r"[\1](\1)", text)


def write(folder: Path) -> None:
    lines = [HEAD, *(line for command in COMMANDS for line in section(command))]
    (folder / "options.md").write_text("\n".join(lines).rstrip() + "\n")


if __name__ == "__main__":
    write(Path(sys.argv[1] if len(sys.argv) > 1 else "docs"))
