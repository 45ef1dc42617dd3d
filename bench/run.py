"""All benchmarks: `python bench/run.py [FILE]` prints them, or writes FILE.  A new one is a module in `BENCHMARKS`."""

from __future__ import annotations

import sys
from pathlib import Path

import enforce
import learn_vs_strace
import memory
import proof
from harness import machine

BENCHMARKS = (learn_vs_strace, memory, enforce, proof)


def main(arguments: list[str]) -> None:
    text = f"# Benchmarks\n\nWritten by `make bench` on {machine()}.\n"
    for benchmark in BENCHMARKS:
        print(f"bench: {benchmark.TITLE} ...", file=sys.stderr)
        text += f"\n## {benchmark.TITLE}\n\n{benchmark.section()}"
    if arguments:
        Path(arguments[0]).write_text(text)
    else:
        print(text)


if __name__ == "__main__":
    main(sys.argv[1:])
