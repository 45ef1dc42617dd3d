"""The cells of this folder's tables, read as entries of the policy language.

Reading all of them takes as long as learning a small program, so they are kept as they were read, in `made.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from policygen.language.document import parse
from policygen.language.operands import operands
from policygen.model import Always, Entry
from tracer.abi import Arch, table
from tracer.abi.data import table_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_ALLOWED = Entry(Always(True))


def lines(name: str) -> Iterator[list[str]]:
    """The cells of each row of a table, without comments and the heading."""
    rows = (line.split("\t") for line in table_text(__spec__, name).splitlines() if not line.startswith("#"))
    next(rows)
    return rows


def read_entries(arch: Arch, cells: Sequence[str]) -> list[tuple[int, Entry] | None]:
    """Return the number and entry of each cell: an entry of the policy language, with or without `: allow`.

    None if the architecture has no such call, or one that takes a pointer to its arguments (mmap of i386)."""
    found: list[tuple[int, Entry] | None] = [None] * len(cells)
    layers: list[dict[int, tuple[int, str]]] = []
    """Cells that stand in one policy, which has one entry for each call: call -> place and text.  Reading few long texts
    takes half of the time of reading many short ones."""
    for place, cell in enumerate(cells):
        name, colon, _ = cell.partition(":")
        call = table(arch).by_name.get(name)
        if call is None or (colon and "errno" not in cell and not operands(arch, call.number).constrainable()):
            continue
        if not colon:
            found[place] = call.number, _ALLOWED
            continue
        layer = next((one for one in layers if call.number not in one), None)
        if layer is None:
            layers.append(layer := {})
        layer[call.number] = place, cell
    for layer in layers:
        text = "\n".join((f"arch {arch}", *(cell for _, cell in layer.values())))
        for number, entry in parse(text, "a table of calls").policy.entries[arch].items():
            found[layer[number][0]] = number, entry
    return found
