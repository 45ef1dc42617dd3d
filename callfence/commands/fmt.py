"""`callfence fmt`: policies in canonical form."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from callfence.shared.inputs import content, message, tell
from callfence.shared.options import Parser
from policygen.language.document import included, parse, read_text
from policygen.language.lexer import decode
from policygen.recording import atomic
from tracer.errors import CallfenceError

if TYPE_CHECKING:
    import argparse


def parser() -> argparse.ArgumentParser:
    description = "Rewrite policies in canonical form, keeping their comments."
    parser = Parser(prog="callfence fmt", description=description, allow_abbrev=False)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if a file would change")
    parser.add_argument("policies", nargs="+", metavar="POLICY", help="a file; - is standard input, written to standard output")
    return parser


def main(arguments: list[str]) -> int:
    """0: nothing to do, or done; 1: --check found a difference; 2: bad input."""
    options = parser().parse_args(arguments)
    worst = 0
    for name in options.policies:
        try:
            worst = max(worst, _format(name, check=options.check))
        except (CallfenceError, OSError) as error:
            tell(message("fmt", error))
            worst = 2
    return worst


def _format(name: str, *, check: bool) -> int:
    """0 or 1.  Raises PolicyError, OSError."""
    if name == "-":
        before = decode(content(name), "<stdin>")
        after = parse(before, "<stdin>", read=included("<stdin>")).text()
        if not check:
            sys.stdout.write(after)
    else:
        before = read_text(name)
        after = parse(before, name, read=included(name)).text()
        if not check and after != before:
            atomic.write(Path(name), after.encode())
    if check and after != before:
        print(f"{name}: not in canonical form; `callfence fmt {name}` rewrites it", file=sys.stderr)
        return 1
    return 0
