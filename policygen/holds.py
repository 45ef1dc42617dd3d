"""Evaluate an expression for one call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import assert_never

from callfence.policygen.model import Always, And, Condition, Expression, Not, Operator, Or, conjuncts
from callfence.tracer.abi import Argument

_REGISTER = (1 << 64) - 1


def holds(expression: Expression, arguments: Sequence[Argument], registers: Sequence[int]) -> bool:
    """Return whether an expression holds for a call with these arguments, whose 64-bit registers have these values."""
    match expression:
        case Always(value):
            return value
        case Condition(index):
            return _compares(expression, arguments[index], registers[index])
        case And(parts):
            return all(holds(part, arguments, registers) for part in parts)
        case Or(parts):
            return any(holds(part, arguments, registers) for part in parts)
        case Not(part):
            return not holds(part, arguments, registers)


def exact(expression: Expression) -> dict[int, int]:
    """Return the arguments that a conjunction compares with exactly one value: index -> register (64 bits)."""
    parts = (part for part in conjuncts(expression) if isinstance(part, Condition) and part.operator is Operator.EQ)
    return {part.index: part.value & _REGISTER for part in parts}


def holds_at(expression: Expression, arguments: Sequence[Argument], registers: Mapping[int, int]) -> bool:
    """Return whether an expression holds for registers that are given by index; it must not compare other arguments."""
    return holds(expression, arguments, [registers.get(index, 0) for index in range(6)])


def _compares(condition: Condition, argument: Argument, register: int) -> bool:
    """Whether a register meets the condition: orders and equality compare values of the C type, the rest unsigned bits."""
    value, bits = argument.value(register), register & argument.mask
    match condition.operator:
        case Operator.EQ:
            return value == condition.value
        case Operator.NE:
            return value != condition.value
        case Operator.LT:
            return value < condition.value
        case Operator.LE:
            return value <= condition.value
        case Operator.GT:
            return value > condition.value
        case Operator.GE:
            return value >= condition.value
        case Operator.IN:
            return bits & ~condition.value == 0
        case Operator.HAS:
            return bits & condition.value == condition.value
        case Operator.ANY:
            return bits & condition.value != 0
        case Operator.MASKED:
            return bits & condition.mask == condition.value
        case Operator.ONE_OF:
            return value in condition.values
        case _:
            assert_never(condition.operator)
