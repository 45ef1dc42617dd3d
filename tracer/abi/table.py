"""The system calls of an architecture, by number and name, and what their arguments mean together.

Read from the tables beside this file on first use: syscalls_ARCH.tsv, joint.tsv, newest.tsv.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache, cached_property, partial
from types import MappingProxyType

from callfence.tracer.abi import constants
from callfence.tracer.abi.constants import table_lines, table_rows
from callfence.tracer.abi.model import Arch, Argument, Kind, Syscall
from callfence.tracer.named import NamedTuple


def _arguments(cells: str = "") -> tuple[Argument, ...]:
    """Return those of a call, from its row from the third cell on."""
    return tuple(map(_argument, cells.split("\t"))) if cells else ()


@cache
def _argument(cell: str) -> Argument:
    """Return the argument that is `name:ctype:width:kind:constants:exact` in a table, without trailing empty fields."""
    name, ctype, width, kind, family, exact = (*cell.split(":"), "", "")[:6]
    return Argument(name, ctype, int(width[1:]), width[0] == "s", Kind(kind), family, int(exact or "0", 16))


class _Joint(NamedTuple):
    """What one call's arguments mean where another one, the selector, has some value."""

    selector: int
    """Index of the selector."""
    values: Mapping[int, tuple[Argument, ...]]
    """The arguments under each value of the selector, as its C type reads it."""
    bits: tuple[tuple[int, tuple[Argument, ...]], ...]
    """The arguments under each set of bits that the selector may have; the first that it has all of decides."""

    def resolve(self, plain: tuple[Argument, ...], registers: Sequence[int]) -> tuple[Argument, ...]:
        value = plain[self.selector].value(registers[self.selector])
        for bits, meaning in self.bits:
            if value & bits == bits:
                return meaning
        return self.values.get(value, plain)

    def meanings(self) -> list[tuple[Argument, ...]]:
        return [*self.values.values(), *(meaning for _, meaning in self.bits)]


@cache
def _joint_rows() -> Mapping[str, list[list[str]]]:
    """Return the rows of joint.tsv by call."""
    rows: dict[str, list[list[str]]] = {}
    for calls, *row in table_rows(__spec__, "joint.tsv"):
        for call in calls.split(","):
            rows.setdefault(call, []).append(row)
    return rows


def _joint(arch: Arch, call: Syscall) -> _Joint | None:
    """Return the joint meanings of a call, or None if its arguments always mean the same."""
    names = [argument.name for argument in call.arguments]
    selector = -1
    values: dict[int, tuple[Argument, ...]] = {}
    bits: dict[int, tuple[Argument, ...]] = {}
    for by, chosen, targets, kind, *rest in _joint_rows().get(call.name, ()):
        if by not in names:
            continue  # a call that goes by this name, but takes no such argument, on another architecture
        selector = names.index(by)
        for word in chosen.split(","):
            name = word.removeprefix("&")
            value = int(name, 0) if name[0].isdigit() else constants.value(name, arch)
            if value is None:
                continue  # the architecture has no such constant
            meanings = bits if word.startswith("&") else values
            arguments = list(meanings.get(value, call.arguments))
            for target in targets.split(","):
                index = names.index(target)
                family = rest[0] if rest else ""
                exact = int(rest[1], 0) if rest[1:] else 0
                arguments[index] = arguments[index]._replace(kind=Kind(kind), constants=family, exact=exact)
            meanings[value] = tuple(arguments)
    return _Joint(selector, values, tuple(bits.items())) if selector >= 0 else None


class Table:
    """The system calls of one architecture.  Read-only; `table(arch)` makes it once and keeps it."""

    def __init__(self, arch: Arch) -> None:
        rows = (line.split("\t", 2) for line in table_lines(__spec__, f"syscalls_{arch}.tsv"))
        calls = [Syscall(int(number), name, partial(_arguments, *cells)) for number, name, *cells in rows]
        self.arch = arch
        self.by_number: Mapping[int, Syscall] = MappingProxyType({call.number: call for call in calls})
        self.by_name: Mapping[str, Syscall] = MappingProxyType({call.name: call for call in calls})
        self._joints: dict[int, _Joint | None] = {}
        self._newest: dict[tuple[int, int], int] = {}

    def arguments(self, number: int, registers: Sequence[int]) -> tuple[Argument, ...]:
        """Return the arguments of a call whose six registers (64 bits each) have these values, each with its meaning there.

        Only `kind`, `constants` and `exact` differ from the plain arguments: the `arg` of fcntl is flags under F_SETFL, a
        pointer under F_SETLK.  Raises KeyError if the architecture has no such call."""
        plain = self.by_number[number].arguments
        joint = self._joint(number)
        return joint.resolve(plain, registers) if joint else plain

    def variants(self, number: int) -> tuple[tuple[Argument, ...], ...]:
        """Return every meaning that a call's arguments can have together, the plain one first.  Raises KeyError if the
        architecture has no such call."""
        plain = self.by_number[number].arguments
        joint = self._joint(number)
        return tuple(dict.fromkeys((plain, *joint.meanings()))) if joint else (plain,)

    def dependents(self, number: int, index: int) -> frozenset[int]:
        """Return the indexes of the arguments whose meaning depends on the argument `index`."""
        joint = self._joint(number)
        if joint is None or joint.selector != index:
            return frozenset()
        columns = enumerate(zip(*self.variants(number), strict=True))
        return frozenset(place for place, meanings in columns if len(set(meanings)) > 1)

    def newest(self, version: tuple[int, int]) -> int:
        """Return the greatest call number that Linux `version` has on this architecture, apart from private ones.  Raises
        ValueError for versions that are not in the table (newest.tsv): before 5.1, or newer than it."""
        if version in self._newest:
            return self._newest[version]
        first, last = self._versions[0][0], self._versions[-1][0]
        if not first <= version <= last:
            raise ValueError(
                f"Linux {version[0]}.{version[1]} is not in the table of system calls, "
                f"which has {first[0]}.{first[1]} to {last[0]}.{last[1]}"
            )
        self._newest[version] = max(number for since, number in self._versions if since <= version)
        return self._newest[version]

    @cached_property
    def private(self) -> range:
        """The numbers of calls that the architecture alone has, in every version and apart from the others: cacheflush."""
        newest = self.newest(self.versions()[-1])
        numbers = [number for number in self.by_number if number > newest]
        return range(min(numbers), max(numbers) + 1) if numbers else range(0)

    def is_newer(self, number: int, version: tuple[int, int]) -> bool:
        """Return whether Linux `version` did not have the call `number` yet.  Numbers of an architecture's own calls
        (`private`) are never newer.  Raises ValueError for a version before the first or after the newest of the table."""
        return number > self.newest(version) and number not in self.private

    def since(self, number: int) -> tuple[int, int]:
        """Return the first version for which a call number is not newer (`is_newer`).  Raises ValueError for one that is newer
        than the table."""
        for version in self.versions():
            if not self.is_newer(number, version):
                return version
        raise ValueError(f"call {number} of {self.arch} is newer than the table of system calls")

    def versions(self) -> list[tuple[int, int]]:
        """Return the kernel versions that added calls, oldest first; the last is the newest that the table covers."""
        return [version for version, _ in self._versions]

    @cached_property
    def _versions(self) -> list[tuple[tuple[int, int], int]]:
        """Versions that brought the architecture a call, with its number, oldest first; the last is the end of the table."""
        versions = []
        for version, number, _, *only in table_rows(__spec__, "newest.tsv"):
            if not only or self.arch in only[0].split(","):
                major, minor = version.split(".")
                versions.append(((int(major), int(minor)), 0 if number == "-" else int(number)))
        return versions

    def _joint(self, number: int) -> _Joint | None:
        if number not in self._joints:
            self._joints[number] = _joint(self.arch, self.by_number[number])
        return self._joints[number]


@cache
def table(arch: Arch) -> Table:
    """Return the table of the system calls of an architecture."""
    return Table(arch)


def name_of(arch: Arch, number: int) -> str:
    """Return the name of a call that the architecture has."""
    return table(arch).by_number[number].name


def table_of(audit: int, number: int) -> Table | None:
    """Return the table that has a call; None if there is none.  `audit`: AUDIT_ARCH_*, as in an event."""
    arch = Arch.from_audit(audit)
    return table(arch) if arch is not None and number in table(arch).by_number else None


def call_of(audit: int, number: int) -> Syscall | None:
    """Return the call with a number, or None, by the table of `table_of`."""
    calls = table_of(audit, number)
    return calls.by_number[number] if calls else None
