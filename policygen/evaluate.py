"""The reference semantics: what a policy answers to one call.

Compiled filters and the set algebra are proved against this function.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

from policygen.model import KILL, Action, Always, And, Condition, Expression, Not, Operator, Or, Policy
from tracer.abi import X32_BIT, Arch, Argument, Event, table

if TYPE_CHECKING:
    from collections.abc import Sequence


def evaluate(policy: Policy, event: Event) -> Action:
    """Return the action for a call.  The first of these decides:

    1. an architecture that the policy does not name is killed, and so is an x32 call;
    2. a number above the newest of the policy's table gets `unknown`;
    3. a call without an entry gets `default`;
    4. an entry's action where its expression holds, else its `otherwise`, else `default`.
    """
    arch = Arch.from_audit(event.arch)
    if arch is None or arch not in policy.entries:
        return KILL
    if arch is Arch.X86_64 and X32_BIT <= event.number < 2 * X32_BIT:
        return KILL
    syscalls = table(arch)
    if event.number > syscalls.newest(policy.table):
        return policy.unknown
    entry = policy.entries[arch].get(event.number)
    if entry is None:
        return policy.default
    if holds(entry.expression, syscalls.by_number[event.number].arguments, event.arguments):
        return entry.action
    return policy.default if entry.otherwise is None else entry.otherwise


def holds(expression: Expression, arguments: Sequence[Argument], registers: Sequence[int]) -> bool:
    """Whether an expression over these arguments is true of these 64-bit registers."""
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
