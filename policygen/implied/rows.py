"""The implied sets and the capabilities that their rows are given, as reviewed by hand: the .tsv files, read on first use."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from policygen.implied import made
from policygen.implied.cells import lines, read_entries
from tracer.abi import Arch, table
from tracer.named import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from policygen.model import Entry


class Capability(NamedTuple):
    """One way in which a policy grants something that rows of implied sets ask for."""

    name: str
    arch: Arch
    number: int
    entry: Entry
    """The calls that grant it, as allowed."""
    held: frozenset[int]
    """Arguments that the policy may hold to some values, and has the capability all the same."""
    is_least: bool
    """Whether this is the entry with which learning grants it."""
    why: str


class Row(NamedTuple):
    """One entry that grants nothing beyond what the policy has anyway."""

    given: frozenset[str]
    """Names of capabilities, all of which the policy must have."""
    arch: Arch
    number: int
    entry: Entry
    """Allows, or fails the call whatever its arguments."""
    why: str


@cache
def capabilities(arch: Arch) -> tuple[Capability, ...]:
    """What grants capabilities on an architecture, in the file's order."""
    found = []
    cells = list(lines("capabilities.tsv"))
    for (name, learn, _, held, why), read in zip(cells, _entries(arch, [row[2] for row in cells]), strict=True):
        if read is not None:
            wanted = held.split() if held != "-" else ()
            names = [argument.name for argument in table(arch).by_number[read[0]].arguments] if wanted else []
            indices = frozenset(map(names.index, wanted))
            found.append(Capability(name, arch, *read, indices, learn == "=", why))
    return tuple(found)


@cache
def rows(version: int, arch: Arch) -> tuple[Row, ...]:
    """The rows of an implied set (one of `model.IMPLIED`) on an architecture, in the file's order."""
    known = {row[0] for row in lines("capabilities.tsv")}
    found = []
    cells = list(lines(f"implied{version}.tsv"))
    for (given, _, why), read in zip(cells, _entries(arch, [row[1] for row in cells]), strict=True):
        names = frozenset(() if given == "-" else given.split(", "))
        if not names <= known:
            raise ValueError(f"implied{version}.tsv: no capability is named {', '.join(sorted(names - known))}")
        if read is not None:
            found.append(Row(names, arch, *read, why))
    return tuple(found)


def _entries(arch: Arch, cells: Sequence[str]) -> list[tuple[int, Entry] | None]:
    """What `cells.read_entries` returns for these cells; `made` has those that take long, unless the table is newer."""
    known = _made(arch)
    rest = [cell for cell in cells if cell not in known]
    found = known | dict(zip(rest, read_entries(arch, rest), strict=True))
    return [found[cell] for cell in cells]


@cache
def _made(arch: Arch) -> dict[str, tuple[int, Entry] | None]:
    return {**made.entries(arch)}
