"""A comparison in plain text: the verdict, the gravest risks, then each difference with its example."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

from callfence.judging.diff_short import short
from callfence.judging.differences import SAYS, difference_lines, risks
from policygen.sets.compare import Change, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from policygen.review.risk import Ranked
    from policygen.sets.compare import Comparison

MANY_RISKS = 4
"""Risks that the text names; other formats name all."""
MANY_LINES = 15
"""What a reviewer reads in a minute."""


def as_text(comparison: Comparison, differences: Sequence[Ranked], *, full: bool = False) -> Iterator[str]:
    """The comparison in plain text: the verdict, the gravest risks, then each difference with its example.

    More than `MANY_LINES` are abbreviated (see diff_short), unless `full`.
    """
    head = [*_head(comparison, differences)]
    yield from head
    by_arch = [(arch, [*those]) for arch, those in groupby(differences, key=lambda one: one.difference.arch)]
    details = [line for one in differences for line in difference_lines(one.difference)]
    if not full and len(head) + len(by_arch) + len(details) > MANY_LINES:
        room = (MANY_LINES - len(head) - 1) // len(by_arch) - 1
        for arch, those in by_arch:
            yield f"arch {arch}"
            yield from short(those, room)
        yield "--full shows each with its rules and an example"
        return
    for arch, those in by_arch:
        yield f"arch {arch}"
        for one in those:
            yield from difference_lines(one.difference)


def _head(comparison: Comparison, differences: Sequence[Ranked]) -> Iterator[str]:
    if comparison.verdict is not Verdict.EQUAL:
        yield f"{comparison.verdict}: {SAYS[comparison.verdict]}"
    elif comparison.differences:
        yield "equal: both allow the same calls, but some are answered differently"
    else:
        yield "equal: both answer every call alike"
    yield from _risks(differences)
    before, after = comparison.arms
    if before != after:
        yield f"arm {before} -> {after}"


def _risks(differences: Sequence[Ranked]) -> Iterator[str]:
    found = risks(differences)
    for row, names in found[:MANY_RISKS]:
        yield f"{row.level}: {', '.join(names)}: it newly {row.grants} [{row.id}]"
    if len(found) > MANY_RISKS:
        yield f"... and {len(found) - MANY_RISKS} risks more"
    if not found and any(one.difference.change is Change.MORE for one in differences):
        yield "no known risk became possible"


