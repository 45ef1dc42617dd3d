"""All benchmarks: `python bench/run.py [FILE]` prints them, or writes FILE.  A new one is a module in `BENCHMARKS`."""

from __future__ import annotations

import sys
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
from harness import Figure, machine, table

BENCHMARKS = (
    *(learning, starts, stop, processors, servers, memory, values, evidence),
    *(enforce, spawning, phases, files, hosts, filter_cost, proof, recordings),
)


def main(arguments: list[str]) -> None:
    written = f"Written by `make bench` on {machine()}."
    text, figures = "", list[Figure]()
    for benchmark in BENCHMARKS:
        print(f"bench: {benchmark.TITLE} ...", file=sys.stderr)
        section = benchmark.section()
        text += f"\n## {benchmark.TITLE}\n\n{section.text}"
        figures += section.figures
    goals = table(("figure", "goal", "measured", "kept"), [figure.row() for figure in figures])
    page = f"# Benchmarks\n\n{written}\n\n## The goals\n\n{goals}{text}"
    if arguments:
        Path(arguments[0]).write_text(page)
    else:
        print(page)


if __name__ == "__main__":
    main(sys.argv[1:])
