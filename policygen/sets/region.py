"""Model the input of a filter as 512 bits, and the sets and functions over it that a policy describes.

The variables of the `Space`, most significant bit of each word first: arch (32), number (32), the six arguments (64
each), instruction pointer (64).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

from callfence.policygen.model import Always, And, Condition, Expression, Not, Operator, Or
from callfence.policygen.sets.algebra import FALSE, TRUE, Space, constant
from callfence.tracer.abi import Arch, Argument, Event
from callfence.tracer.named import NamedTuple

BITS = 512
_ARCH, _NUMBER, _ARGUMENTS, _IP = 0, 32, 64, 448
_WORD = (1 << 32) - 1
Word = tuple[int, ...]


def space() -> Space:
    return Space(BITS)


class Budget:
    """A limit on the work of judging policies that others have written: `each` for one space, `total` for all spaces together.

    Both are in units of `Space.work`, so that the same policies are judged the same on every machine.  When the budget is used
    up, further work raises TooComplexError."""

    def __init__(self, total: int = 1_500_000, each: int = 500_000) -> None:
        self._total, self._each = total, each
        self._before = 0
        """The work of all spaces but the last."""
        self._last: Space | None = None

    @property
    def work(self) -> int:
        """The work so far in all spaces of this budget, in units of `Space.work`."""
        return self._before + (self._last.work if self._last else 0)

    def space(self) -> Space:
        """Return a new space that can use the remaining budget.  The caller must not use the previous space again, except after
        `resume`."""
        limit = self._left()
        self._before = self.work
        self._last = Space(BITS, limit, limit)
        return self._last

    def resume(self, space: Space) -> None:
        """Let an earlier space of this budget use the remaining budget.  The caller must not use the current space again,
        except after another `resume`."""
        space.allow(self._left())
        self._before = self.work - space.work
        self._last = space

    def _left(self) -> int:
        return max(0, min(self._each, self._total - self.work))


class Region(NamedTuple):
    """A set of calls of one architecture and one system call."""

    space: Space
    where: int
    """The set, as a function of the space: only arguments decide."""


def arch_word(space: Space) -> Word:
    return space.word(_ARCH, 32)


def number_word(space: Space) -> Word:
    return space.word(_NUMBER, 32)


def argument_word(space: Space, index: int) -> Word:
    """Return the 64-bit word of the argument `index`."""
    return space.word(_ARGUMENTS + 64 * index, 64)


def shift(index: int) -> int:
    """Return the position of the lowest bit of the argument `index` in an assignment, which is an integer of BITS bits."""
    return BITS - _ARGUMENTS - 64 * (index + 1)


def data_words(space: Space) -> tuple[Word, ...]:
    """Return the sixteen 32-bit words of struct seccomp_data as words of the space, in the order of `filter.bpf.words`."""
    wide = [space.word(_IP, 64), *(argument_word(space, index) for index in range(6))]
    return (number_word(space), arch_word(space), *(half for word in wide for half in (word[32:], word[:32])))


def event(assignment: int) -> Event:
    """Return the event that an assignment of the space stands for."""
    arch, number = assignment >> 480, assignment >> 448 & _WORD
    a, b, c, d, e, f, ip = (assignment >> shift & ((1 << 64) - 1) for shift in range(384, -64, -64))
    return Event(arch, number, (a, b, c, d, e, f), ip)


def example(space: Space, where: int, arch: Arch, number: int) -> Event:
    """Return a simple call (few 1 bits in its arguments) in the set `where`, which depends on arguments only.  Raises
    ValueError if the set is empty."""
    assignment = space.difference(FALSE, where)
    if assignment is None:
        raise ValueError("no call is in the empty set")
    return Event(arch.audit, number, event(assignment).arguments)


def alternatives(space: Space, region: int, limit: int) -> tuple[tuple[tuple[int, int, int], ...], ...] | None:
    """Return the set `region`, which must depend on arguments only, written as alternatives (joined by OR).  Each is a
    conjunction of (index, mask, value), which means `argument & mask == value`, at most one for an argument.  None if that
    takes more than `limit` alternatives, or too much work."""
    cubes = space.cubes(region, limit)
    if cubes is None:
        return None
    pairs = [(event(care).arguments, event(value).arguments) for care, value in cubes]
    return tuple(tuple((i, mask, values[i]) for i, mask in enumerate(masks) if mask) for masks, values in pairs)


def to_bdd(space: Space, expression: Expression, arguments: Sequence[Argument]) -> int:
    """Return the calls with these arguments for which the expression holds.  Raises ValueError if a number does not fit."""
    match expression:
        case Always(value):
            return TRUE if value else FALSE
        case Not(part):
            return space.invert(to_bdd(space, part, arguments))
        case And(parts):
            return reduce(lambda result, part: space.and_(to_bdd(space, part, arguments), result), parts, TRUE)
        case Or(parts):
            return reduce(lambda result, part: space.or_(to_bdd(space, part, arguments), result), parts, FALSE)
        case Condition():
            return _condition(space, expression, arguments[expression.index])


def _condition(space: Space, condition: Condition, argument: Argument) -> int:
    width, value = argument.width, condition.value
    first, whole = _ARGUMENTS + 64 * condition.index + 64 - width, argument.mask

    def masked(mask: int, value: int) -> int:
        return FALSE if value & whole & ~mask else space.pattern(first, mask, value, width)

    def greater(*, is_less: bool = False) -> int:
        pair = (space.word(first, width), constant(value, width))
        a, b = reversed(pair) if is_less else pair
        if argument.signed:  # with the sign bits swapped the unsigned order is the signed one
            a, b = (b[0], *a[1:]), (a[0], *b[1:])
        return space.greater(a, b)

    for number in condition.values or (value,):
        if not -(whole >> 1) - 1 <= number <= whole:
            raise ValueError(f"{number} does not fit the {width} bits of {argument.name}")
    match condition.operator:
        case Operator.EQ:
            region = masked(whole, value)
        case Operator.NE:
            region = space.invert(masked(whole, value))
        case Operator.GT:
            region = greater()
        case Operator.LE:
            region = space.invert(greater())
        case Operator.LT:
            region = greater(is_less=True)
        case Operator.GE:
            region = space.invert(greater(is_less=True))
        case Operator.IN:
            region = masked(whole & ~value, 0)
        case Operator.HAS:
            region = masked(value, value)
        case Operator.ANY:
            region = space.invert(masked(value, 0))
        case Operator.MASKED:
            region = masked(condition.mask, value)
        case Operator.ONE_OF:
            region = FALSE
            for value in condition.values:
                region = space.or_(masked(whole, value), region)
    return region
