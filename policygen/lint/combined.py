"""What a policy allows that is dangerous only together: the rows of combinations.tsv that hold for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from policygen.evaluate import answers
from policygen.implied.expand import expanded
from policygen.lint.catalogue import Combination, abilities, combinations, granted, leaves_free
from policygen.model import Always, Entry, alternatives
from policygen.sets.algebra import FALSE, TooComplexError
from policygen.sets.region import space
from policygen.values import frozen
from tracer.abi import Arch, table

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from policygen.lint.catalogue import Ability
    from policygen.model import Policy
    from policygen.sets.algebra import Space


@frozen
class Combined:
    """A combination that holds for a policy."""

    arch: Arch
    row: Combination
    calls: tuple[str, ...]
    """Calls that take part: those that the old policy lacks, if there is one, then one for each other part; by name."""
    new: int = 0
    """How many of them, from the first, the old policy lacks."""


def combined(policy: Policy, make: Callable[[], Space] = space) -> tuple[Combined, ...]:
    """Return the combinations that hold for a policy, in the catalogue's order; none for one whose default lets calls run,
    where all do.  One whose parts are all parts of another that holds is left out.  `make` makes the spaces."""
    found = []
    for arch in policy.entries if not policy.default.lets_run else ():
        mine = _abilities(policy, arch, make)
        held = [row for row in combinations() if mine.keys() >= {*row.parts}]
        for row in _widest(held):
            found.append(Combined(arch, row, tuple(sorted({mine[part][0] for part in row.parts}))))
    return _each_once(found)


def able(policy: Policy) -> frozenset[str]:
    """Return what the policy, with its implied set, is able to do, by the catalogue's abilities."""
    return frozenset(name for arch in policy.entries for name in _abilities(policy, arch, space))


def completed(old: Policy, new: Policy, make: Callable[[], Space] = space) -> tuple[Combined, ...]:
    """Return the combinations that hold for the new policy and not for the old one, the most dangerous first."""
    if new.default.lets_run:
        return ()
    found = []
    for arch in new.entries:
        before, after = _abilities(old, arch, make), _abilities(new, arch, make)
        held = [row for row in combinations() if after.keys() >= {*row.parts} and not before.keys() >= {*row.parts}]
        for row in _widest(held):
            lacked = {name for part in row.parts if part not in before for name in _written(new, arch, after[part])}
            others = {after[part][0] for part in row.parts if part in before} - lacked
            found.append(Combined(arch, row, (*sorted(lacked), *sorted(others)), len(lacked)))
    return tuple(sorted(_each_once(found), key=lambda one: -one.row.level.rank))


def _each_once(found: list[Combined]) -> tuple[Combined, ...]:
    """Return one for each row: what holds on several architectures is told of the first."""
    return tuple({one.row: one for one in reversed(found)}.values())[::-1]


def _written(policy: Policy, arch: Arch, names: tuple[str, ...]) -> tuple[str, ...]:
    """Return those that the policy has entries for, where it has any: the others are implied by what these grant."""
    return tuple(name for name in names if table(arch).by_name[name].number in policy.entries[arch]) or names


def listed(names: Sequence[str]) -> str:
    """Return `a`, `a and b`, `a, b and c`."""
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def _widest(rows: list[Combination]) -> list[Combination]:
    return [row for row in rows if not any({*row.parts} < {*other.parts} for other in rows)]


def _abilities(policy: Policy, arch: Arch, make: Callable[[], Space]) -> dict[str, tuple[str, ...]]:
    """Return what the policy, with its implied set, is able to do, and by which calls."""
    found: dict[str, tuple[str, ...]] = {}
    for row in abilities():
        names = tuple(name for name in row.calls if _allows(policy, row, arch, name, make))
        if names:
            found[row.id] = (*found.get(row.id, ()), *names)
    return found


def _allows(policy: Policy, row: Ability, arch: Arch, name: str, make: Callable[[], Space]) -> bool:
    call = table(arch).by_name.get(name)
    if call is None or arch not in policy.entries:
        return False
    sets = make()
    try:
        allowed = FALSE
        for where, action in answers(sets, policy, arch, call.number):
            if action.lets_run:
                allowed = sets.either(allowed, where)
        if allowed == FALSE or not row.free:
            return granted(sets, row, arch, call.number, allowed) != FALSE
    except TooComplexError:
        return True  # a warning too many is better than one too few
    entry = expanded(policy).entries[arch].get(call.number, Entry(Always(True)))
    return any(leaves_free(part, row, arch, call.number) for part in alternatives(entry.expression))
