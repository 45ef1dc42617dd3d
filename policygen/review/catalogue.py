"""The catalogue of dangerous grants, lint.tsv, read on first use."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from policygen.language.document import parse
from policygen.model import Always
from tracer.abi import Arch, table

if TYPE_CHECKING:
    from policygen.model import Expression


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


@dataclass(frozen=True, slots=True)
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


@cache
def dangers() -> tuple[Danger, ...]:
    """Return the rows, in the catalogue's order."""
    lines = Path(__file__).with_name("lint.tsv").read_text("utf-8").splitlines()
    return tuple(_danger(*line.split("\t")) for line in [line for line in lines if not line.startswith("#")][1:])


def _danger(name: str, level: str, calls: str, where: str, grants: str, why: str, safer: str, source: str) -> Danger:
    free = where.removeprefix("any ") if where.startswith("any ") else ""
    return Danger(name, Level(level), tuple(calls.split(",")), "" if free else where, free, grants, why, safer, source)


@cache
def of_call(arch: Arch, number: int) -> tuple[Danger, ...]:
    """Return the rows about a call."""
    name = table(arch).by_number[number].name
    return tuple(danger for danger in dangers() if name in danger.calls)


def of_setting(word: str) -> Danger:
    """Return the row about a setting that allows calls."""
    return next(danger for danger in dangers() if danger.calls == (word,))


@cache
def region_of(danger: Danger, arch: Arch, number: int) -> Expression:
    """Return the expression of the calls, of that number, that the row is about; for a row about a free argument, all.

    All, too, if the architecture passes the row's arguments in memory: i386's first mmap.
    """
    call = table(arch).by_number[number]
    name = call.name
    compared = {argument.name for argument in call.arguments if not argument.kind.is_pointer}
    if compared.isdisjoint(re.findall(r"\w+", danger.where)):
        return Always(True)
    text = f"arch {arch}\n{name}: {danger.where}\n"
    return parse(text, f"lint.tsv, {danger.id}").policy.entries[arch][number].expression
