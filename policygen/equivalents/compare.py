"""Find the effects that one section of a policy allows and another section does not."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import combinations

from callfence.policygen.equivalents.between import hops
from callfence.policygen.equivalents.effects import allowed, carried, meaningful, special
from callfence.policygen.implied.resolve import Resolved, resolve
from callfence.policygen.model import Expression, Policy, alternatives
from callfence.policygen.phases import START, phase_policies
from callfence.policygen.sets import region
from callfence.policygen.sets.algebra import FALSE, Space
from callfence.policygen.sets.express import express, minimise
from callfence.policygen.values import frozen, replace
from callfence.tracer.abi import Arch, Argument, Event, name_of, table

_MAX_RULES = 8
"""The most alternatives that describe a gap; a gap that takes more has none, only its example."""


@frozen
class Gap:
    """Calls of one architecture that a policy allows, while it allows nothing on the other that does the same."""

    arch: Arch
    other: Arch
    number: int
    rules: tuple[Expression, ...]
    """The calls as alternatives joined by OR; empty if there would be more than `_MAX_RULES`."""
    example: Event
    phase: str = ""
    """The only phase in which they differ; "" if they differ from the start on."""


def pairs(policy: Policy, *, every: bool = False) -> list[tuple[Arch, Arch]]:
    """Return the pairs of sections of a policy that are for the same program on different machines: those of 64 bits, or
    `every` pair.  A machine runs programs of 32 bits beside others, so that their sections allow what other programs need."""
    return list(combinations([arch for arch in policy.entries if every or arch.bits == 64], 2))


def gaps(policy: Policy, a: Arch, b: Arch, make: Callable[[], Space] = region.space) -> tuple[Gap, ...]:
    """Return the gaps between two sections of a policy, in the order of architectures and calls.

    Only what the entries themselves allow is compared, with all that the other section allows: implied sets grant nothing.
    Calls and values that the other architecture does not have are no gaps.  `make` creates the space to compute in.  Raises
    TooComplexError."""
    reported: dict[object, Gap] = {}
    for (name, written), meant in zip(phase_policies(policy), resolve(policy).values(), strict=True):
        for arch, other in ((a, b), (b, a)):
            for gap in _gaps(make(), written, meant, arch, other):
                key = gap.arch, gap.number, gap.rules
                if key not in reported:
                    reported[key] = replace(gap, phase="" if name == START else name)
    return tuple(sorted(reported.values(), key=lambda gap: (gap.arch is not a, name_of(gap.arch, gap.number))))


def _gaps(sets: Space, written: Policy, meant: Resolved, arch: Arch, other: Arch) -> Iterator[Gap]:
    """Yield what the entries of `arch` allow and the section of `other` does not, in one phase."""
    here = allowed(sets, written.entries[arch], arch, written.default)
    may = carried(sets, other, arch, allowed(sets, meant.entries[other], other, written.default))
    ways = [hop for starting in hops(other, arch).values() for hop in starting if hop.arches[1] is arch]
    same = {hop.target.number: hop for hop in ways if hop.is_same}
    ends = {hop.target.number for hop in ways}
    own = special(sets, arch)
    for number, where in here.items():
        if number not in ends:
            continue
        beyond = sets.ite(sets.or_(may.get(number, FALSE), own.get(number, FALSE)), FALSE, where)
        if number in same and beyond != FALSE:
            beyond = sets.and_(beyond, meaningful(sets, same[number]))
        if beyond != FALSE:
            arguments = table(arch).by_number[number].arguments
            entry = written.entries[arch][number]
            rules = _rules(sets, beyond, alternatives(entry.expression), arch, number, arguments)
            yield Gap(arch, other, number, rules, region.example(sets, beyond, arch, number))


def _rules(
    sets: Space, where: int, parts: Sequence[Expression], arch: Arch, number: int, arguments: Sequence[Argument]
) -> tuple[Expression, ...]:
    """Return the set as alternatives: those of the entry if they are exactly the set, else computed ones."""
    rest, rules = where, []
    for part in parts:
        holds = region.to_bdd(sets, part, arguments)
        if holds != FALSE and sets.ite(where, FALSE, holds) == FALSE:
            rest = sets.ite(holds, FALSE, rest)
            rules.append(part)
    if rules and rest == FALSE:
        return minimise(rules, arguments)
    expressed = express(sets, where, arch, number, _MAX_RULES)
    return () if expressed is None else alternatives(expressed)
