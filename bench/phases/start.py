"""What phases add to a start, to the calls before the trigger, and to those after it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import servers
from harness import ENFORCE, Figure, Section, alternate, compiled, run, scratch, table

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

STARTS = 20
BEFORE, AFTER = 2000, 100_000
"""Calls that the program makes before the trigger, and after it."""
START, CALL = 3, 20
"""The goals: milliseconds, microseconds."""
ENTRIES = "mmap: allow{}\nmprotect: allow\nreadlinkat: allow\n"


def section() -> Section:
    with scratch() as folder:
        program = compiled("phases/calls.c", folder, "-static")
        (folder / "with.policy").write_text("implied 1\nphase serving after poll\n" + ENTRIES.format(" until serving"))
        (folder / "without.policy").write_text("implied 1\n" + ENTRIES.format(""))
        least = _starts(program, folder)
        calls = _calls(program, folder)
    more = [least["with", count] - least["without", count] for count in (0, BEFORE)]
    rows = [(policy, *(f"{least[policy, count]:.1f}" for count in (0, BEFORE))) for policy in ("without", "with")]
    text = (
        f"Starting a program without a library that makes no further call, or {BEFORE:,}, and then the trigger: least of "
        f"{STARTS}, in ms.\n\n{table(('phases', 'no call', f'{BEFORE:,} calls'), rows)}\n"
        f"A call after the trigger, least of {STARTS}, in ns.\n\n"
        + table(("phases", "getppid", "fcntl, whose argument the filter compares"), calls)
    )
    return Section(
        text,
        (
            Figure("a start with phases beyond one without", START, more[0], " ms"),
            Figure("each call before the trigger", CALL, (more[1] - more[0]) * 1e3 / BEFORE, " us"),
        ),
    )


def _starts(program: Path, folder: Path) -> dict[tuple[str, int], float]:
    """Milliseconds, by policy and number of calls."""

    def start(policy: str, count: int) -> Callable[[], float]:
        words = (ENFORCE, "-p", f"{policy}.policy", "--", program, str(count))
        return lambda: run(words, folder).seconds

    sides = {f"{policy} {count}": (policy, count) for policy in ("without", "with") for count in (0, BEFORE)}
    found = alternate({name: start(*side) for name, side in sides.items()}, STARTS)
    return {sides[name]: one.least * 1e3 for name, one in found.items()}


def _calls(program: Path, folder: Path) -> list[tuple[str, ...]]:
    found: dict[str, list[list[float]]] = {"without": [], "with": []}
    for _ in range(STARTS):
        for policy, times in found.items():
            words = (ENFORCE, "-p", folder / f"{policy}.policy", "--", program, "0", str(AFTER))
            times.append([float(word) for word in servers.said(words).split()])
    return [(name, *(f"{min(column):.0f}" for column in zip(*times, strict=True))) for name, times in found.items()]
