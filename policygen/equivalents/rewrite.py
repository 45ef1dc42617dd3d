"""Rewrite conditions of one architecture as those of another, in the form in which they were written."""

from __future__ import annotations

from callfence.policygen.equivalents.between import Hop, Pair, Renumbering, renumberings
from callfence.policygen.language.naming import Known, determined
from callfence.policygen.model import BITWISE, Always, And, Condition, Expression, Not, Operator, Or
from callfence.policygen.values import replace
from callfence.tracer.abi import Argument


def rewritten(hop: Hop, expression: Expression, values: Known = ()) -> Expression:
    """Return an expression on the arguments of the link's source as one on those of its target.

    It is a proposal: a condition on an argument that the link does not carry is left out, and one that compares in a way that
    the other architecture's numbers do not permit stays as it is.  The caller compares it with the exact set (`effects.image`).
    `values`: the arguments whose values are known where the expression stands (`naming.determined`)."""
    match expression:
        case Always():
            return expression
        case Not(part):
            return Not(rewritten(hop, part, values))
        case Or(parts):
            return Or(tuple(rewritten(hop, part, values) for part in parts))
        case And(parts):
            values = determined(parts, values)
            return And(tuple(rewritten(hop, part, values) for part in parts))
        case Condition(index):
            pair = next((pair for pair in hop.pairs if pair.source == index), None)
            return Always(True) if pair is None else _condition(pair, _moves(hop, pair, values), expression)


def _moves(hop: Hop, pair: Pair, values: Known) -> Renumbering:
    """Return how the values of an argument move where other arguments have `values`."""
    (_, plain), *special = renumberings(hop, pair)
    given = dict(values)
    for selected, moves in special:
        if selected is not None and selected.source in given and given[selected.source] == selected.value:
            return moves
    return plain


def _condition(pair: Pair, moves: Renumbering, condition: Condition) -> Expression:
    there = pair.theirs
    if condition.operator in BITWISE:
        return _by_bits(pair, moves, condition)
    if condition.operator in (Operator.EQ, Operator.NE, Operator.ONE_OF):
        olds = [value & pair.ours.mask for value in condition.values or (condition.value,)]
        news = [new for old in olds for new in _values(moves, old)]
        if condition.operator is Operator.NE:  # what the number itself does there is not known
            news += olds if moves.gone.intersection(olds) else []
        values = tuple(sorted({_read(there, _read(pair.ours, new)) for new in news}))
        if condition.operator is Operator.NE:
            return And(tuple(Condition(pair.target, Operator.NE, value) for value in values))
        if len(values) == 1:
            return Condition(pair.target, Operator.EQ, values[0])
        return Condition(pair.target, Operator.ONE_OF, values=values) if values else Always(False)
    value = there.value(condition.value & there.mask) if pair.ours.width >= there.width else condition.value
    return replace(condition, index=pair.target, value=value)


def _values(moves: Renumbering, value: int) -> tuple[int, ...]:
    """Return the values that mean what `value` means on the source, both unsigned."""
    bits = moves.bits_there(value)
    return () if bits & moves.odd else moves.values_there(bits)


def _read(argument: Argument, value: int) -> int:
    return argument.value(value & argument.mask)


def _by_bits(pair: Pair, moves: Renumbering, condition: Condition) -> Expression:
    mask = pair.theirs.mask
    value, compared = moves.bits_there(condition.value) & mask, moves.bits_there(condition.mask) & mask
    match condition.operator:
        case Operator.IN | Operator.ANY:
            value &= ~moves.odd
        case Operator.HAS if value & moves.odd:
            return Always(False)
        case Operator.MASKED if value & moves.odd:
            return Always(False)
        case _:
            pass
    if condition.operator is Operator.ANY and not value:
        return Always(False)
    return replace(condition, index=pair.target, value=value, mask=compared)
