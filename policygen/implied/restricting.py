"""Bits of arguments that only restrict what a call does: an implied set allows them wherever it allows the call without them.

A processor may have features that its kernel switches on by such a bit, and C libraries do so where it has them: a policy that
was learned on one machine then holds on another.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from types import MappingProxyType

from callfence.policygen.model import Always, And, Condition, Entry, Expression, Not, Operator, Or, alternatives, conditions
from callfence.policygen.values import replace
from callfence.tracer.abi import Arch, constants, table

_BITS = ("PROT_BTI", "PROT_MTE")
"""With PROT_BTI, jumps into the middle of code fault; with PROT_MTE, pointers with a wrong tag do.  Neither makes memory
readable, writable or executable (asm/mman.h of arm64)."""
_FAMILY, _CALLS = "prot", ("mmap", "mmap2", "mprotect", "pkey_mprotect", "remap_file_pages")
"""The family of constants of these bits, and the calls with an argument of that family."""


@cache
def restricting(arch: Arch) -> Mapping[int, Mapping[int, int]]:
    """Return the restricting bits that the arguments of an architecture's calls have: call number -> index -> bits."""
    bits = sum(constants.family(_FAMILY, arch).value(name) or 0 for name in _BITS)
    calls = [table(arch).by_name[name] for name in _CALLS if name in table(arch).by_name] if bits else []
    of_calls = (
        (call.number, {index: bits for index, one in enumerate(call.arguments) if one.constants == _FAMILY}) for call in calls
    )
    return MappingProxyType({number: of_call for number, of_call in of_calls if of_call})


def with_restrictions(arch: Arch, number: int, entry: Entry) -> Entry:
    """Return the entry of a call extended to allow each call that it allows without the restricting bits with any of them too;
    an entry that denies something explicitly is returned unchanged."""
    of_call = restricting(arch).get(number)
    if of_call is None or not entry.only_allows:
        return entry
    parts = tuple(dict.fromkeys(part for old in alternatives(entry.expression) for part in _extended(old, arch, number)))
    return replace(entry, expression=Or.of(parts))


def _extended(part: Expression, arch: Arch, number: int) -> Iterator[Expression]:
    """Yield alternatives that hold where `part` holds, and where it would without the restricting bits."""
    without, of_call = part, restricting(arch)[number]
    for index, bits in of_call.items():
        if any(condition.index == index and condition.operator in _ORDERS for condition in conditions(part)):
            break
        without = _without(without, index, bits)
    if without == part or not all(_is_covered(part, index, bits) for index, bits in of_call.items()):
        yield part
    if without not in (part, Always(False)):
        yield without


def _is_covered(expression: Expression, index: int, bits: int) -> bool:
    """Return whether it is plain that where the expression holds, it also holds with these bits of the argument set to 0: no
    condition on it is negated or asks for one of the bits."""
    match expression:
        case Always():
            return True
        case Not(part):
            return all(condition.index != index for condition in conditions(part))
        case And(parts) | Or(parts):
            return all(_is_covered(part, index, bits) for part in parts)
        case Condition():
            asks = expression.operator is Operator.NE or any(value & bits for value in _values(expression))
            return expression.index != index or not asks


_ORDERS = (Operator.LT, Operator.LE, Operator.GT, Operator.GE)


def _values(condition: Condition) -> tuple[int, ...]:
    return condition.values or (condition.value,)


def _without(expression: Expression, index: int, bits: int) -> Expression:
    """Return an expression that holds where `expression` holds for the argument `index` with these bits set to 0; it does not
    compare that argument by order."""
    match expression:
        case Always():
            return expression
        case Not(part):
            return Not(_without(part, index, bits))
        case And(parts):
            return And(tuple(_without(part, index, bits) for part in parts))
        case Or(parts):
            return Or(tuple(_without(part, index, bits) for part in parts))
        case Condition():
            return _masked(expression, bits) if expression.index == index else expression


def _subsets(bits: int) -> list[int]:
    """Return every combination of these bits, 0 among them."""
    subsets = [0]
    for place in range(bits.bit_length()):
        if bits >> place & 1:
            subsets += [subset | 1 << place for subset in subsets]
    return subsets


def _masked(condition: Condition, bits: int) -> Expression:
    index, value = condition.index, condition.value
    match condition.operator:
        case Operator.EQ | Operator.NE | Operator.ONE_OF:
            plain = [each for each in _values(condition) if not each & bits]
            values = tuple(sorted({each | some for each in plain for some in _subsets(bits)}))
            holds = Condition(index, Operator.ONE_OF, values=values) if values else Always(False)
            return Not(holds) if condition.operator is Operator.NE else holds
        case Operator.IN:
            return Condition(index, Operator.IN, value | bits)
        case Operator.HAS:
            return Always(False) if value & bits else condition
        case Operator.ANY:
            return Condition(index, Operator.ANY, value & ~bits)
        case Operator.MASKED:
            return Always(False) if value & bits else replace(condition, mask=condition.mask & ~bits)
        case _:
            return condition
