"""Read the hand-reviewed tables of this folder: implied sets, the capabilities that their rows require, and the calls that
`enforce` fails with an errno instead of killing if a policy with an implied set denies them.

The .tsv files are read on first use, their cells as entries of the policy language, in about 10 ms for an architecture.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from policygen.holds import holds
from policygen.language.document import parse
from policygen.language.operands import operands
from policygen.model import Always, Entry
from tracer.abi import Arch, table
from tracer.abi.constants import table_text
from tracer.named import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from tracer.abi import Event

_ALLOWED = Entry(Always(True))

REACHES_ANY_FILE = "reaches any file"
"""A name in `given` that no entry grants: the policy has no `path` line, so names reach all files of the user."""


def lines(name: str) -> Iterator[list[str]]:
    """Yield the cells of each row of the table `name`, without its comments and heading."""
    rows = (line.split("\t") for line in table_text(__spec__, name).splitlines() if not line.startswith("#"))
    next(rows)
    return rows


def read_entries(arch: Arch, cells: Sequence[str]) -> list[tuple[int, Entry] | None]:
    """Return, for each cell, the call number and the entry that it states in the policy language, with or without `: allow`.

    The result for a cell is None if the architecture has no such call, or has one that takes a pointer to its arguments (mmap
    of i386)."""
    result: list[tuple[int, Entry] | None] = [None] * len(cells)
    layers: list[dict[int, tuple[int, str]]] = []
    """Groups of cells that fit into one policy, which has one entry for each call: call -> index and text of the cell.  Parsing
    few long texts takes half the time of many short ones."""
    for place, cell in enumerate(cells):
        name, colon, _ = cell.partition(":")
        call = table(arch).by_name.get(name)
        if call is None or (colon and "errno" not in cell and not operands(arch, call.number).constrainable()):
            continue
        if not colon:
            result[place] = call.number, _ALLOWED
            continue
        layer = next((other for other in layers if call.number not in other), None)
        if layer is None:
            layers.append(layer := {})
        layer[call.number] = place, cell
    for layer in layers:
        text = "\n".join((f"arch {arch}", *(cell for _, cell in layer.values())))
        for number, entry in parse(text, "a table of calls").policy.entries[arch].items():
            result[layer[number][0]] = number, entry
    return result


class Capability(NamedTuple):
    """A way in which a policy can grant something that rows of implied sets require."""

    name: str
    arch: Arch
    number: int
    entry: Entry
    """The entry that grants the capability."""
    held: frozenset[int]
    """Indexes of arguments that the policy may restrict to some values and still have the capability."""
    is_least: bool
    """Whether learning grants the capability with this entry."""
    why: str


class Row(NamedTuple):
    """An entry that an implied set adds: it grants nothing beyond the capabilities in `given`."""

    given: frozenset[str]
    """Names of the capabilities that the policy must have, all of them."""
    arch: Arch
    number: int
    entry: Entry
    """The entry that is added: it allows calls, or fails the call whatever its arguments."""
    why: str


@cache
def capabilities(arch: Arch) -> tuple[Capability, ...]:
    """Return the rows of capabilities.tsv that apply to an architecture, in the file's order."""
    result = []
    cells = list(lines("capabilities.tsv"))
    for (name, learn, _, held, why), read in zip(cells, read_entries(arch, [row[2] for row in cells]), strict=True):
        if read is not None:
            wanted = held.split() if held != "-" else ()
            names = [argument.name for argument in table(arch).by_number[read[0]].arguments] if wanted else []
            indices = frozenset(map(names.index, wanted))
            result.append(Capability(name, arch, *read, indices, learn == "=", why))
    return tuple(result)


@cache
def rows(version: int, arch: Arch) -> tuple[Row, ...]:
    """Return the rows of an implied set (`version` is one of `model.IMPLIED`) that apply to an architecture, in the file's
    order."""
    capability_names = {REACHES_ANY_FILE, *(row[0] for row in lines("capabilities.tsv"))}
    result = []
    cells = list(lines(f"implied{version}.tsv"))
    for (given, _, why), read in zip(cells, read_entries(arch, [row[1] for row in cells]), strict=True):
        names = frozenset(() if given == "-" else given.split(", "))
        if not names <= capability_names:
            raise ValueError(f"implied{version}.tsv: no capability is named {', '.join(sorted(names - capability_names))}")
        if read is not None:
            result.append(Row(names, arch, *read, why))
    return tuple(result)


def unavailable(event: Event) -> int:
    """Return the errno with which `enforce` fails the call of an event if a policy with an implied set denies it; 0 if no row
    of unavailable.tsv matches the call."""
    arch = Arch.from_audit(event.arch)
    for entry in unavailable_entries(arch).get(event.number, ()) if arch else ():
        if holds(entry.expression, table(arch).by_number[event.number].arguments, event.arguments):
            return entry.action.errno
    return 0


@cache
def unavailable_entries(arch: Arch) -> Mapping[int, tuple[Entry, ...]]:
    """Return the entries in unavailable.tsv by call number, each in the file's order."""
    result: dict[int, tuple[Entry, ...]] = {}
    for read in read_entries(arch, [call for call, *_ in lines("unavailable.tsv")]):
        if read is not None:
            number, entry = read
            result[number] = (*result.get(number, ()), entry)
    return result
