"""The kernel's constants by name and by value: constants.tsv, parsed when it is first asked for.

A family is the set of constants that one argument takes its values from.  Some families are enumerations, others sets of
bits, and many are both: `open`'s flags have an access mode in their low two bits.  The mask of each constant says so, and
formatting and parsing need no other distinction.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import TYPE_CHECKING

from tracer.abi.model import Arch

if TYPE_CHECKING:
    from collections.abc import Mapping

_WHOLE = ~0
_DECIMAL = 0x1000
"""Where a family's values are all below this, an unknown one is more readable in decimal (an errno, a descriptor)."""


@dataclass(frozen=True, slots=True)
class Constant:
    """One name of one family, on one architecture."""

    name: str
    value: int
    """As the C expression has it, 64 bits signed; bit patterns are not negative."""
    mask: int
    """The bits of the field whose value it is (~0: of the whole argument), or 0: its bits can be combined with others'."""


class Family:
    """The constants of one argument, on one architecture.  Of several names for one value the first is the canonical one."""

    __slots__ = ("_bits", "_fields", "_masks", "_names", "_order", "_unknown", "_values")

    def __init__(self, constants: tuple[Constant, ...]) -> None:
        self._values = MappingProxyType({constant.name: constant.value for constant in constants})
        self._masks = {constant.name: constant.mask for constant in constants}
        self._order = {name: index for index, name in enumerate(self._values)}
        self._names: dict[int, str] = {}
        fields: dict[int, dict[int, str]] = {}
        for constant in constants:
            self._names.setdefault(constant.value, constant.name)
            if constant.mask:
                fields.setdefault(constant.mask, {}).setdefault(constant.value, constant.name)
        # The wider field first: the one that knows all its bits together says most.
        self._fields = sorted(fields.items(), key=lambda item: -(item[0] & (1 << 64) - 1).bit_count())
        # The constants with most bits first, and those of as many bits in the table's order.
        bits = {constant.value: constant.name for constant in reversed(constants) if not constant.mask and constant.value}
        self._bits = sorted(bits.items(), key=lambda item: (-item[0].bit_count(), self._order[item[1]]))
        decimal = all(constant.mask == _WHOLE and constant.value < _DECIMAL for constant in constants)
        self._unknown = "{}" if decimal else "{:#x}"

    @property
    def names(self) -> Mapping[str, int]:
        """Every name, aliases too, with its value; in the table's order."""
        return self._values

    def value(self, name: str) -> int | None:
        """The value of a name of this family, or None."""
        return self._values.get(name)

    def mask(self, name: str) -> int:
        """The bits of the field whose value a name of this family is, as `Constant.mask`."""
        return self._masks[name]

    def name(self, value: int) -> str | None:
        """The canonical name of exactly that value, or None."""
        return self._names.get(value)

    def format(self, value: int) -> str:
        """The value as names joined by `|`, what has no name as one number: the OR of all parts is the value.

        Fields come first (the access mode of open's flags, the signal of clone's), then bits in the table's order.
        """
        parts: list[str] = []
        rest = value
        for mask, members in self._fields:
            if (name := members.get(rest & mask)) is not None and (mask & rest or not parts):
                parts.append(name)
                rest &= ~mask
                if mask == _WHOLE:
                    return name
        if rest >= 0:
            named = []
            for bits, name in self._bits:
                if rest & bits == bits:
                    named.append(name)
                    rest &= ~bits
            parts += sorted(named, key=self._order.__getitem__)
        if rest < 0:
            return str(value)
        if rest:
            parts.append(self._unknown.format(rest))
        return "|".join(parts) or self._names.get(0, "0")


def value(name: str, arch: Arch) -> int | None:
    """The value of a constant of any family, or None if no family has that name on the architecture."""
    return _all(arch).get(name)


@cache
def family(name: str, arch: Arch) -> Family:
    """The family of that name; raises KeyError if there is none, which is an error in our tables."""
    return Family(tuple(_constant(row, arch) for row in _rows()[name] if _text(row, arch) != "-"))


def families() -> tuple[str, ...]:
    """The names of all families, in the table's order."""
    return tuple(_rows())


@cache
def _all(arch: Arch) -> dict[str, int]:
    rows = (row for members in _rows().values() for row in members)
    return {row[1]: int(text, 0) for row in rows if (text := _text(row, arch)) != "-"}


@cache
def _rows() -> dict[str, list[list[str]]]:
    """The lines of the table by family, split into columns and no further: most are never asked for."""
    text = files("tracer.abi").joinpath("constants.tsv").read_text(encoding="ascii")
    rows: dict[str, list[list[str]]] = {}
    for line in text.splitlines():
        if not line.startswith(("#", "family\t")):
            columns = line.split("\t")
            rows.setdefault(columns[0], []).append(columns)
    return rows


def _constant(row: list[str], arch: Arch) -> Constant:
    return Constant(row[1], int(_text(row, arch), 0), _mask(row[3]))


def _mask(text: str) -> int:
    return ~int(text[1:], 0) if text.startswith("~") else int(text or "0", 0)


def _text(row: list[str], arch: Arch) -> str:
    """The column of the value, or what replaces it on the architecture; `-` if it has no such constant."""
    if len(row) > 5:
        for word in row[5].split():
            name, _, text = word.partition("=")
            if name == arch.value:
                return text
    return row[2]
