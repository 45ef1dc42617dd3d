"""The kernel's constants by name and by value, from constants.tsv, of which only the part that is asked for is parsed.

A family is the set of constants that one argument takes its values from.  Some families are enumerations, others sets
of bits, and many are both: `open`'s flags have an access mode in their low two bits.  The mask of each constant says
so, and formatting needs no other distinction.
"""

from __future__ import annotations

import os
from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING

from tracer.named import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from importlib.machinery import ModuleSpec

    from tracer.abi.model import Arch

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


class Constant(NamedTuple):
    """One name in a family of constants, on one architecture."""

    name: str
    value: int
    """The value that the argument has; negative only in enumerations of signed arguments (AT_FDCWD)."""
    mask: int
    """The bits of the field whose value it is (~0: the whole argument), or 0 if its bits can be combined."""


class Family:
    """The constants that an argument takes its values from, on one architecture.  If several names have one value, the first is
    canonical."""

    __slots__ = ("_bits", "_fields", "_masks", "_names", "_number", "_order", "_values")

    def __init__(self, constants: Sequence[Constant], *, octal: bool = False) -> None:
        """`octal`: what has no name is written in octal, as the modes of files are."""
        self._values = MappingProxyType({constant.name: constant.value for constant in constants})
        self._masks = {constant.name: constant.mask for constant in constants}
        self._order = {name: index for index, name in enumerate(self._values)}
        self._names: dict[int, str] = {}
        fields: dict[int, dict[int, str]] = {}
        for constant in constants:
            self._names.setdefault(constant.value, constant.name)
            if constant.mask:
                fields.setdefault(constant.mask, {}).setdefault(constant.value, constant.name)
        # The widest field first: a name for all its bits together says most.
        self._fields = sorted(fields.items(), key=lambda item: -(item[0] & (1 << 64) - 1).bit_count())
        bits = {value: name for name, value, mask in reversed(constants) if value and not mask}
        # The constants of most bits first, for the same reason.
        self._bits = sorted(bits.items(), key=lambda item: (-item[0].bit_count(), self._order[item[1]]))
        small = all(constant.mask == _WHOLE and constant.value < _SMALL for constant in constants)
        self._number = "0{:o}" if octal else "{}" if small else "{:#x}"

    @property
    def names(self) -> Mapping[str, int]:
        """Values by name, in the table's order; aliases are included."""
        return self._values

    def value(self, name: str) -> int | None:
        """Return the value of a name; None if this family does not have the name."""
        return self._values.get(name)

    def mask(self, name: str) -> int:
        """Return the bits of the field that a name is a value of, as in `Constant.mask`.  Raises KeyError if this family does
        not have the name."""
        return self._masks[name]

    def name(self, value: int) -> str | None:
        """Return the canonical name of the constant that has exactly this value; None if there is no such constant."""
        return self._names.get(value)

    def format(self, value: int) -> str:
        """Return a value as text: names joined by `|`, in the table's order, and one number for the bits without a name.  The
        OR of all parts is the value.

        A field that is zero is shown if its zero has a name: O_RDONLY|O_CREAT."""
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
        for mask, members in self._fields:
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
        for bits, name in self._bits:
            if rest & bits == bits:
                names.append(name)
                rest &= ~bits
        if rest.bit_count() > _PATTERN:
            return self._number.format(value)
        names.sort(key=self._order.__getitem__)
        if rest:
            names.append(self._number.format(rest))
        return "|".join(names) or (zeros and self._names.get(0)) or "0"


def value(name: str, arch: Arch) -> int | None:
    """Return the value of the constant `name`, of any family; None if the architecture has no such constant.

    A name has the same value in every family that has it."""
    text = _text()
    at = text.find(f"\t{name}\t", text.index("\tothers\n"))  # below the heading
    if at < 0 or not name.isidentifier():
        return None
    return _value(text[at + 1 : text.index("\n", at)].split("\t")[1:], arch)


@cache
def family(name: str, arch: Arch) -> Family:
    """Return the family `name`.  Raises KeyError if constants.tsv has no such family, which is a mistake in our tables."""
    rows = list(_rows(name))
    valued = ((row, _value(row[1:], arch)) for row in rows)
    constants = [Constant(row[0], number, _mask(row[2])) for row, number in valued if number is not None]
    return Family(constants, octal=any(row[2].startswith("0o") for row in rows))


def families() -> tuple[str, ...]:
    """Return the names of all families, in the table's order."""
    names = (line.partition("\t")[0] for line in _text().splitlines() if not line.startswith("#"))
    return tuple(dict.fromkeys(names))[1:]  # the first row is the heading


@cache
def _text() -> str:
    return table_text(__spec__, "constants.tsv")


def _rows(name: str) -> Iterator[list[str]]:
    """Yield the columns of a family's rows, which stand together, without its name."""
    text = _text()
    start = f"\n{name}\t"
    at = text.find(start)
    if at < 0:
        raise KeyError(name)
    while text.startswith(start, at):
        end = text.index("\n", at + 1)
        yield text[at + len(start) : end].split("\t")
        at = end


def _mask(text: str) -> int:
    return ~int(text[1:], 0) if text.startswith("~") else int(text or "0", 0)


def _value(columns: Sequence[str], arch: Arch) -> int | None:
    """Return the value on an architecture, from the columns after the name: value, mask, header, others."""
    text = columns[0]
    for other in columns[3].split() if len(columns) > 3 else ():
        if other.startswith(f"{arch}="):
            text = other.removeprefix(f"{arch}=")
    return None if text == "-" else int(text, 0)
