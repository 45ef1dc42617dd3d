"""The kernel's constants by name and by value, from constants.tsv, of which only the part that is asked for is parsed.

A family is the set of constants that one argument takes its values from.  Some families are enumerations, others sets
of bits, and many are both: `open`'s flags have an access mode in their low two bits.  The mask of each constant says
so, and formatting needs no other distinction.
"""

from __future__ import annotations

import os
from functools import cache, cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from importlib.machinery import ModuleSpec

    from callfence.tracer.abi.model import Arch

_WHOLE = ~0
_SMALL = 0x1000
"""If all values of an enumeration are below this, they are small numbers, which are most readable in decimal."""
_PATTERN = 8
"""A value with more unknown bits than this is no set of flags: `personality(0xffffffff)` asks, it sets nothing."""


def table_text(spec: ModuleSpec | None, name: str) -> str:
    """Return the text of the file `name` beside the module whose `__spec__` is given.  The module's loader reads it: from disk
    or, in the helper of `enforce`, from memory.  Raises OSError."""
    assert spec is not None and spec.origin is not None and spec.loader is not None
    content: bytes = spec.loader.get_data(os.path.join(os.path.dirname(spec.origin), name))  # type: ignore[attr-defined]
    return content.decode()


def table_lines(spec: ModuleSpec | None, name: str) -> list[str]:
    """Return the rows of a table as `table_text` reads it, without its comments and its row of column names."""
    return [line for line in table_text(spec, name).splitlines() if not line.startswith("#")][1:]


def table_rows(spec: ModuleSpec | None, name: str) -> list[list[str]]:
    """Return the cells of each row of `table_lines`."""
    return [line.split("\t") for line in table_lines(spec, name)]


class Family:
    """The constants that an argument takes its values from, on one architecture.  If several names have one value, the first is
    canonical."""

    def __init__(self, rows: Mapping[str, str], arch: Arch) -> None:
        """`rows`: the columns after the name, by name, in the table's order.  They are parsed when they are needed: that takes
        8 ms for the names of ioctl."""
        self._rows = rows
        self._arch = arch

    @property
    def names(self) -> Mapping[str, int]:
        """Values by name, in the table's order; aliases are included."""
        return self._tables.values

    def value(self, name: str) -> int | None:
        """Return the value of a name; None if this family does not have the name."""
        row = self._rows.get(name)
        return None if row is None else _value(row.split("\t"), self._arch)

    def mask(self, name: str) -> int:
        """Return the bits of the field that a name is a value of: ~0 for the whole argument, 0 if its bits can be combined.
        Raises KeyError if this family does not have the name."""
        if self.value(name) is None:
            raise KeyError(name)
        return _mask(self._rows[name].split("\t")[1])

    def name(self, value: int) -> str | None:
        """Return the canonical name of the constant that has exactly this value; None if there is no such constant."""
        return self._tables.names.get(value)

    def format(self, value: int) -> str:
        """Return a value as text: names joined by `|`, in the table's order, and one number for the bits without a name.  The
        OR of all parts is the value.  A field that is zero is shown if its zero has a name: O_RDONLY|O_CREAT."""
        return self._format(value, zeros=True)

    def format_bits(self, bits: int, *, split: bool = False) -> str:
        """Return a mask as text in the form of `format`, except that fields that are zero are left out: O_CREAT, not
        O_RDONLY|O_CREAT.

        With `split`, a field is shown as several of its values if each of these is a single bit: MAP_SHARED|MAP_PRIVATE, not
        MAP_SHARED_VALIDATE."""
        return self._format(bits, zeros=False, split=split)

    def _format(self, value: int, *, zeros: bool, split: bool = False) -> str:
        names: list[str] = []
        rest = value
        tables = self._tables
        for mask, members in tables.fields:
            part = rest & mask
            single = [members.get(1 << bit) for bit in range(part.bit_length()) if part >> bit & 1] if split else []
            if len(single) > 1 and all(single):
                names += filter(None, single)
                rest &= ~mask
            elif (name := members.get(part)) and (part or zeros):
                names.append(name)
                rest &= ~mask
                if mask == _WHOLE:
                    return name
        if rest < 0:
            return str(value)
        for bits, name in tables.bits:
            if rest & bits == bits:
                names.append(name)
                rest &= ~bits
        if rest.bit_count() > _PATTERN:
            return tables.number.format(value)
        names.sort(key=tables.order.__getitem__)
        if rest:
            names.append(tables.number.format(rest))
        return "|".join(names) or (zeros and tables.names.get(0)) or "0"

    @cached_property
    def _tables(self) -> _Tables:
        rows = [(name, row.split("\t")) for name, row in self._rows.items()]
        valued = ((name, _value(row, self._arch), _mask(row[1])) for name, row in rows)
        constants = [(name, value, mask) for name, value, mask in valued if value is not None]
        return _Tables(constants, octal=any(row[1].startswith("0o") for _, row in rows))


class _Tables:
    """What the values of a family are formatted by."""

    __slots__ = ("bits", "fields", "names", "number", "order", "values")

    def __init__(self, constants: Sequence[tuple[str, int, int]], *, octal: bool) -> None:
        """`constants`: name, value and mask of each.  The mask has the bits of the field whose value the constant is (~0: the
        whole argument), or is 0 if its bits can be combined.  The value is negative only in enumerations of signed arguments
        (AT_FDCWD).  `octal`: what has no name is written in octal, as the modes of files are."""
        self.values = MappingProxyType({name: value for name, value, _ in constants})
        self.order = {name: index for index, name in enumerate(self.values)}
        self.names: dict[int, str] = {}
        fields: dict[int, dict[int, str]] = {}
        for name, value, mask in constants:
            self.names.setdefault(value, name)
            if mask:
                fields.setdefault(mask, {}).setdefault(value, name)
        # The widest field first: a name for all its bits together says most.
        self.fields = sorted(fields.items(), key=lambda item: -(item[0] & (1 << 64) - 1).bit_count())
        bits = {value: name for name, value, mask in reversed(constants) if value and not mask}
        # The constants of most bits first, for the same reason.
        self.bits = sorted(bits.items(), key=lambda item: (-item[0].bit_count(), self.order[item[1]]))
        small = all(mask == _WHOLE and value < _SMALL for _, value, mask in constants)
        self.number = "0{:o}" if octal else "{}" if small else "{:#x}"


def value(name: str, arch: Arch) -> int | None:
    """Return the value of the constant `name`, of any family; None if the architecture has no such constant.  A name has the
    same value in every family that has it."""
    text = _text()
    at = text.find(f"\t{name}\t", text.index("\tothers\n"))  # below the heading
    if at < 0 or not name.isidentifier():
        return None
    return _value(text[at + 1 : text.index("\n", at)].split("\t")[1:], arch)


@cache
def family(name: str, arch: Arch) -> Family:
    """Return the family `name`.  Raises KeyError if constants.tsv has no such family, which is a mistake in our tables."""
    return Family(_rows(name), arch)


def families() -> tuple[str, ...]:
    """Return the names of all families, in the table's order."""
    names = (line.partition("\t")[0] for line in _text().splitlines() if not line.startswith("#"))
    return tuple(dict.fromkeys(names))[1:]  # the first row is the heading


@cache
def _text() -> str:
    return table_text(__spec__, "constants.tsv")


@cache
def _rows(name: str) -> Mapping[str, str]:
    """Return the columns after the name of each constant of a family, whose rows stand together, by the constant's name."""
    text = _text()
    start = f"\n{name}\t"
    at = end = text.find(start)
    if at < 0:
        raise KeyError(name)
    while text.startswith(start, end):
        end = text.index("\n", end + 1)
    rows = (line.split("\t", 2) for line in text[at + 1 : end].split("\n"))
    return {constant: columns for _, constant, columns in rows}


def _mask(text: str) -> int:
    return ~int(text[1:], 0) if text.startswith("~") else int(text or "0", 0)


def _value(columns: Sequence[str], arch: Arch) -> int | None:
    """Return the value on an architecture, from the columns after the name: value, mask, header, others."""
    text = columns[0]
    for other in columns[3].split() if len(columns) > 3 else ():
        if other.startswith(f"{arch}="):
            text = other.removeprefix(f"{arch}=")
    return None if text == "-" else int(text, 0)
