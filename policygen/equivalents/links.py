"""Read the calls that different C libraries make for the same purpose, from equivalents.tsv and libc.tsv, on first use."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cache

from callfence.policygen.holds import holds
from callfence.policygen.language.document import parse
from callfence.policygen.language.operands import ORDERINGS, operands
from callfence.policygen.model import BITWISE, And, Condition, Entry, Expression, Operator, alternatives, conjuncts
from callfence.policygen.values import frozen, replace
from callfence.tracer.abi import Arch, Argument, table
from callfence.tracer.abi.constants import table_rows

BETWEEN = "~"
"""The `as` of rows that apply only between two architectures (`equivalents.between`)."""

Conjunction = tuple[Condition, ...]
"""Conditions joined by AND; () holds whatever the arguments."""


@frozen
class Side:
    """One of the two calls of a link."""

    number: int
    entry: Entry
    """The entry for the call: allowed under a condition, or failed whatever the arguments."""
    alternatives: tuple[Conjunction, ...]
    """The entry's condition, as alternatives."""

    @property
    def held(self) -> frozenset[int]:
        """The indexes of the arguments that the condition compares."""
        return frozenset(condition.index for conditions in self.alternatives for condition in conditions)


@frozen
class Carried:
    """An argument that both calls of a link have."""

    source: int
    """The argument's index in the source call: 0-5."""
    target: int
    free: int
    """Bits in which the two calls may differ."""


@frozen
class Link:
    """Two calls: a policy that allows `source` allows `target` as well."""

    source: Side
    target: Side
    carried: tuple[Carried, ...]
    way: str
    """`=`, `>` or `>=`, as in the table."""
    why: str
    more: str
    """What the target can do beyond the source, if anything."""

    @property
    def strict(self) -> bool:
        """Whether the two calls do the same, so that allowing `target` where `source` is allowed grants nothing new."""
        return self.way == "="


@frozen
class Own:
    """A call that a C library makes on its own."""

    side: Side
    loader: bool
    """Whether the call is made before the program's entry point."""
    why: str
    is_special: bool
    """Whether C libraries make the call on this architecture and not on others."""


@cache
def links(arch: Arch) -> Mapping[int, tuple[Link, ...]]:
    """Return the links from each call of an architecture, in the table's order; a row with `=` gives two."""
    result: defaultdict[int, list[Link]] = defaultdict(list)
    for call, way, other, carried, why, *more in table_rows(__spec__, "equivalents.tsv"):
        source, target = side(arch, call), side(arch, other)
        if source is None or target is None or way == BETWEEN:
            continue
        named = [_carried(arch, source.number, target.number, word) for word in carried.split()]
        pairs = tuple(pair for pair in named if pair is not None)
        result[source.number].append(Link(source, target, pairs, way, why, *more or [""]))
        if way == "=" and (source != target):
            back = tuple(Carried(pair.target, pair.source, pair.free) for pair in pairs)
            result[target.number].append(Link(target, source, back, way, why, ""))
    return {number: tuple(links_of_call) for number, links_of_call in result.items()}


@cache
def own_calls(arch: Arch) -> tuple[Own, ...]:
    """Return the calls that C libraries make on their own on an architecture, in the table's order."""
    result = []
    for when, of, entry, why in table_rows(__spec__, "libc.tsv"):
        if of in ("-", arch) and (call := side(arch, entry)) is not None:
            result.append(Own(call, when == "loader", why, of != "-"))
    return tuple(result)


def simple(expression: Expression) -> Conjunction | None:
    """Return the conditions of an alternative that is a conjunction of conditions; None if it has another shape."""
    parts = conjuncts(expression)
    conditions = tuple(part for part in parts if isinstance(part, Condition))
    return conditions if len(conditions) == len(parts) else None


def side(arch: Arch, cell: str) -> Side | None:
    """Return the call and condition of a cell; None if the architecture lacks the call, or its arguments are in memory."""
    name, colon, _ = cell.partition(":")
    call = table(arch).by_name.get(name)
    if call is None or (colon and not operands(arch, call.number).constrainable()):
        return None
    policy = parse(f"arch {arch}\n{cell if colon else f'{cell}: allow'}", f"{name} of equivalents.tsv or libc.tsv").policy
    ((number, entry),) = policy.entries[arch].items()
    conjunctions_or_none = [simple(conjunction) for conjunction in alternatives(entry.expression)]
    conjunctions = tuple(conjunction for conjunction in conjunctions_or_none if conjunction is not None)
    if len(conjunctions) < len(conjunctions_or_none):
        raise ValueError(f"more than a conjunction of conditions: {cell}")
    return Side(number, entry, conjunctions)


def _carried(arch: Arch, source: int, target: int, word: str) -> Carried | None:
    """Return the pair of arguments that a word names; None if the architecture's calls do not share the argument: one call
    takes a pointer to its arguments (select of i386), or the widths differ (IDs of 16 bits)."""
    names, _, bit = word.partition("~")
    first, _, second = names.partition(":")
    source_operands, target_operands = operands(arch, source), operands(arch, target)
    a, b = source_operands.index(first), target_operands.index(second or first)
    if a is None or b is None or source_operands.syscall.arguments[a].width != target_operands.syscall.arguments[b].width:
        return None
    return Carried(a, b, source_operands.constant(a, bit)[0] if bit else 0)


def image(
    conditions: Conjunction, here: Conjunction, link: Link, ours: Sequence[Argument], theirs: Sequence[Argument]
) -> list[Conjunction] | None:
    """Return the conditions as rules on the other call's arguments; None if they cannot be carried over.  Conditions on
    arguments that the calls do not share need no counterpart: some call meets them, or they are the row's own."""
    pairs = {pair.source: pair for pair in link.carried}
    if link.strict and {condition.index for condition in conditions} - set(pairs) - link.source.held:
        return None
    result: list[Conjunction] = [()]
    for index, pair in pairs.items():
        own = [condition for condition in (*conditions, *here) if condition.index == index]
        choices = _carry(own, pair, ours[index], theirs[pair.target])
        if choices is None:
            return None
        result = [(*conjunction, *choice) for conjunction in result for choice in choices]
    return result


def _carry(own: list[Condition], pair: Carried, source: Argument, target: Argument) -> list[Conjunction] | None:
    """Return the conditions on one argument as alternatives of conditions on the other; None if they have no such form."""
    if any(condition.operator in ORDERINGS for condition in own) and source.signed != target.signed:
        return None
    finite = next((condition for condition in own if condition.operator in (Operator.EQ, Operator.ONE_OF)), None)
    if pair.free and finite is not None:
        bits = [value & source.mask for value in finite.values or (finite.value,) if _meets(value, own, source)]
        both = sorted({value & ~pair.free for value in bits} | {value | pair.free for value in bits})
        return [(Condition(pair.target, Operator.EQ, target.value(value)),) for value in both]
    if pair.free and all(condition.operator in _BY_BITS for condition in own):
        own = [loose for condition in own if (loose := _loosened(condition, pair.free)) is not None]
    return [tuple(_moved(condition, pair.target, target) for condition in own)]


def _meets(value: int, conditions: Sequence[Condition], argument: Argument) -> bool:
    """Return whether an argument's value meets conditions that are all on that argument."""
    alone = tuple(replace(condition, index=0) for condition in conditions)
    return holds(And(alone), [argument], [value & argument.mask])


_BY_BITS = frozenset((Operator.IN, Operator.HAS, Operator.MASKED))
"""Operators that compare each bit separately, so that a single bit can be left free."""


def _loosened(condition: Condition, free: int) -> Condition | None:
    """Return the condition with the `free` bits ignored; None if it then always holds."""
    value, mask = condition.value & ~free, condition.mask & ~free
    if condition.operator is Operator.IN:
        return replace(condition, value=condition.value | free)
    if condition.operator is Operator.HAS:
        return replace(condition, value=value) if value else None
    return replace(condition, value=value, mask=mask) if mask else None


def _moved(condition: Condition, index: int, argument: Argument) -> Condition:
    """Return the condition on another argument of the same width."""
    if condition.operator in BITWISE:
        return replace(condition, index=index)
    values = tuple(sorted(argument.value(value & argument.mask) for value in condition.values))
    return replace(condition, index=index, value=argument.value(condition.value & argument.mask), values=values)
