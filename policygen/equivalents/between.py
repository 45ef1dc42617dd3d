"""Link the calls of two architectures: those with one name, and those of the rows of equivalents.tsv.

A link from a source call to a target call says: the target does what the source does, if the conditions of the row hold and the
arguments that both have are equal.  Equal arguments may be different numbers: O_DIRECTORY is another bit on each of two
architectures (`Renumbering`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import cache

from callfence.policygen.equivalents.links import BETWEEN, Link, Side, links, side
from callfence.policygen.language.operands import operands
from callfence.policygen.model import Always, Entry
from callfence.policygen.values import frozen
from callfence.tracer.abi import Arch, Argument, Kind, constants, name_of, table
from callfence.tracer.abi.constants import table_rows
from callfence.tracer.named import NamedTuple

Node = tuple[Arch, int]
"""A call: its architecture and its number."""


@frozen
class Renumbering:
    """How the values of an argument on one architecture become those of the same argument on another one."""

    bits: tuple[tuple[int, int], ...] = ()
    """The bits that move: the position on the source, and that on the target.  All other positions stay."""
    odd: int = 0
    """The bits, as positions on the target, that have a name on one of the two architectures only."""
    values: tuple[tuple[int, tuple[int, ...]], ...] = ()
    """Value on the target -> the values on the source that have its name, for values that change; () if the source has another
    name for the number and none for what it means on the target.  Unsigned; all other values stay."""
    gone: frozenset[int] = frozenset()
    """The values that mean something on the source, and as numbers nothing on the target."""
    fresh: frozenset[int] = frozenset()
    """The values that mean something on the target, and as numbers nothing on the source."""

    def bits_there(self, pattern: int) -> int:
        """Return a pattern of bits of the source as one of the target."""
        there = dict(self.bits)
        return sum(1 << there.get(bit, bit) for bit in range(pattern.bit_length()) if pattern >> bit & 1)

    def values_there(self, value: int) -> tuple[int, ...]:
        """Return the values on the target that mean what `value` (unsigned) means on the source."""
        moved = tuple(new for new, olds in self.values if value in olds)
        stays = value not in self.gone and all(new != value for new, _ in self.values)
        return (value, *moved) if stays else moved


@cache
def renumbering(source: Arch, target: Arch, ours: str, theirs: str, mask: int) -> Renumbering:
    """Return how values move between two families of constants; `mask` has the bits of the argument's type."""
    if not ours or not theirs or source == target:
        return Renumbering()
    here, there = constants.family(ours, source), constants.family(theirs, target)
    both = [name for name in here.names if name in there.names]
    if all(here.names[name] == there.names[name] for name in both) and {*here.names} == {*there.names}:
        return Renumbering()
    bits: list[dict[str, int]] = []
    whole: list[dict[str, int]] = []
    for family in (here, there):
        bits.append({name: value for name, value in family.names.items() if not family.mask(name) and value.bit_count() == 1})
        whole.append({name: value & mask for name, value in family.names.items() if family.mask(name) == ~0})
    ours_, theirs_ = (frozenset(constants.values()) for constants in whole)
    return Renumbering(*_bits(*bits), _values(*whole), ours_ - theirs_, theirs_ - ours_)


def _bits(here: Mapping[str, int], there: Mapping[str, int]) -> tuple[tuple[tuple[int, int], ...], int]:
    """Return the bits that move, and the odd ones, of the single bits that two families name."""
    moves = {here[name].bit_length() - 1: there[name].bit_length() - 1 for name in here if name in there}
    free = sorted({*moves.values()} - {*moves})  # positions on the source whose bit on the target is taken
    moves |= dict(zip(free, sorted({*moves} - {*moves.values()}), strict=True))
    alone = [moves.get(bit, bit) for name, value in here.items() if name not in there for bit in [value.bit_length() - 1]]
    alone += [value.bit_length() - 1 for name, value in there.items() if name not in here]
    odd = {*alone} - {there[name].bit_length() - 1 for name in there if name in here}
    return tuple(sorted((old, new) for old, new in moves.items() if old != new)), sum(1 << bit for bit in odd)


def _values(here: Mapping[str, int], there: Mapping[str, int]) -> tuple[tuple[int, tuple[int, ...]], ...]:
    """Return the values that change, of those that two families name, as `Renumbering.values` has them."""
    changes = {}
    named: defaultdict[int, list[str]] = defaultdict(list)
    for name, value in there.items():
        named[value].append(name)
    numbers = frozenset(here.values())
    for value in sorted({*numbers, *named}):
        names = named.get(value, [])
        shared = [name for name in names if name in here]
        olds = tuple(sorted({here[name] for name in shared}))
        if not shared and not (names and value in numbers):
            continue  # a number that means nothing on one of the two stays
        if olds != (value,):
            changes[value] = olds
    return tuple(changes.items())


class Pair(NamedTuple):
    """An argument that both calls of a link have."""

    source: int
    """The index of the argument in the source call."""
    target: int
    ours: Argument
    """The argument as the source call has it, in its plain meaning."""
    theirs: Argument


@frozen
class Hop:
    """A link between two calls, of one architecture or of two."""

    arches: tuple[Arch, Arch]
    source: Side
    target: Side
    pairs: tuple[Pair, ...]
    more: str = ""
    """What the target can do beyond the source, if anything."""

    @property
    def start(self) -> Node:
        return self.arches[0], self.source.number

    @property
    def end(self) -> Node:
        return self.arches[1], self.target.number

    @property
    def is_same(self) -> bool:
        """Whether both calls are the same one, on two architectures."""
        return self.arches[0] != self.arches[1] and name_of(*self.start) == name_of(*self.end)


class Selected(NamedTuple):
    """The value of another argument that gives an argument its meaning."""

    source: int
    """The index of that other argument in the source call."""
    target: int
    value: int
    """Its value, unsigned, which is the same on both architectures."""


@cache
def renumberings(hop: Hop, pair: Pair) -> tuple[tuple[Selected | None, Renumbering], ...]:
    """Return how the values of an argument move: first, with None, in its plain meaning; then for each value of another
    argument that gives it a meaning in which they move otherwise (fcntl's `arg` is flags under F_SETFL)."""
    mask = pair.ours.mask & pair.theirs.mask
    result: list[tuple[Selected | None, Renumbering]] = [
        (None, renumbering(*hop.arches, pair.ours.constants, pair.theirs.constants, mask))
    ]
    ours, theirs = map(table, hop.arches)
    for other in hop.pairs if hop.arches[0] != hop.arches[1] else ():
        family = other.ours.constants
        if not family or pair.source not in ours.dependents(hop.source.number, other.source):
            continue
        for value in sorted({value & other.ours.mask for value in constants.family(family, hop.arches[0]).names.values()}):
            here = ours.arguments(hop.source.number, [value if index == other.source else 0 for index in range(6)])
            there = theirs.arguments(hop.target.number, [value if index == other.target else 0 for index in range(6)])
            meant = here[pair.source].constants, there[pair.target].constants
            moves = renumbering(*hop.arches, *meant, mask)
            if moves != Renumbering() and meant[0] != pair.ours.constants:
                result.append((Selected(other.source, other.target, value), moves))
    return tuple(result)


@cache
def hops(source: Arch, target: Arch) -> Mapping[Node, tuple[Hop, ...]]:
    """Return the links by which what is allowed on one architecture is carried to another one, by the call where they start.

    A call leads to the call of the same name.  If the target lacks it, it leads to its equals, on the source first; and what is
    reached on the target leads to the equals there that the source lacks."""
    result: defaultdict[Node, list[Hop]] = defaultdict(list)
    ours, theirs = table(source).by_name, table(target).by_name
    for name, call in ours.items():
        if name in theirs:
            sides = [Side(number, Entry(Always(True)), ((),)) for number in (call.number, theirs[name].number)]
            by_name = " ".join(argument.name for argument in call.arguments)
            result[source, call.number].append(_hop(source, target, sides[0], sides[1], by_name))
    for hop in (*_within(source), *_across(source, target), *_within(target)):
        is_missing = name_of(*hop.start) not in theirs, name_of(*hop.end) not in ours
        if is_missing[0] if hop.arches[1] is source else is_missing[1] or (hop.arches[0] is source and is_missing[0]):
            result[hop.start].append(hop)
    return {node: tuple(starting) for node, starting in result.items()}


def ends(start: Node, source: Arch, target: Arch) -> Iterator[str]:
    """Yield the names of the calls of the target to which links lead from a call of the source."""
    ahead, reached = [start], {start}
    while ahead:
        node = ahead.pop()
        for hop in hops(source, target).get(node, ()):
            if hop.end not in reached and hop.target.entry.action.allows:
                reached.add(hop.end)
                ahead.append(hop.end)
    yield from (name_of(arch, number) for arch, number in sorted(reached) if arch is target)


def _within(arch: Arch) -> Iterator[Hop]:
    """Yield the links of one architecture whose target does no more than the source."""
    for of_call in links(arch).values():
        for link in of_call:
            if link.source.number != link.target.number and (link.way != ">" or not link.target.entry.action.allows):
                yield _of_link(arch, link)


def _of_link(arch: Arch, link: Link) -> Hop:
    ours, theirs = (operands(arch, end.number).syscall.arguments for end in (link.source, link.target))
    pairs = [Pair(pair.source, pair.target, ours[pair.source], theirs[pair.target]) for pair in link.carried if not pair.free]
    return Hop((arch, arch), link.source, link.target, tuple(pairs), link.more)


def _across(source: Arch, target: Arch) -> Iterator[Hop]:
    """Yield the links of the rows that apply between two architectures only."""
    for call, way, other, carried, *_ in table_rows(__spec__, "equivalents.tsv"):
        for first, second, words in ((call, other, carried), (other, call, _reversed(carried))):
            if way == BETWEEN:
                ends = side(source, first), side(target, second)
                if ends[0] is not None and ends[1] is not None:
                    yield _hop(source, target, ends[0], ends[1], words)


def _reversed(carried: str) -> str:
    return " ".join(":".join(reversed(word.split(":"))) for word in carried.split())


def _hop(source: Arch, target: Arch, start: Side, end: Side, carried: str) -> Hop:
    ours, theirs = operands(source, start.number), operands(target, end.number)
    pairs = []
    for word in carried.split():
        first, _, second = word.partition(":")
        a, b = ours.index(first), theirs.index(second or first)
        if a is not None and b is not None and not (ours.is_pointer(a) or theirs.is_pointer(b)):
            pair = Pair(a, b, ours.syscall.arguments[a], theirs.syscall.arguments[b])
            if pair.ours.width == pair.theirs.width or pair.ours.kind is not Kind.ID:  # IDs of 16 bits: -1 is another number
                pairs.append(pair)
    return Hop((source, target), start, end, tuple(pairs))


@cache
def unneeded(source: Arch) -> Mapping[int, tuple[tuple[Side, str], ...]]:
    """Return the calls of `source` that a policy which is carried to another architecture may drop, because nothing there needs
    them: number -> each such call with its reason (unneeded.tsv)."""
    result: defaultdict[int, list[tuple[Side, str]]] = defaultdict(list)
    for call, why in table_rows(__spec__, "unneeded.tsv"):
        if (end := side(source, call)) is not None:
            result[end.number].append((end, why))
    return {number: tuple(sides) for number, sides in result.items()}
