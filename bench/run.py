"""All benchmarks: `run.py [FILE [MODULE ...]]` prints them, or writes FILE; only the sections of modules that are named change.

A new one is a module in `BENCHMARKS`.
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path

import enforce
import evidence
import files
import filter_cost
import hosts
import learning
import memory
import phases
import processors
import proof
import recordings
import servers
import spawning
import starts
import stop
import values
from harness import machine, table

BENCHMARKS = (
    *(learning, starts, stop, processors, servers, memory, values, evidence),
    *(enforce, spawning, phases, files, hosts, filter_cost, proof, recordings),
)


_GOALS = "The goals"


def main(arguments: list[str]) -> None:
    names = arguments[1:]
    if unknown := {*names} - {benchmark.__name__ for benchmark in BENCHMARKS}:
        sys.exit(f"run.py: no benchmark is named {', '.join(sorted(unknown))}")
    page = _read(Path(arguments[0])) if names else {}
    goals = {row[0]: row for row in _cells(page.pop(_GOALS, ""))}
    for benchmark in BENCHMARKS:
        if names and benchmark.__name__ not in names:
            continue
        print(f"bench: {benchmark.TITLE} ...", file=sys.stderr)
        where = f"Measured {datetime.now(UTC):%Y-%m-%d} on {machine()}."
        section = benchmark.section()
        page[benchmark.TITLE] = f"{where}\n\n{section.text}"
        goals |= {figure.name: figure.row() for figure in section.figures}
    sections = {_GOALS: table(("figure", "goal", "measured", "kept"), [*goals.values()]), **page}
    text = "# Benchmarks\n\nWritten by `make bench`.\n" + "".join(f"\n## {title}\n\n{part}" for title, part in sections.items())
    if arguments:
        Path(arguments[0]).write_text(text)
    else:
        print(text)


def _read(path: Path) -> dict[str, str]:
    """Return the text of each section of a page, by its title."""
    _, *parts = path.read_text().split("\n## ")
    return dict(part.split("\n\n", 1) for part in parts)


def _cells(section: str) -> list[tuple[str, ...]]:
    """Return the cells of each row of the table of goals."""
    return [tuple(line.strip("| ").split(" | ")) for line in section.splitlines()[2:] if line.startswith("|")]


if __name__ == "__main__":
    main(sys.argv[1:])
