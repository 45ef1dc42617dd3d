"""The catalogue of what a policy may allow and a reviewer wants to know of: lint.tsv, read on first use."""

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
    """How much a finding matters; ascending in this order."""

    NOTE = "note"
    """What a reviewer may want to know."""
    WARNING = "warning"
    """What few programs need."""
    DANGER = "danger"
    """A way out of the policy, or into the kernel."""

    @property
    def rank(self) -> int:
        return list(Level).index(self)


@dataclass(frozen=True, slots=True)
class Danger:
    """One row: what is matched, and what is said of it."""

    id: str
    """Stable: other tools keep it."""
    level: Level
    calls: tuple[str, ...]
    """Names of calls, of which an architecture need not have all; or the word of a setting."""
    where: str
    """Which of the calls, as a condition of the policy language; '' is all of them."""
    free: str
    """The argument that a rule leaves free; '' where `where` says which calls."""
    grants: str
    """What the program may do: follows `it` in a sentence."""
    why: str
    """Why it matters."""
    safer: str
    source: str
    """Manual page or header."""


@cache
def dangers() -> tuple[Danger, ...]:
    """The rows, in the catalogue's order."""
    lines = Path(__file__).with_name("lint.tsv").read_text("utf-8").splitlines()
    return tuple(_danger(*line.split("\t")) for line in [line for line in lines if not line.startswith("#")][1:])


def _danger(name: str, level: str, calls: str, where: str, grants: str, why: str, safer: str, source: str) -> Danger:
    free = where.removeprefix("any ") if where.startswith("any ") else ""
    return Danger(name, Level(level), tuple(calls.split(",")), "" if free else where, free, grants, why, safer, source)


@cache
def of_call(arch: Arch, number: int) -> tuple[Danger, ...]:
    """The rows about a call."""
    name = table(arch).by_number[number].name
    return tuple(danger for danger in dangers() if name in danger.calls)


def of_setting(word: str) -> Danger:
    """The row about a setting that allows."""
    return next(danger for danger in dangers() if danger.calls == (word,))


@cache
def region_of(danger: Danger, arch: Arch, number: int) -> Expression:
    """Which of the calls of that number the row is about; for a row about a free argument, all.

    All as well where the architecture has the row's arguments behind a pointer: i386's first mmap.
    """
    call = table(arch).by_number[number]
    name = call.name
    compared = {argument.name for argument in call.arguments if not argument.kind.is_pointer}
    if compared.isdisjoint(re.findall(r"\w+", danger.where)):
        return Always(True)
    text = f"arch {arch}\n{name}: {danger.where}\n"
    return parse(text, f"lint.tsv, {danger.id}").policy.entries[arch][number].expression
