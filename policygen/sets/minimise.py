"""The fewest alternatives that allow the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

from policygen.model import Always, And, Condition, Expression
from policygen.sets.algebra import FALSE, TRUE, TooComplexError
from policygen.sets.region import space, truth

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from policygen.sets.algebra import Space
    from tracer.abi import Argument


def minimise(
    alternatives: Sequence[Expression], arguments: Sequence[Argument], make: Callable[[], Space] = space
) -> tuple[Expression, ...]:
    """Return the alternatives, in order, without those that the others cover; `Always(True)` if they hold everywhere.

    If either of two could be removed, it is the one with more conditions, or else the later one.  Alternatives that are
    too complex to decide are returned unchanged.  `make` makes the space.
    """
    sets = make()
    try:
        regions = [truth(sets, alternative, arguments) for alternative in alternatives]
        order = sorted(range(len(regions)), key=lambda i: (-_conditions(alternatives[i]), -i))
        after = [FALSE]
        for i in reversed(order):
            after.append(sets.either(after[-1], regions[i]))
        if after[-1] == TRUE:
            return (Always(True),)
        kept, before = [], FALSE
        for i in order:
            after.pop()
            others = sets.either(before, after[-1])
            if sets.choose(others, FALSE, regions[i]) != FALSE:
                kept.append(i)
                before = sets.either(before, regions[i])
    except TooComplexError:
        return tuple(alternatives)
    return tuple(alternatives[i] for i in sorted(kept))


def _conditions(expression: Expression) -> int:
    if isinstance(expression, Condition):
        return 1
    return len(expression.parts) if isinstance(expression, And) else 0
