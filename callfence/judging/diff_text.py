"""A comparison in plain text: the verdict and what is gravest, the risks, then each difference with its example."""

from __future__ import annotations

import textwrap
from itertools import groupby
from typing import TYPE_CHECKING

from callfence.judging.diff_short import WIDTH, short
from callfence.judging.differences import difference_lines, headline, idle_names, idle_says, risks, said_first
from policygen.comparing.compare import Change

if TYPE_CHECKING:
    from collections.abc import Iterator

    from policygen.review.judgement import Judgement

MANY_RISKS = 4
"""Risks that the text names; other formats name all."""
MANY_LINES = 15
"""What a reviewer reads in a minute."""


def as_text(judgement: Judgement, *, full: bool = False) -> Iterator[str]:
    """The comparison in plain text: the verdict, the gravest risks, then each difference with its example.

    More than `MANY_LINES` are abbreviated (see diff_short), and what grants nothing takes one line, unless `full`.
    """
    head = [*_head(judgement)]
    yield from head
    told = judgement.differences if full else judgement.told
    by_arch = [(arch, [*those]) for arch, those in groupby(told, key=lambda one: one.difference.arch)]
    details = [line for one in told for line in difference_lines(one.difference)]
    idle = [] if full else [*idle_lines(judgement)]
    if not full and len(head) + len(by_arch) + len(details) + len(idle) > MANY_LINES:
        room = (MANY_LINES - len(head) - len(idle) - 1) // max(1, len(by_arch)) - 1
        for arch, those in by_arch:
            yield f"arch {arch}"
            yield from short(those, room)
        yield from idle
        yield "--full shows each with its rules and an example"
        return
    for arch, those in by_arch:
        yield f"arch {arch}"
        for one in those:
            yield from difference_lines(one.difference)
    yield from idle


def _head(judgement: Judgement) -> Iterator[str]:
    yield f"{judgement.comparison.verdict}: {said_first(judgement)}"
    for one in judgement.headlines[1:]:
        yield headline(judgement, one)
    found = risks(judgement)
    for row, names, reason in found[:MANY_RISKS]:
        yield f"{row.level}: {', '.join(names)}: it newly {row.grants} [{row.id}]{f'; {reason}' if reason else ''}"
    if len(found) > MANY_RISKS:
        yield f"... and {len(found) - MANY_RISKS} more risks"
    more = any(one.difference.change is Change.MORE for one in judgement.differences)
    if more and not found and not judgement.headlines:
        yield "no known risk became possible"


def idle_lines(judgement: Judgement) -> Iterator[str]:
    """One line for each kind of change: as many names as fit."""
    for change in Change:
        names = idle_names(judgement, change)
        if names:
            line = f"{change.value} {idle_says(change, names)}: {', '.join(names)}"
            yield textwrap.shorten(line, WIDTH, placeholder=" ...", break_on_hyphens=False)
