"""Write calls, conditions and entries as text, with the names of arguments and constants."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from functools import lru_cache
from typing import assert_never

from callfence.policygen.model import (
    ALLOW,
    Action,
    ActionKind,
    Always,
    And,
    Condition,
    Entry,
    Expression,
    Not,
    Operator,
    Or,
    alternatives,
    mentioned,
)
from callfence.tracer.abi import NATIVE, X32_BIT, Arch, Argument, Event, Kind, constants, name_of, table

Known = tuple[tuple[int, int], ...]
"""The arguments whose value is known where a condition is evaluated: (index, value), sorted by index."""

_WORD = (1 << 64) - 1
_WHOLE = ~0
_X32_OWN = 512
"""The first number that x32 does not share with x86_64 (arch/x86/entry/syscalls/syscall_64.tbl)."""
_HEXADECIMAL = frozenset((*(kind for kind in Kind if kind.is_pointer), Kind.ADDRESS, Kind.FLAGS, Kind.PROTECTION))
_OCTAL = frozenset((Kind.MODE, Kind.FIELD))


# Calls


def format_call(event: Event, pointed: Mapping[int, str] | None = None, hidden: Collection[int] = ()) -> str:
    """Return a call as text, with the names and meanings of its arguments: `openat(dfd=AT_FDCWD, filename=0x7ffc3a10,
    flags=O_RDONLY)`.

    `pointed`: index of an argument -> the text to show as its value; `hidden`: indexes of arguments to leave out.  If bits that
    the kernel ignores are set in a register, the whole register is shown as well."""
    arch = Arch.from_audit(event.arch)
    if arch is None:
        return f"syscall {event.number} of architecture {event.arch:#x}({_registers(event)})"
    number, prefix = event.number, ""
    if arch.is_x32(number):
        number, prefix = number - X32_BIT, "x32 "
    syscall = table(arch).by_number.get(number)
    if syscall is None or (prefix and number >= _X32_OWN):
        signed = number - (1 << 32) if number >> 31 else number
        return f"{prefix}syscall {signed}({_registers(event)})"
    arguments = table(arch).arguments(number, event.arguments)
    instead = pointed or {}
    shown = (
        f"{argument.name}={instead.get(index) or _format_register(arch, argument, register)}"
        for index, (argument, register) in enumerate(zip(arguments, event.arguments, strict=False))
        if index not in hidden
    )
    return f"{prefix}{syscall.name}({', '.join(shown)})"


def _registers(event: Event) -> str:
    return ", ".join(f"{register:#x}" for register in event.arguments)


def _format_register(arch: Arch, argument: Argument, register: int) -> str:
    bits = register & argument.mask
    null = argument.kind.is_pointer and not bits
    text = "NULL" if null else format_value(arch, argument, argument.value(register))
    as_passed = (bits, _signed(argument, bits) & _WORD)  # zero-extended or sign-extended, as compilers do
    return text if register in as_passed else f"{text} (register {register:#x})"


# Values


def format_value(arch: Arch, argument: Argument, value: int) -> str:
    """Return an argument's value, as its C type reads it, as text: names of constants, or a number in a suitable base."""
    if not argument.constants:
        return _number(argument, value)
    family = constants.family(argument.constants, arch)
    bits = value & argument.mask
    signed = _signed(argument, bits) if argument.width > 16 else bits  # a umode_t of 16 bits is no negative number
    text = family.format(bits)
    is_named = all(family.value(part) is not None for part in text.split("|"))
    if signed < 0 and not is_named and (argument.kind not in _HEXADECIMAL or family.name(signed)):
        return family.format(signed)
    return text


def _signed(argument: Argument, bits: int) -> int:
    return bits - (1 << argument.width) if bits >> argument.width - 1 else bits


def _format_bits(arch: Arch, argument: Argument, bits: int) -> str:
    """Return the text of a pattern of bits, with names of bits but not of enumerated values or zero."""
    if argument.constants and bits:
        family = constants.family(argument.constants, arch)
        names = family.format_bits(bits, split=argument.kind is Kind.FLAGS and not argument.exact)
        if not any(family.value(name) and family.mask(name) == _WHOLE for name in names.split("|")):
            return names
    return _number(argument, bits) if not bits or argument.kind in _OCTAL else f"{bits:#x}"


def _number(argument: Argument, value: int) -> str:
    if argument.kind in _OCTAL and value > 0:
        return f"0{value:o}"
    if argument.kind in (Kind.FD, Kind.DIRFD):
        return str(_signed(argument, value & argument.mask))
    # A large number of no known kind is probably an address or a pattern of bits.
    if value > 0 and (argument.kind in _HEXADECIMAL or (argument.kind is Kind.NUMBER and value >> 31)):
        return f"{value:#x}"
    return str(value)


def format_action(action: Action) -> str:
    """Return an action as in the policy language: `allow`, `kill`, `errno EPERM` ..."""
    if action.kind is not ActionKind.ERRNO:
        return str(action.kind)
    name = constants.family("errno", NATIVE).name(action.errno)  # asm-generic/errno.h on all of ours
    return f"errno {name or action.errno}"


# Expressions


def format_expression(arch: Arch, number: int, expression: Expression, values: Known = ()) -> str:
    """Return an expression over the arguments of a call as in the policy language, on one line.  `values`: arguments whose
    values are known where the expression stands (`determined`), which determine the names of constants."""
    match expression:
        case Always(value):
            return "allow" if value else "deny"
        case Condition():
            return _format_condition(arch, number, expression, values)
        case Not(part):
            inner = format_expression(arch, number, part, values)
            return f"!{inner}" if isinstance(part, Not) else f"!({inner})"
        case Or(parts):
            return " || ".join(format_expression(arch, number, part, values) for part in parts)
        case And(parts):
            values = determined(parts, values)
            texts = ((part, format_expression(arch, number, part, values)) for part in parts)
            return " && ".join(f"({text})" if isinstance(part, Or) else text for part, text in texts)


def first_argument(expression: Expression) -> int:
    """Return the lowest index of an argument that an expression compares; 0 if it compares none."""
    return min(mentioned(expression), default=0)


def determined(parts: Iterable[Expression], values: Known) -> Known:
    """Return the (index, value) of the arguments whose value is known in the conjunction of `parts`: those in `values`, and
    those that a part compares by `==`."""
    equal = {part.index: part.value for part in parts if isinstance(part, Condition) and part.operator is Operator.EQ}
    return tuple(sorted({**dict(values), **equal}.items())) if equal else values


@lru_cache(maxsize=4096)
def meaning(arch: Arch, number: int, index: int, values: Known) -> Argument:
    """Return the argument `index` of a call, as it is where other arguments have `values`; the plain argument if they do not
    determine its meaning."""
    calls = table(arch)
    plain = calls.by_number[number].arguments[index]
    if not values:
        return plain
    # The unknown arguments do not matter if the meaning is the same with all their bits clear and with all set.
    meanings = [
        calls.arguments(number, [dict(values).get(i, filler) & _WORD for i in range(6)])[index] for filler in (0, _WORD)
    ]
    return meanings[0] if meanings[0].constants == meanings[1].constants and not meanings[0].kind.is_pointer else plain


@lru_cache(maxsize=65536)
def _format_condition(arch: Arch, number: int, condition: Condition, values: Known) -> str:
    argument = meaning(arch, number, condition.index, values)
    name, operator, value = argument.name, condition.operator, condition.value
    match operator:
        case Operator.EQ | Operator.NE:
            return f"{name} {operator.value} {format_value(arch, argument, value)}"
        case Operator.LT | Operator.LE | Operator.GT | Operator.GE:
            return f"{name} {operator.value} {value}"  # the values of constants have no meaningful order
        case Operator.ONE_OF:
            return f"{name} in {{{', '.join(format_value(arch, argument, value) for value in condition.values)}}}"
        case Operator.IN | Operator.HAS | Operator.ANY:
            return f"{name} {operator.value} {_format_bits(arch, argument, value)}"
        case Operator.MASKED:
            mask = _format_bits(arch, argument, condition.mask)
            # A field's zero is one of its values (O_RDONLY); other bits' is none of them.
            field_is_zero = not value and condition.mask == argument.exact
            shown = format_value(arch, argument, 0) if field_is_zero else _format_bits(arch, argument, value)
            return f"{name} & {mask} == {shown}"
        case _:
            assert_never(operator)


# Entries


def format_entry(arch: Arch, number: int, entry: Entry, until: str = "") -> str:
    """Return the canonical text of an entry, one alternative on each line.  `until`: the phase that ends what it allows; "" for
    none."""
    return "\n".join(entry_lines(arch, number, entry, dict.fromkeys(alternatives(entry.expression), until)))


def entry_lines(arch: Arch, number: int, entry: Entry, until: Mapping[Expression, str] | None = None) -> list[str]:
    """Return the lines of an entry: the name with the first alternative, each further alternative, and any `else`.  `until`:
    alternative -> the name of the phase that ends it, or "" if none does.  If it is given, it has all alternatives."""
    start = f"{name_of(arch, number)}: "
    expression = entry.expression
    until = until or dict.fromkeys(alternatives(expression), "")
    if isinstance(expression, Always) and len(until) < 2:
        end = f" until {until[expression]}" if until.get(expression) else ""
        return [start + (format_action(entry.action) if expression.value else "deny") + end]
    if entry.action != ALLOW and not isinstance(expression, Always):
        start += f"{format_action(entry.action)} if "
    texts = [
        (format_action(entry.action) if part == Always(True) else format_expression(arch, number, part))
        + (f" until {name}" if name else "")
        for part, name in until.items()
    ]
    lines = [start + texts[0], *(f"{'|| ':>{len(start)}}{text}" for text in texts[1:])]
    if entry.otherwise is None:
        return lines
    otherwise = f"else {format_action(entry.otherwise)}"
    if len(lines) == 1:
        return [f"{lines[0]} {otherwise}"]
    return [*lines, f"{'':{max(2, len(start) - len('else '))}}{otherwise}"]
