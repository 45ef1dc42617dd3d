"""Rules as values that can be joined, and the expressions that express them in a policy.

A rule has an element for each argument of the call: None (free), a condition, or `Flags`.  Rules that differ in nothing but the
bits of their flags have the same `key` and can be joined.  `join` of such rules is commutative, associative and idempotent, so
the order and number of observations does not matter.
"""

from __future__ import annotations

from collections.abc import Sequence

from callfence.policygen.model import Always, And, Condition, Expression, Operator, conjuncts
from callfence.policygen.values import frozen
from callfence.tracer.abi import Argument, Kind
from callfence.tracer.abi.table import Table


@frozen
class Flags:
    """The observed bits of an argument whose bits are independent."""

    bits: int
    """All bits that were observed set, as an unsigned pattern."""
    several: bool
    """Whether the bits come from several values: then any combination of them is allowed, else only this value."""
    field: int = 0
    """The bits of a field (`Argument.exact`), which have to be one value and are not joined bit by bit."""

    def join(self, other: Flags) -> Flags:
        """Return the union of two `Flags` whose field has the same value."""
        if self == other:
            return self
        return Flags(self.bits | other.bits, True, self.field)


Element = Condition | Flags | None
Rule = tuple[Element, ...]


def key(rule: Rule) -> tuple[object, ...]:
    """Return a key that is equal for rules that can be joined."""
    return tuple((e.field, e.bits & e.field) if isinstance(e, Flags) else e for e in rule)


def join(a: Rule, b: Rule) -> Rule:
    """Return the narrowest rule that allows what two rules with the same key allow."""
    return tuple(e.join(f) if isinstance(e, Flags) and isinstance(f, Flags) else e for e, f in zip(a, b, strict=True))


def expression(rule: Rule, arguments: Sequence[Argument]) -> Expression:
    """Return the rule in the policy language; `arguments` are the call's arguments in their plain meaning."""
    parts: list[Condition] = []
    for index, element in enumerate(rule):
        if isinstance(element, Flags):
            parts += _flags(index, element, arguments[index])
        elif element is not None:
            parts.append(element)
    if not parts:
        return Always(True)
    return parts[0] if len(parts) == 1 else And(tuple(parts))


def _flags(index: int, flags: Flags, argument: Argument) -> list[Condition]:
    if not flags.several:
        return [Condition(index, Operator.EQ, argument.value(flags.bits))]
    conditions = [Condition(index, Operator.IN, flags.bits)]
    if flags.field:
        conditions.insert(0, Condition(index, Operator.MASKED, flags.bits & flags.field, flags.field))
    return conditions


def read(expression: Expression, calls: Table, number: int) -> Rule | None:
    """Return the rule that an alternative of an entry expresses, or None if the alternative has another shape.  A condition
    that learning would not write is an element too: its rule has a key that no learned rule has, so it is never joined."""
    parts = conjuncts(expression)
    conditions = [part for part in parts if isinstance(part, Condition)]
    if len(conditions) < len(parts):
        return None
    plain = calls.by_number[number].arguments
    rule: list[Element] = []
    for index, meaning in enumerate(meanings_in(expression, calls, number)):
        compared = [condition for condition in conditions if condition.index == index]
        flags = _read_flags(compared, plain[index], meaning)
        if flags is None and len(compared) > 1:
            return None
        rule.append(flags or (compared[0] if compared else None))
    return tuple(rule)


def meanings_in(expression: Expression, calls: Table, number: int) -> tuple[Argument, ...]:
    """Return what the call's arguments mean in an alternative of its entry, as far as its conditions decide that."""
    plain = calls.by_number[number].arguments
    registers = [0] * 6
    for condition in conjuncts(expression):
        if isinstance(condition, Condition):
            registers[condition.index] |= (condition.values or (condition.value,))[0] & plain[condition.index].mask
    return tuple(calls.arguments(number, registers))


def _read_flags(conditions: list[Condition], plain: Argument, meaning: Argument) -> Flags | None:
    """The inverse of `_flags`, or None if the conditions on this argument were not written by it."""
    if meaning.kind is not Kind.FLAGS or not conditions:
        return None
    last = conditions[-1]
    several = last.operator is Operator.IN
    flags = Flags(last.value & plain.mask, several, meaning.exact)
    return flags if conditions == _flags(conditions[0].index, flags, plain) else None
