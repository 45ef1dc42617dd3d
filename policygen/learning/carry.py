"""What conditions on one call say of another that means the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

from policygen.holds import holds
from policygen.language.operands import ORDERINGS
from policygen.model import BITWISE, And, Condition, Operator
from policygen.values import replace

if TYPE_CHECKING:
    from collections.abc import Sequence

    from policygen.learning.equivalents import Carried, Conjunction, Link
    from tracer.abi import Argument


def image(
    conditions: Conjunction, here: Conjunction, link: Link, ours: Sequence[Argument], theirs: Sequence[Argument]
) -> list[Conjunction] | None:
    """What the conditions say of the other call's arguments, as alternatives; None where that cannot be said.

    Conditions on arguments that are not carried over are met by some call already, or are the row's own.
    """
    pairs = {pair.source: pair for pair in link.carried}
    if link.strict and {condition.index for condition in conditions} - set(pairs) - link.source.held:
        return None
    found: list[Conjunction] = [()]
    for index, pair in pairs.items():
        mine = [condition for condition in (*conditions, *here) if condition.index == index]
        choices = _carry(mine, pair, ours[index], theirs[pair.target])
        if choices is None:
            return None
        found = [(*one, *choice) for one in found for choice in choices]
    return found


def _carry(mine: list[Condition], pair: Carried, source: Argument, target: Argument) -> list[Conjunction] | None:
    """The conditions on one argument as conditions on the other, as alternatives; None where they have no such form."""
    if any(condition.operator in ORDERINGS for condition in mine) and source.signed != target.signed:
        return None
    finite = next((condition for condition in mine if condition.operator in (Operator.EQ, Operator.ONE_OF)), None)
    if pair.free and finite is not None:
        bits = [value & source.mask for value in finite.values or (finite.value,) if _meets(value, mine, source)]
        both = sorted({value & ~pair.free for value in bits} | {value | pair.free for value in bits})
        return [(Condition(pair.target, Operator.EQ, target.value(value)),) for value in both]
    if pair.free and all(condition.operator in _BY_BITS for condition in mine):
        mine = [loose for condition in mine if (loose := _loosened(condition, pair.free)) is not None]
    return [tuple(_moved(condition, pair.target, target) for condition in mine)]


def _meets(value: int, conditions: Sequence[Condition], argument: Argument) -> bool:
    """Whether a value meets conditions that are all on one argument."""
    alone = tuple(replace(condition, index=0) for condition in conditions)
    return holds(And(alone), [argument], [value & argument.mask])


_BY_BITS = frozenset((Operator.IN, Operator.HAS, Operator.MASKED))
"""Operators that judge each bit by itself, so that one bit can be made free."""


def _loosened(condition: Condition, free: int) -> Condition | None:
    """The condition with bits that do not matter; None if it always holds then."""
    value, mask = condition.value & ~free, condition.mask & ~free
    if condition.operator is Operator.IN:
        return replace(condition, value=condition.value | free)
    if condition.operator is Operator.HAS:
        return replace(condition, value=value) if value else None
    return replace(condition, value=value, mask=mask) if mask else None


def _moved(condition: Condition, index: int, argument: Argument) -> Condition:
    """The condition on another argument of the same width."""
    if condition.operator in BITWISE:
        return replace(condition, index=index)
    values = tuple(sorted(argument.value(value & argument.mask) for value in condition.values))
    return replace(condition, index=index, value=argument.value(condition.value & argument.mask), values=values)
