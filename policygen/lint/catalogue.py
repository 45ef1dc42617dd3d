"""Read the catalogues of dangerous calls (lint.tsv), dangerous combinations (combinations.tsv) and other checks (checks.tsv);
and decide which calls a row selects, and which combinations a policy allows.

The tables are read on first use.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from enum import StrEnum
from functools import cache

from callfence.policygen.evaluate import answers
from callfence.policygen.implied.resolve import resolved
from callfence.policygen.language.document import newest_table, parse
from callfence.policygen.model import Always, Expression, Policy
from callfence.policygen.sets.algebra import FALSE, Space, TooComplexError
from callfence.policygen.sets.region import BITS, shift, space, to_bdd
from callfence.policygen.values import frozen
from callfence.tracer.abi import Arch, name_of, table
from callfence.tracer.abi.constants import table_rows


class Level(StrEnum):
    """How serious a finding is; ascending in this order."""

    NOTE = "note"
    """Information for a reviewer."""
    WARNING = "warning"
    """A grant that few programs need."""
    DANGER = "danger"
    """A grant that allows escaping the policy or reaching kernel attack surface."""

    @property
    def rank(self) -> int:
        return list(Level).index(self)


@frozen
class Danger:
    """One row: the grants that it matches, and what lint says about them."""

    id: str
    """Stable, since other tools store it."""
    level: Level
    calls: tuple[str, ...]
    """Names of calls (an architecture may lack some), or the word of a setting."""
    where: str
    """The condition, in the policy language, that selects the calls; '' selects all calls."""
    free: str
    """Name of the argument that matching rules leave free; '' if `where` selects the calls."""
    grants: str
    """What the program may do, as the end of a sentence that begins with `it`."""
    why: str
    """Why the grant is dangerous."""
    safer: str
    source: str
    """The manual page or header that documents it."""


@frozen
class Ability:
    """One way in which a policy grants a part of a combination."""

    id: str
    """The ability's name; rows with the same id are different ways to the same ability."""
    calls: tuple[str, ...]
    where: str
    free: str


@frozen
class Combination:
    """A row of combinations.tsv: abilities that are dangerous together."""

    id: str
    """Stable, since other tools store it."""
    level: Level
    parts: tuple[str, ...]
    """Ids of the abilities, all of which are needed."""
    grants: str
    """What the abilities make possible, as the end of a sentence that begins with `it`."""
    why: str
    safer: str
    """What to do so that the combination no longer holds."""
    source: str


@cache
def dangers() -> tuple[Danger, ...]:
    """Return the rows of lint.tsv, in the file's order."""
    return tuple(
        Danger(name, Level(level), tuple(calls.split(",")), *_selection(where), *rest)
        for name, level, calls, where, *rest in table_rows(__spec__, "lint.tsv")
    )


@cache
def combinations() -> tuple[Combination, ...]:
    """Return the combinations, in the file's order."""
    return tuple(
        Combination(name, Level(level), tuple(parts.split(", ")), *rest)
        for name, level, parts, *rest in table_rows(__spec__, "combinations.tsv")
    )


@cache
def abilities() -> tuple[Ability, ...]:
    """Return the rows of abilities.tsv, in the file's order."""
    return tuple(
        Ability(name, tuple(calls.split(",")), *_selection(where))
        for name, calls, where in table_rows(__spec__, "abilities.tsv")
    )


def _selection(where: str) -> tuple[str, str]:
    """Return the fields `where` and `free` that a cell stands for: `any ARGUMENT` is a free argument."""
    free = where.removeprefix("any ") if where.startswith("any ") else ""
    return ("" if free else where), free


@cache
def of_call(arch: Arch, number: int) -> tuple[Danger, ...]:
    """Return the rows of lint.tsv for a call."""
    name = name_of(arch, number)
    return tuple(danger for danger in dangers() if name in danger.calls)


def of_setting(word: str) -> Danger:
    """Return the row of lint.tsv for a setting that allows calls."""
    return next(danger for danger in dangers() if danger.calls == (word,))


@cache
def check(name: str) -> Danger:
    """Return the row of checks.tsv with the texts of a check of the linter; it selects no calls."""
    rows = {row[0]: row for row in table_rows(__spec__, "checks.tsv")}
    id_, level, *rest = rows[name]
    return Danger(id_, Level(level), (), "", "", *rest)


Selects = Danger | Ability
"""A row with `where` and `free`."""


@cache
def region_of(row: Selects, arch: Arch, number: int) -> Expression:
    """Return the expression for the calls of that number that the row selects; all calls for a row with a free argument.  All
    calls, too, if the architecture passes the row's arguments in memory (the first mmap of i386)."""
    call = table(arch).by_number[number]
    name = call.name
    compared = {argument.name for argument in call.arguments if not argument.kind.is_pointer}
    if compared.isdisjoint(re.findall(r"\w+", row.where)):
        return Always(True)
    text = f"arch {arch}\n{newest_table()}{name}: {row.where}\n"
    return parse(text, f"row {row.id}").policy.entries[arch][number].expression


def granted(sets: Space, row: Selects, arch: Arch, number: int, allowed: int) -> int:
    """Return the part of a set of calls that the row selects; not for rows with a free argument."""
    return sets.and_(to_bdd(sets, region_of(row, arch, number), table(arch).by_number[number].arguments), allowed)


def leaves_free(sets: Space, where: int, row: Selects, arch: Arch, number: int) -> bool:
    """Return whether a set of calls has more than a quarter of all values of the row's argument: `pid != 1` constrains it
    hardly more than `allow`.  Raises TooComplexError."""
    arguments = table(arch).by_number[number].arguments
    index = next(i for i, argument in enumerate(arguments) if argument.name == row.free)
    others = (1 << BITS) - 1 & ~(arguments[index].mask << shift(index))
    return sets.share(sets.invert(sets.always(sets.invert(where), others))) > _WIDE_SHARE


_WIDE_SHARE = 0.25


@frozen
class Combined:
    """A combination that holds for a policy."""

    arch: Arch
    row: Combination
    calls: tuple[str, ...]
    """The calls that take part: first those that the old policy lacks, if there is an old policy, then one for each other part;
    each group by name."""
    new: int = 0
    """Number of calls, from the first, that the old policy lacks."""
    able: tuple[str, ...] = ()
    """All calls by which the policy has one of the parts, if there is no old policy."""


def combined(policy: Policy, make: Callable[[], Space] = space) -> tuple[Combined, ...]:
    """Return the combinations that hold for a policy, in the catalogue's order; () if its default allows calls, so that all
    would hold.  A combination whose parts are all parts of another that holds is left out.  `make` creates the spaces."""
    result = []
    for arch in policy.entries if not policy.default.allows else ():
        able_to = _abilities(policy, arch, make)
        held = [row for row in combinations() if able_to.keys() >= {*row.parts}]
        for row in _widest(held):
            every = tuple(dict.fromkeys(name for part in row.parts for name in able_to[part]))
            result.append(Combined(arch, row, tuple(sorted({able_to[part][0] for part in row.parts})), able=every))
    return _each_once(result)


def able(policy: Policy) -> frozenset[str]:
    """Return the ids of the abilities that the policy, with its implied set, has."""
    return frozenset(name for arch in policy.entries for name in _abilities(policy, arch, space))


def completed(old: Policy, new: Policy, make: Callable[[], Space] = space) -> tuple[Combined, ...]:
    """Return the combinations that hold for the new policy and not for the old one, the most dangerous first."""
    if new.default.allows:
        return ()
    result = []
    for arch in new.entries:
        before, after = _abilities(old, arch, make, if_complex=False), _abilities(new, arch, make)
        held = [row for row in combinations() if after.keys() >= {*row.parts} and not before.keys() >= {*row.parts}]
        for row in _widest(held):
            lacked = {name for part in row.parts if part not in before for name in _written(new, arch, after[part])}
            others = {after[part][0] for part in row.parts if part in before} - lacked
            result.append(Combined(arch, row, (*sorted(lacked), *sorted(others)), len(lacked)))
    return tuple(sorted(_each_once(result), key=lambda combination: -combination.row.level.rank))


def _each_once(combinations_held: list[Combined]) -> tuple[Combined, ...]:
    """Return one result for each row: a combination that holds on several architectures is reported for the first."""
    return tuple({combination.row: combination for combination in reversed(combinations_held)}.values())[::-1]


def _written(policy: Policy, arch: Arch, names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names that the policy has entries for; all names if for none.  Other calls are implied by these."""
    return tuple(name for name in names if table(arch).by_name[name].number in policy.entries[arch]) or names


def listed(names: Sequence[str]) -> str:
    """Return `a`, `a and b`, `a, b and c`."""
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def _widest(rows: list[Combination]) -> list[Combination]:
    return [row for row in rows if not any({*row.parts} < {*wider.parts} for wider in rows)]


def _abilities(
    policy: Policy, arch: Arch, make: Callable[[], Space], *, if_complex: bool = True
) -> dict[str, tuple[str, ...]]:
    """Return ability -> names of the calls by which the policy, with its implied set, has it.  `if_complex`: whether it has it
    where that is too complex to be judged; a warning too many is better than one too few."""
    result: dict[str, tuple[str, ...]] = {}
    for row in abilities():
        names = tuple(name for name in row.calls if _allows(policy, row, arch, name, make, if_complex=if_complex))
        if names:
            result[row.id] = (*result.get(row.id, ()), *names)
    return result


def _allows(policy: Policy, row: Ability, arch: Arch, name: str, make: Callable[[], Space], *, if_complex: bool) -> bool:
    call = table(arch).by_name.get(name)
    if call is None or arch not in policy.entries:
        return False
    sets = make()
    try:
        answered = answers(sets, resolved(policy), arch, call.number)
        allowed = sets.union(where for where, action in answered if action.allows)
        if allowed == FALSE or not row.free:
            return granted(sets, row, arch, call.number, allowed) != FALSE
        return leaves_free(sets, allowed, row, arch, call.number)
    except TooComplexError:
        return if_complex
