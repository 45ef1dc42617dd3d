"""Counts the commands and options of callfence, by their parsers: count_surface.py"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from command_parsers import options, parser_of

from callfence.cli import COMMANDS


def main() -> None:
    counts = {name: [action.option_strings[-1] for action in options(parser_of(name))] for name in COMMANDS}
    width = max(map(len, counts))
    for name, found in counts.items():
        print(f"{name:{width}}  {len(found):2}  {' '.join(found)}".rstrip())
    names = {option for found in counts.values() for option in found}
    print(f"{len(counts)} commands, {sum(map(len, counts.values()))} options with {len(names)} names")


if __name__ == "__main__":
    main()
