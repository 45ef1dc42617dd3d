"""Express sets of calls in the policy language, the inverse of `region.to_bdd`; and remove superfluous alternatives."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import combinations, product
from math import prod

from callfence.policygen.language.normal import normal_expression
from callfence.policygen.language.operands import operands
from callfence.policygen.model import Always, And, Condition, Expression, Not, Operator, Or, conjuncts
from callfence.policygen.sets import region as regions
from callfence.policygen.sets.algebra import FALSE, TRUE, Space, TooComplexError
from callfence.policygen.sets.region import BITS, space, to_bdd
from callfence.tracer.abi import Arch, Argument, Kind

_BITS = frozenset((Kind.FLAGS, Kind.PROTECTION, Kind.FIELD, Kind.MODE))
"""Kinds that are compared by bits, not by order."""
_NAMED = frozenset((Kind.SELECTOR, Kind.SIGNAL, Kind.CLOCK, Kind.PROTECTION))
"""Kinds whose values have names: a few values are best listed one by one."""
_FEW = 4
"""The most free bits of a cube, in all arguments together, whose values are listed one by one."""
_MAX_INTERVALS = 16

Masked = tuple[int, int, int]
"""(index, mask, value): `argument & mask == value`."""
Interval = tuple[int, int]
"""First and last of consecutive values, as the C type reads them."""


def express(space: Space, where: int, arch: Arch, number: int, limit: int) -> Expression | None:
    """Return an expression in normal form that holds exactly for the arguments in the set `where`.

    None if that takes more than `limit` alternatives or too much work, or if the set depends on something that conditions
    cannot compare: pointers, bits beyond the width of an argument's type, or anything but arguments."""
    if where in (TRUE, FALSE):
        return Always(where == TRUE)
    arguments = operands(arch, number).syscall.arguments
    if space.support(where) & ~nameable(arch, number):
        return None
    if (refused := _all_but(space, where, arguments)) is not None:
        return normal_expression(arch, number, refused)
    rules = _alternatives(space, where, arguments, limit)
    return None if rules is None else normal_expression(arch, number, Or(tuple(rules)))


def _alternatives(space: Space, where: int, arguments: Sequence[Argument], limit: int) -> list[Expression] | None:
    """Return alternatives that hold together exactly in the set `where`; None if that takes more than `limit`, or too much
    work."""
    if where == TRUE:
        return [Always(True)]
    deciding = _deciding(space, where, arguments)
    is_ordered = len(deciding) == 1
    rules = (_by_order if is_ordered else _by_argument)(space, where, deciding[0], arguments, limit)
    cubes = regions.alternatives(space, where, limit if rules is None else min(limit, len(rules)))
    if cubes is not None:
        is_field = len(cubes) == 1 and arguments[deciding[0]].kind in _BITS
        if not is_ordered or rules is None or len(cubes) < len(rules) or is_field:
            parts = [part for cube in cubes for part in _by_value(cube, arguments)]
            named = [_conjunction(part, arguments) for part in (parts if len(parts) <= limit else cubes)]
            rules = list(minimise(named, arguments)) if len(named) > len(cubes) else named
    return rules


def _deciding(space: Space, where: int, arguments: Sequence[Argument]) -> list[int]:
    """Return the arguments on which a set depends, ascending."""
    support = space.support(where)
    return [index for index, argument in enumerate(arguments) if support & argument.mask << regions.shift(index)]


def nameable(arch: Arch, number: int) -> int:
    """Return the bits of an assignment (`region`) that conditions on the arguments of this call can compare."""
    names = operands(arch, number)
    bits = 0
    for index, argument in enumerate(names.syscall.arguments):
        if not names.is_pointer(index):
            bits |= argument.mask << regions.shift(index)
    return bits


def negated(expression: Expression) -> Expression:
    """Return an expression that holds exactly where the given expression does not."""
    return expression.part if isinstance(expression, Not) else Not(expression)


def _by_value(cube: Sequence[Masked], arguments: Sequence[Argument]) -> Iterator[tuple[Masked, ...]]:
    """Return the parts of a cube in which each argument with named values has one value, or the cube if these are many."""
    choices: list[list[Masked]] = []
    for index, mask, value in cube:
        argument = arguments[index]
        free = [1 << bit for bit in range(argument.width) if argument.mask & ~mask & 1 << bit]
        if argument.kind in _NAMED and len(free) <= _FEW:
            sums = [sum(chosen) for size in range(len(free) + 1) for chosen in combinations(free, size)]
            choices.append([(index, argument.mask, value | more) for more in sums])
        else:
            choices.append([(index, mask, value)])
    return product(*choices) if prod(map(len, choices)) <= 1 << _FEW else iter((tuple(cube),))


def _conjunction(cube: Sequence[Masked], arguments: Sequence[Argument]) -> Expression:
    return And(tuple(part for index, mask, value in cube for part in _masked(index, mask, value, arguments[index])))


def _masked(index: int, mask: int, value: int, argument: Argument) -> list[Expression]:
    """Return conditions for `argument & mask == value`, with the operators that suit the argument's kind."""
    if mask == argument.mask:
        return [Condition(index, Operator.EQ, argument.value(value))]
    zeros = mask & ~value
    if value and not zeros:
        return [Condition(index, Operator.HAS, value)]
    if argument.kind not in _BITS or zeros.bit_count() <= argument.width // 2:
        return [Condition(index, Operator.MASKED, value, mask)]
    field = mask & argument.exact if argument.exact & ~mask == 0 else 0  # open's access mode is compared as a whole
    parts: list[Expression] = [Condition(index, Operator.MASKED, value & field, field)] if field else []
    if rest := value & ~field:
        parts.append(Condition(index, Operator.HAS, rest))
    return [*parts, Condition(index, Operator.IN, argument.mask & ~zeros)]


def _all_but(space: Space, where: int, arguments: Sequence[Argument]) -> Expression | None:
    """Return the set as the negation of one comparison of bits, or None if it has no such form."""
    cubes = regions.alternatives(space, space.invert(where), 1)
    if cubes is None or len(cubes[0]) != 1:
        return None
    index, mask, value = cubes[0][0]
    if arguments[index].kind not in _BITS or mask.bit_count() == 1 or mask == arguments[index].mask:  # `!=`, by order
        return None
    (refused, *more) = _masked(index, mask, value, arguments[index])
    match refused:
        case Condition(operator=Operator.MASKED, value=0) if not more:
            return Condition(index, Operator.ANY, mask)
        case _:
            return Not(And((refused, *more)))


def _by_argument(
    space: Space, where: int, index: int, arguments: Sequence[Argument], limit: int
) -> list[Expression] | None:
    """Return alternatives for a set that several arguments decide, the first of them `index`: for each set of the others that
    some of its values leave, the values that leave at least this set.  None if there are too many."""
    split = space.split(where, BITS - regions.shift(index))
    if len(split) > _MAX_INTERVALS:
        return None
    found: list[Expression] = []
    for rest in split.keys() - {FALSE}:
        values = space.union(values for other, values in split.items() if space.ite(rest, other, TRUE) == TRUE)
        first, others = (_alternatives(space, part, arguments, limit) for part in (values, rest))
        if first is None or others is None or len(found) + len(first) * len(others) > limit:
            return None
        found += [And(conjuncts(one) + conjuncts(other)) for one in first for other in others]
    return list(minimise(found, arguments))


def _by_order(space: Space, where: int, index: int, arguments: Sequence[Argument], limit: int) -> list[Expression] | None:
    """Return alternatives that compare the argument that decides by order.  None if there are too many, or if the values are
    so few that bits list them."""
    intervals = _intervals(space, where, index, arguments[index])
    if intervals is None or len(intervals) > limit:
        return None
    half = 1 << arguments[index].width - 1
    low, high = (-half, half - 1) if arguments[index].signed else (0, arguments[index].mask)
    starts = [low, *(last + 1 for _, last in intervals)]
    ends = [*(first - 1 for first, _ in intervals), high]
    gaps = [(first, last) for first, last in zip(starts, ends, strict=True) if first <= last]
    if len(gaps) < len(intervals) and all(first == last for first, last in gaps):
        return [And(tuple(Condition(index, Operator.NE, first) for first, _ in gaps))]
    few = 1 << _FEW if arguments[index].kind in _NAMED else 2
    if all(last - first < few for first, last in intervals) and sum(last - first + 1 for first, last in intervals) <= limit:
        return None
    return [_between(index, first, last) for first, last in intervals]


def _between(index: int, first: int, last: int) -> Expression:
    """Return the condition for consecutive values; its normal form lacks a bound that the type has, too."""
    if first == last:
        return Condition(index, Operator.EQ, first)
    return And((Condition(index, Operator.GE, first), Condition(index, Operator.LE, last)))


def _intervals(space: Space, where: int, index: int, argument: Argument) -> list[Interval] | None:
    """Return the argument's values in a set that it alone decides, as ascending intervals; None if there are too many."""
    intervals: list[Interval] = []
    shift = regions.shift(index)
    offset = 1 << argument.width - 1 if argument.signed else 0  # added to signed values, it gives the order of unsigned ones

    def walk(node: int, bit: int, first: int) -> bool:
        """Add the values from `first` on that differ in the bits from `bit` down; False if there are too many."""
        if node == FALSE:
            return True
        if node == TRUE:
            last = first + (2 << bit) - 1 if bit >= 0 else first
            if intervals and intervals[-1][1] == first - 1:
                intervals[-1] = (intervals[-1][0], last)
            else:
                intervals.append((first, last))
            return len(intervals) <= _MAX_INTERVALS
        low, high = space.branches(node, regions.BITS - 1 - shift - bit)
        if offset >> bit & 1:
            low, high = high, low
        return walk(low, bit - 1, first) and walk(high, bit - 1, first + (1 << bit))

    if not walk(where, argument.width - 1, 0):
        return None
    return [(first - offset, last - offset) for first, last in intervals]


def minimise(
    alternatives: Sequence[Expression], arguments: Sequence[Argument], make: Callable[[], Space] = space
) -> tuple[Expression, ...]:
    """Return the alternatives, in order, without those that the others cover; `Always(True)` alone if they hold for all
    arguments.

    If either of two alternatives could be removed, the one with more conditions is removed, or else the later one.  If the sets
    are too complex to compute, the alternatives are returned unchanged.  `make` creates the space to compute in."""
    sets = make()
    try:
        regions = [to_bdd(sets, alternative, arguments) for alternative in alternatives]
        order = sorted(range(len(regions)), key=lambda i: (-_conditions(alternatives[i]), -i))
        after = [FALSE]
        for i in reversed(order):
            after.append(sets.or_(after[-1], regions[i]))
        if after[-1] == TRUE:
            return (Always(True),)
        needed, before = [], FALSE
        for i in order:
            after.pop()
            rest = sets.or_(before, after[-1])
            if sets.ite(rest, FALSE, regions[i]) != FALSE:
                needed.append(i)
                before = sets.or_(before, regions[i])
    except TooComplexError:
        return tuple(alternatives)
    return tuple(alternatives[i] for i in sorted(needed))


def _conditions(expression: Expression) -> int:
    return len(expression.parts) if isinstance(expression, And) else 1
