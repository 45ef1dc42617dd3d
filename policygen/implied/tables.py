"""Read the hand-reviewed tables of this folder: implied sets, the capabilities that their rows require, and the calls that
`enforce` fails with an errno instead of killing if a policy with an implied set denies them, with the caches of caches.tsv.

The .tsv files are split into rows on first use, in about a millisecond.  A row's entry is parsed when it is first needed: all
entries of an architecture take 40 ms, and most processes need few.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from callfence.policygen.holds import holds
from callfence.policygen.implied.restricting import with_restrictions
from callfence.policygen.language.document import parse
from callfence.policygen.language.operands import operands
from callfence.policygen.model import IMPLIED, Always, Entry
from callfence.tracer.abi import Arch, Event, table
from callfence.tracer.abi.constants import table_rows
from callfence.tracer.named import NamedTuple

_ALLOWED = Entry(Always(True))

REACHES_ANY_FILE = "reaches any file"
"""A name in `given` that no entry grants: the policy has no `path` line, so names reach all files of the user."""


def stated_call(arch: Arch, cell: str) -> int | None:
    """Return the number of the call of which a cell states an entry in the policy language, with or without `: allow`.  None if
    the architecture has no such call, or has one that takes a pointer to its arguments (mmap of i386)."""
    name, colon, _ = cell.partition(":")
    call = table(arch).by_name.get(name)
    if call is None:
        return None
    if colon and "errno" not in cell and all(argument.kind.is_pointer for argument in call.arguments):
        return call.number if operands(arch, call.number).constrainable() else None
    return call.number


@cache
def stated_entry(arch: Arch, cell: str) -> Entry:
    """Return the entry that a cell states, of a call that the architecture has (`stated_call`)."""
    if ":" not in cell:
        return _ALLOWED
    (entry,) = parse(f"arch {arch}\n{cell}", "a table of calls").policy.entries[arch].values()
    return entry


class Capability(NamedTuple):
    """A way in which a policy can grant something that rows of implied sets require."""

    name: str
    arch: Arch
    number: int
    cell: str
    """The entry that grants the capability, in the policy language."""
    held: frozenset[int]
    """Indexes of arguments that the policy may restrict to some values and still have the capability."""
    is_least: bool
    """Whether learning grants the capability with this entry."""
    why: str

    @property
    def entry(self) -> Entry:
        """The entry that grants the capability."""
        return stated_entry(self.arch, self.cell)


class Row(NamedTuple):
    """An entry that an implied set adds: it grants nothing beyond the capabilities in `given`."""

    given: frozenset[str]
    """Names of the capabilities that the policy must have, all of them."""
    arch: Arch
    number: int
    cell: str
    """The entry that is added, in the policy language."""
    why: str

    @property
    def entry(self) -> Entry:
        """The entry that is added: it allows calls, or fails the call whatever its arguments."""
        return with_restrictions(self.arch, self.number, stated_entry(self.arch, self.cell))


@cache
def capabilities(arch: Arch) -> tuple[Capability, ...]:
    """Return the rows of capabilities.tsv that apply to an architecture, in the file's order."""
    result = []
    for name, learn, cell, held, why in table_rows(__spec__, "capabilities.tsv"):
        number = stated_call(arch, cell)
        if number is not None:
            wanted = held.split() if held != "-" else ()
            names = [argument.name for argument in table(arch).by_number[number].arguments] if wanted else []
            indices = frozenset(map(names.index, wanted))
            result.append(Capability(name, arch, number, cell, indices, learn == "=", why))
    return tuple(result)


@cache
def rows(version: int, arch: Arch) -> tuple[Row, ...]:
    """Return the rows of an implied set (one of `model.IMPLIED`) that apply to an architecture, in the file's order."""
    capability_names = {REACHES_ANY_FILE, *(row[0] for row in table_rows(__spec__, "capabilities.tsv"))}
    result = []
    for given, cell, why in table_rows(__spec__, f"implied{version}.tsv"):
        names = frozenset(() if given == "-" else given.split(", "))
        if not names <= capability_names:
            raise ValueError(f"implied{version}.tsv: no capability is named {', '.join(sorted(names - capability_names))}")
        number = stated_call(arch, cell)
        if number is not None:
            result.append(Row(names, arch, number, cell, why))
    return tuple(result)


def parse_all(arch: Arch) -> None:
    """Parse the entries of all tables for an architecture, so that later uses find them parsed."""
    cells = [capability.cell for capability in capabilities(arch)]
    cells += [row.cell for version in IMPLIED for row in rows(version, arch)]
    cells += [cell for group in unavailable_cells(arch).values() for cell in group]
    for cell in cells:
        stated_entry(arch, cell)


def unavailable(event: Event) -> int:
    """Return the errno with which `enforce` fails the call of an event if a policy with an implied set denies it; 0 if no row
    of unavailable.tsv matches the call."""
    arch = Arch.from_audit(event.arch)
    for cell in unavailable_cells(arch).get(event.number, ()) if arch else ():
        entry = stated_entry(arch, cell)
        if holds(entry.expression, table(arch).by_number[event.number].arguments, event.arguments):
            return entry.action.errno
    return 0


@cache
def unavailable_cells(arch: Arch) -> Mapping[int, tuple[str, ...]]:
    """Return the cells of unavailable.tsv that state entries, by call number, each in the file's order."""
    result: dict[int, tuple[str, ...]] = {}
    for cell, *_ in table_rows(__spec__, "unavailable.tsv"):
        number = stated_call(arch, cell)
        if number is not None:
            result[number] = (*result.get(number, ()), cell)
    return result


def is_in_cache(path: bytes) -> bool:
    """Return whether a path is a cache of caches.tsv, or in one, as far as its text says: links are not followed."""
    names = [name for name in path.split(b"/") if name not in (b"", b".")]
    above = b"/" + b"/".join(names) + b"/"
    return b".." not in names and any(b"/%b/" % cache_.encode() in above for cache_, _ in table_rows(__spec__, "caches.tsv"))
