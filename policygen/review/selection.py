"""Which calls a row of the catalogue selects."""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING

from policygen.language.document import parse
from policygen.learning.extend import constrained
from policygen.model import Always
from policygen.review.catalogue import Ability, Danger
from policygen.sets.region import truth
from tracer.abi import Arch, table

if TYPE_CHECKING:
    from policygen.model import Expression
    from policygen.sets.algebra import Space

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
