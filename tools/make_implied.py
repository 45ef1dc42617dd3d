"""Read the tables of implied sets once and for all: `make_implied.py FOLDER` writes made.py beside them."""

from __future__ import annotations

import sys
from pathlib import Path

from policygen.implied.tables import lines, read_entries
from policygen.model import ALLOW, IMPLIED, Always, And, Condition, Entry, Expression, Not, Or
from tracer.abi import Arch

HEADING = '''\
"""The entries in the cells of this folder's tables, as tools/make_implied.py has read them: `make implied`."""

from policygen.model import Action, ActionKind, Always, And, Condition, Entry, Not, Operator, Or
from tracer.abi import Arch


def entries(arch: Arch) -> dict[str, tuple[int, Entry]]:
    """Return the number and entry of each cell that has to be parsed and that the architecture has."""
    return {Arch.X86_64: _x86_64, Arch.I386: _i386, Arch.AARCH64: _aarch64}[arch]()
'''


def cells() -> list[str]:
    """Return the cells of all tables, each once."""
    tables = [("capabilities.tsv", 2), *((f"implied{version}.tsv", 1) for version in IMPLIED)]
    return list(dict.fromkeys(line[column] for name, column in tables for line in lines(name)))


def main(folder: Path) -> None:
    parts = [HEADING]
    for arch in Arch:
        parts += ["", f"def _{arch}() -> dict[str, tuple[int, Entry]]:", "    return {"]
        for cell, read in zip(cells(), read_entries(arch, cells()), strict=True):
            if read is not None and ":" in cell:
                parts.append(f'        "{cell}": ({read[0]}, {_entry(read[1])}),')
        parts += ["    }", ""]
    (folder / "made.py").write_text("\n".join(parts), "utf-8")


def _entry(entry: Entry) -> str:
    action = entry.action
    rest = "" if action == ALLOW else f", Action(ActionKind.{action.kind.name}, {action.errno})"
    return f"Entry({_expression(entry.expression)}{rest})"


def _expression(expression: Expression) -> str:
    match expression:
        case Always(value):
            return f"Always({value})"
        case Condition(index, operator, value, mask, values):
            rest = [str(value), str(mask), str(values)]
            while rest and rest[-1] in ("0", "()"):
                del rest[-1]
            return f"Condition({', '.join((str(index), f'Operator.{operator.name}', *rest))})"
        case And(parts) | Or(parts):
            return f"{type(expression).__name__}(({', '.join(map(_expression, parts))}))"
        case Not(part):
            return f"Not({_expression(part)})"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
