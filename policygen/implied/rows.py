"""The implied sets and the capabilities that their rows are given, as reviewed by hand: the .tsv files, read on first use."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from policygen.language.document import parse
from policygen.language.operands import operands
from policygen.model import Always, Entry
from tracer.abi import Arch, table
from tracer.abi.data import table_text

if TYPE_CHECKING:
    from collections.abc import Iterator

@dataclass(frozen=True, slots=True)
class Capability:
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


@dataclass(frozen=True, slots=True)
class Row:
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
    for name, learn, cell, held, why in _lines("capabilities.tsv"):
        read = read_entry(arch, cell)
        if read is not None:
            names = [argument.name for argument in table(arch).by_number[read[0]].arguments]
            indices = frozenset(names.index(one) for one in held.split() if one != "-")
            found.append(Capability(name, arch, *read, indices, learn == "=", why))
    return tuple(found)


@cache
def rows(version: int, arch: Arch) -> tuple[Row, ...]:
    """The rows of an implied set (one of `model.IMPLIED`) on an architecture, in the file's order."""
    known = {one.name for one in capabilities(Arch.X86_64)}
    found = []
    for given, cell, why in _lines(f"implied{version}.tsv"):
        names = frozenset(() if given == "-" else given.split(", "))
        if not names <= known:
            raise ValueError(f"implied{version}.tsv: no capability is named {', '.join(sorted(names - known))}")
        read = read_entry(arch, cell)
        if read is not None:
            found.append(Row(names, arch, *read, why))
    return tuple(found)


def read_entry(arch: Arch, cell: str) -> tuple[int, Entry] | None:
    """The number and entry of a cell: an entry of the policy language, with or without `: allow`.

    None if the architecture has no such call, or one that takes a pointer to its arguments (mmap of i386)."""
    name, colon, _ = cell.partition(":")
    call = table(arch).by_name.get(name)
    if call is None or (colon and "errno" not in cell and not operands(arch, call.number).constrainable()):
        return None
    if not colon:
        return call.number, Entry(Always(True))
    policy = parse(f"arch {arch}\n{cell}", f"{name} of a table of calls").policy
    ((number, entry),) = policy.entries[arch].items()
    return number, entry


def _lines(name: str) -> Iterator[list[str]]:
    """The cells of each row, without comments and the heading."""
    lines = table_text(__spec__, name).splitlines()
    rows = (line.split("\t") for line in lines if not line.startswith("#"))
    next(rows)
    return rows
