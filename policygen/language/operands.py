"""Convert the names and numbers that an argument is compared with into values of the argument's type."""

from __future__ import annotations

import re
from functools import cache

from callfence.policygen.errors import did_you_mean
from callfence.policygen.model import BITWISE, Condition, Operator
from callfence.policygen.paths import TextError
from callfence.policygen.values import frozen
from callfence.tracer.abi import Arch, Argument, Syscall, constants, table
from callfence.tracer.abi.constants import Family

ORDERINGS = frozenset((Operator.LT, Operator.LE, Operator.GT, Operator.GE))


class OperandError(TextError):
    """The text is no value that the argument can be compared with."""


@frozen
class Operands:
    """The arguments of one call, with the constants of all their meanings."""

    arch: Arch
    syscall: Syscall
    meanings: tuple[tuple[Argument, ...], ...]
    """For each argument, every meaning that it can have, the plain meaning first."""

    def index(self, name: str) -> int | None:
        """Return the index, 0-5, of the argument with this name; None if the call has no such argument."""
        for index, argument in enumerate(self.syscall.arguments):
            if argument.name == name:
                return index
        return None

    def is_pointer(self, index: int) -> bool:
        """Return whether the argument `index` is a pointer in all of its meanings."""
        return all(meaning.kind.is_pointer for meaning in self.meanings[index])

    def constrainable(self) -> list[str]:
        """Return the names of the arguments that conditions can compare."""
        return [a.name for index, a in enumerate(self.syscall.arguments) if not self.is_pointer(index)]

    def families(self, index: int) -> list[Family]:
        """Return the families of constants that the argument `index` has in any of its meanings, without repetition."""
        names = dict.fromkeys(meaning.constants for meaning in self.meanings[index] if meaning.constants)
        return [constants.family(name, self.arch) for name in names]

    def constant(self, index: int, name: str) -> tuple[int, int]:
        """Return the value of the constant `name` (its C name), and the bits of its field (0 if it belongs to no field).
        Raises OperandError if the constant is not a value of the argument `index`."""
        families = self.families(index)
        for family in families:
            if (value := family.value(name)) is not None:
                return value, family.mask(name)
        argument = self.syscall.arguments[index].name
        names = list(dict.fromkeys(names for family in families for names in family.names))
        if constants.value(name, self.arch) is not None:
            raise OperandError(f"{name} is not a value of {self.syscall.name}'s {argument}", _examples(argument, names))
        raise OperandError(f"no constant is named {name}", did_you_mean(name, names) or _examples(argument, names), "name")


def _examples(argument: str, names: list[str]) -> str:
    if not names:
        return f"{argument} is compared with numbers"
    return f"its values are {', '.join(names[:4])}{' ...' if len(names) > 4 else ''}"


@cache
def operands(arch: Arch, number: int) -> Operands:
    """Return the operands of a call.  Raises KeyError if the architecture's table does not have the call."""
    syscall = table(arch).by_number[number]
    variants = table(arch).variants(number)
    meanings = tuple(
        tuple(dict.fromkeys((plain, *(variant[index] for variant in variants if index < len(variant)))))
        for index, plain in enumerate(syscall.arguments)
    )
    return Operands(arch, syscall, meanings)


_INTEGER = r"(-?)(?:0[xX]([0-9a-fA-F]+)|0[oO]?([0-7]+)|([1-9][0-9]*|0))"  # compiled when it is first used


def parse_integer(text: str) -> tuple[int, bool]:
    """Parse a number: return its value, and whether it is written in decimal.  Raises OperandError if the text is not a number.

    A number is decimal, hexadecimal (0x), or octal (0o, or C's leading 0), with an optional minus sign."""
    match = re.fullmatch(_INTEGER, text)
    if match is None:
        hint = "an octal number has only the digits 0 to 7" if re.fullmatch(r"-?0[0-9]+", text) else ""
        raise OperandError(f"{text} is not a number", hint, "syntax")
    sign, hexadecimal, octal, decimal = match.groups()
    value = int(hexadecimal or octal or decimal, 16 if hexadecimal else 8 if octal else 10)
    return (-value if sign else value), decimal is not None


def pattern(argument: Argument, value: int, operator: Operator, *, decimal: bool) -> int:
    """Return a number as the bits of the argument's type.  Raises OperandError if it does not fit the type.

    A decimal number that is compared as a number must be a value of the C type, or be negative and compared for equality: -1 is
    0xffffffff for an unsigned int.  Any other number (a constant, hexadecimal or octal, or compared bit by bit) need only fit
    the width: 0xffffffff is -1 for an int."""
    half, full = 1 << argument.width - 1, 1 << argument.width
    numeric = decimal and operator not in BITWISE
    low = 0 if numeric and operator in ORDERINGS and not argument.signed else -half
    high = half - 1 if numeric and argument.signed else full - 1
    if not low <= value <= high:
        hint = f"it takes {low} to {high}"
        if -half <= value < full:
            hint += f"; the same bits are {argument.value(value)}"
        raise OperandError(f"{value} does not fit {argument.name}, whose type is {argument.ctype}", hint)
    return value & argument.mask


def trivial(argument: Argument, condition: Condition) -> bool | None:
    """Return the truth value of a condition that is the same for every value of the argument; None for other conditions."""
    half = 1 << argument.width - 1
    low, high = (-half, half - 1) if argument.signed else (0, argument.mask)
    value, bits = condition.value, condition.value & argument.mask
    match condition.operator:
        case Operator.LT if value <= low:
            return False
        case Operator.LE if value >= high:
            return True
        case Operator.GT if value >= high:
            return False
        case Operator.GE if value <= low:
            return True
        case Operator.IN if bits == argument.mask:
            return True
        case Operator.HAS if bits == 0:
            return True
        case Operator.ANY if bits == 0:
            return False
        case Operator.MASKED if value & ~condition.mask:
            return False
        case Operator.MASKED if condition.mask == 0:
            return True
        case _:
            return None
