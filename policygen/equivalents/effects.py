"""Carry exact sets of calls from one architecture to another: which calls there do only what a set of calls here does.

A call of the target is in the carried set if, by a link, it does what calls of the source do that are *all* in the set.  All,
since a call of the source may have arguments that the link does not carry: what is carried is never more than what was there.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Mapping

from callfence.policygen.equivalents.between import Hop, Node, Pair, Renumbering, hops, renumberings
from callfence.policygen.equivalents.links import own_calls
from callfence.policygen.model import Action, Entry
from callfence.policygen.sets.algebra import FALSE, TRUE, Space
from callfence.policygen.sets.region import BITS, shift, to_bdd
from callfence.tracer.abi import Arch, Argument, table

_WORD = (1 << 64) - 1


def allowed(sets: Space, entries: Mapping[int, Entry], arch: Arch, default: Action) -> dict[int, int]:
    """Return the set that a section allows of each call that it names, by number.  Raises TooComplexError."""
    result = {}
    for number, entry in entries.items():
        holds = to_bdd(sets, entry.expression, table(arch).by_number[number].arguments)
        then, otherwise = entry.action.allows, (entry.otherwise or default).allows
        result[number] = sets.ite(holds, TRUE if then else FALSE, TRUE if otherwise else FALSE)
    return result


def special(sets: Space, arch: Arch) -> dict[int, int]:
    """Return the calls that C libraries make on an architecture and not on others, a set for each number."""
    result: dict[int, int] = {}
    for own in own_calls(arch):
        if own.is_special:
            where = to_bdd(sets, own.side.entry.expression, table(arch).by_number[own.side.number].arguments)
            result[own.side.number] = sets.or_(where, result.get(own.side.number, FALSE))
    return result


def carried(sets: Space, source: Arch, target: Arch, allowed: Mapping[int, int]) -> dict[int, int]:
    """Return the carried set of each call of the target, by number; calls without one are left out.  `allowed`: number of a
    call of the source -> the set that is allowed of it, a function of arguments in `sets`."""
    links = hops(source, target)
    reached: defaultdict[Node, int] = defaultdict(lambda: FALSE)
    ahead = deque((((source, number), where) for number, where in allowed.items() if where != FALSE))
    while ahead:
        node, where = ahead.popleft()
        whole = sets.or_(where, reached[node])
        if whole == reached[node]:
            continue
        reached[node] = whole
        for hop in links.get(node, ()):
            if hop.target.entry.action.allows:
                ahead.append((hop.end, image(sets, hop, whole)))
    return {number: where for (arch, number), where in reached.items() if arch is target}


def image(sets: Space, hop: Hop, where: int) -> int:
    """Return the calls of the link's target that do what calls in the set `where` of its source do, and no others."""
    ours, theirs = (table(arch).by_number[number].arguments for arch, number in (hop.start, hop.end))
    here, there = to_bdd(sets, hop.source.entry.expression, ours), to_bdd(sets, hop.target.entry.expression, theirs)
    kept = sum(_WORD << shift(pair.source) for pair in hop.pairs)
    others = sum(_WORD << shift(index) for index in range(6)) & ~kept
    every = sets.always(sets.ite(here, where, TRUE), others)
    result = sets.and_(every, sets.invert(sets.always(sets.invert(here), others)))
    if result == FALSE:
        return FALSE
    for pair in hop.pairs:
        result = _renumbered(sets, hop, pair, result)
    return sets.and_(_moved(sets, hop.pairs, result), there)


def meaningful(sets: Space, hop: Hop) -> int:
    """Return the calls of the link's target whose arguments have no value that means something on one architecture only."""
    result = TRUE
    arguments = table(hop.arches[1]).by_number[hop.target.number].arguments
    for pair in hop.pairs:
        for selected, moves in renumberings(hop, pair):
            has = FALSE
            for bit in range(pair.theirs.width):
                if moves.odd >> bit & 1:
                    has = sets.or_(has, sets.variable(_variable(pair.target, bit)))
            for value in (*moves.gone, *moves.fresh, *(value for value, olds in moves.values if not olds)):
                has = sets.or_(has, _is(sets, pair.target, pair.theirs, value))
            if has != FALSE and selected is not None:
                has = sets.and_(has, _is(sets, selected.target, arguments[selected.target], selected.value))
            result = sets.ite(has, FALSE, result)
    return result


def _renumbered(sets: Space, hop: Hop, pair: Pair, where: int) -> int:
    """Return the set with the numbers of one argument, still at its place in the source call, as the target has them."""
    if not sets.support(where) & pair.ours.mask << shift(pair.source):
        return where
    (_, plain), *special = renumberings(hop, pair)
    result = _with_values(sets, pair, plain, where)
    arguments = table(hop.arches[0]).by_number[hop.source.number].arguments
    for selected, moves in special:
        assert selected is not None
        here = _is(sets, selected.source, arguments[selected.source], selected.value)
        result = sets.ite(here, _with_values(sets, pair, moves, sets.and_(where, here)), result)
    return result


def _with_values(sets: Space, pair: Pair, moves: Renumbering, where: int) -> int:
    free = sets.always(where, _WORD << shift(pair.source))
    if moves.bits:
        there = {_variable(pair.source, old): sets.variable(_variable(pair.source, new)) for old, new in moves.bits}
        where = sets.substituted(where, there)
    result = where
    for bit in range(moves.odd.bit_length()):
        if moves.odd >> bit & 1:
            either = sets.always(result, 1 << shift(pair.source) + bit)
            result = sets.ite(sets.variable(_variable(pair.source, bit)), either, result)
    before = result
    for value, olds in moves.values:
        old_sets = [sets.fixed(before, (pair.ours.mask << shift(pair.source), old << shift(pair.source))) for old in olds]
        every = free
        for number, one in enumerate(old_sets):
            every = sets.and_(every, one) if number else one
        result = sets.ite(_is(sets, pair.source, pair.ours, value), every, result)
    return result


def _moved(sets: Space, pairs: tuple[Pair, ...], where: int) -> int:
    """Return the set with each argument of the source call at its place in the target call, in the target's width.  A wider one
    has the source's value, but for calls that were in the set whatever that value."""
    there: dict[int, int] = {}
    for pair in pairs:
        narrow, wide = pair.ours.width, pair.theirs.width
        sign = sets.variable(_variable(pair.target, min(narrow, wide) - 1))
        for bit in range(narrow):
            beyond = sign if pair.theirs.signed else FALSE
            there[_variable(pair.source, bit)] = sets.variable(_variable(pair.target, bit)) if bit < wide else beyond
    is_moved = any(there_ != sets.variable(variable) for variable, there_ in there.items())
    result = sets.substituted(where, there) if is_moved else where
    for pair in pairs:
        if pair.ours.width < pair.theirs.width and sets.support(where) & pair.ours.mask << shift(pair.source):
            sign = sets.variable(_variable(pair.target, pair.ours.width - 1)) if pair.ours.signed else FALSE
            free = sets.always(result, pair.ours.mask << shift(pair.target))
            for bit in range(pair.ours.width, pair.theirs.width):
                result = sets.ite(sets.xor(sets.variable(_variable(pair.target, bit)), sign), free, result)
    return result


def _variable(index: int, bit: int) -> int:
    """Return the variable of a space that is the bit `bit` of the argument `index`."""
    return BITS - 1 - shift(index) - bit


def _is(sets: Space, index: int, argument: Argument, value: int) -> int:
    """Return the calls whose argument `index` has a value, given unsigned."""
    return sets.pattern(_variable(index, argument.width - 1), argument.mask, value & argument.mask, argument.width)
