"""The catalogue of what is dangerous, lint.tsv, and of what is dangerous together, combinations.tsv; which calls a row selects.

The tables are read on first use.
"""

from __future__ import annotations

import re
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from policygen.language.document import parse
from policygen.model import Always, constrained
from policygen.sets.region import truth
from policygen.values import frozen
from tracer.abi import Arch, table

if TYPE_CHECKING:
    from policygen.model import Expression
    from policygen.sets.algebra import Space


class Level(StrEnum):
    """How serious a finding is; ascending in this order."""

    NOTE = "note"
    """Information for a reviewer."""
    WARNING = "warning"
    """A grant that few programs need."""
    DANGER = "danger"
    """A way out of the policy, or into the kernel."""

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
    """Condition, in the policy language, that selects the calls; '' selects all of them."""
    free: str
    """Name of the argument that matching rules leave free; '' where `where` selects the calls."""
    grants: str
    """What the program may do: follows `it` in a sentence."""
    why: str
    """Why that is dangerous."""
    safer: str
    source: str
    """Manual page or header."""


TOO_COMPLEX = Danger(
    "too-complex",
    Level.DANGER,
    (),
    "",
    "",
    "has conditions that are too complex to be judged",
    "what cannot be judged has not been reviewed: they may allow anything",
    "fewer arguments in one rule, or fewer rules",
    "docs/review.md",
)
"""Of what takes more work to judge than a judgement may take.  Nothing accepts it."""


@frozen
class Ability:
    """One way to do a part of a combination."""

    id: str
    """Several rows with the same id are different ways to do the same."""
    calls: tuple[str, ...]
    where: str
    free: str


@frozen
class Combination:
    """Abilities that are dangerous together."""

    id: str
    """Stable, since other tools store it."""
    level: Level
    parts: tuple[str, ...]
    """Ids of abilities; all are needed."""
    grants: str
    """What they make possible: follows `it` in a sentence."""
    why: str
    safer: str
    """What breaks the chain."""
    source: str


@cache
def dangers() -> tuple[Danger, ...]:
    """Return the rows, in the catalogue's order."""
    return tuple(
        Danger(name, Level(level), tuple(calls.split(",")), *_selection(where), *rest)
        for name, level, calls, where, *rest in _lines("lint.tsv")
    )


@cache
def combinations() -> tuple[Combination, ...]:
    """Return the combinations, in the file's order."""
    return tuple(
        Combination(name, Level(level), tuple(parts.split(", ")), *rest)
        for name, level, parts, *rest in _lines("combinations.tsv")
    )


@cache
def abilities() -> tuple[Ability, ...]:
    """Return the abilities that combinations are made of, in the file's order."""
    return tuple(
        Ability(name, tuple(calls.split(",")), *_selection(where)) for name, calls, where in _lines("abilities.tsv")
    )


def _lines(name: str) -> list[list[str]]:
    """Return the cells of each row, without comments and the heading."""
    lines = Path(__file__).with_name(name).read_text("utf-8").splitlines()
    return [line.split("\t") for line in lines if not line.startswith("#")][1:]


def _selection(where: str) -> tuple[str, str]:
    """Return a cell as the fields `where` and `free`."""
    free = where.removeprefix("any ") if where.startswith("any ") else ""
    return ("" if free else where), free


@cache
def of_call(arch: Arch, number: int) -> tuple[Danger, ...]:
    """Return the rows about a call."""
    name = table(arch).by_number[number].name
    return tuple(danger for danger in dangers() if name in danger.calls)


def of_setting(word: str) -> Danger:
    """Return the row about a setting that allows calls."""
    return next(danger for danger in dangers() if danger.calls == (word,))


Selects = Danger | Ability
"""A row with `where` and `free`."""


@cache
def region_of(row: Selects, arch: Arch, number: int) -> Expression:
    """Return the expression of the calls, of that number, that the row is about; for a row about a free argument, all.

    All, too, if the architecture passes the row's arguments in memory: i386's first mmap.
    """
    call = table(arch).by_number[number]
    name = call.name
    compared = {argument.name for argument in call.arguments if not argument.kind.is_pointer}
    if compared.isdisjoint(re.findall(r"\w+", row.where)):
        return Always(True)
    text = f"arch {arch}\n{name}: {row.where}\n"
    return parse(text, f"row {row.id}").policy.entries[arch][number].expression


def granted(sets: Space, row: Selects, arch: Arch, number: int, allowed: int) -> int:
    """Return the part of a set of calls that the row is about.  Not for rows about a free argument."""
    arguments = table(arch).by_number[number].arguments
    return sets.both(truth(sets, region_of(row, arch, number), arguments), allowed)


def leaves_free(rule: Expression, row: Selects, arch: Arch, number: int) -> bool:
    """Whether a rule leaves the argument that the row is about unconstrained."""
    arguments = table(arch).by_number[number].arguments
    return next(i for i, argument in enumerate(arguments) if argument.name == row.free) not in constrained(rule)
