"""Writes the shells' completions of learn, enforce and callfence, which the wheel installs: make_completions.py [FOLDER]

FOLDER/bash/NAME, FOLDER/zsh/_NAME and FOLDER/fish/NAME.fish; default: completions.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import shtab

sys.path.insert(0, str(Path(__file__).parent))
from command_parsers import actions, standalone

FILES = ("POLICY", "FILE", "OLD", "NEW", "BY", "OUT", "POLICY|FILTER", "HTML")
"""What the usage calls a file."""
PROGRAM = {"bash": "_callfence_program", "zsh": "_command_names -e", "fish": "(__fish_complete_subcommand)"}
PREAMBLE = {"bash": "_callfence_program() {\n  compgen -c -- \"$1\"\n  compgen -f -- \"$1\"\n}"}
NAMES = {"bash": "{}", "zsh": "_{}", "fish": "{}.fish"}
"""What the file of a program's completions is called, where the shell looks for it."""


def complete(parser: argparse.ArgumentParser) -> None:
    """Tells shtab what completes each argument."""
    for action in actions(parser):
        if isinstance(action, argparse._SubParsersAction):
            for one in action.choices.values():
                complete(one)
        elif action.nargs == argparse.REMAINDER:
            action.complete = PROGRAM  # type: ignore[attr-defined]
            action.help, action.metavar = "the program to run, and its arguments", "PROGRAM"
        elif not action.choices and (action.type is Path or action.metavar in FILES):
            action.complete = shtab.FILE  # type: ignore[attr-defined]
            action.help = "files" if action.help == argparse.SUPPRESS else action.help


def write(folder: Path) -> None:
    for name, parser in standalone().items():
        complete(parser)
        for shell, file in NAMES.items():
            path = folder / shell / file.format(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            text = shtab.complete(parser, shell=shell, preamble=PREAMBLE)
            path.write_text("".join(f"{line.rstrip()}\n" for line in text.strip().splitlines()))


if __name__ == "__main__":
    write(Path(sys.argv[1] if len(sys.argv) > 1 else "completions"))
