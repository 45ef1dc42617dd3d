"""The processors that a program has while it is learned: one that it shares with the tracer, and all if it computes."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from harness import LEARN, LOADS, Figure, Section, alternate, compiled, load, scratch, table, timed
from programs.workloads import WORKLOADS

if TYPE_CHECKING:
    from pathlib import Path

    from harness import Words

TITLE = "processors"
ROUNDS = 3
STEPS = 4_000
"""Millions, in each thread: seconds, of which a tenth of one, learn's own start and end, is little."""
GOAL = 1.05
WHY = """\
Why it is more: each thread makes a call for every million steps, some 600 a second, and each of these stops takes a processor
from a thread that computes, for the tracer. Learn's own start and end take a tenth of a second.
"""
CHOSEN = ("dd", "400 short processes", "two processes and a pipe", "8 threads", "60 commits", "a test run")
APART = """
import sys
from callfence.tracer.processor import SharedProcessor
SharedProcessor.pin = lambda self, task: None
from callfence.cli import learn
learn()
"""
SHARING = """\
A first learn with the tracer and the tasks that stop often on one processor (tracer/processor.py), and with each where the
kernel puts it. A stop is 3 us where they share one, and 50 to 100 us where the kernel has to wake another. With the late filter
it matters to what starts processes or makes few calls; a process with its filter seldom stops.
"""


def section() -> Section:
    """The measurements."""
    parallel, figure = _parallel()
    return Section(f"### Shared with the tracer\n\n{SHARING}\n{_sharing()}\n### Computing in parallel\n\n{parallel}", (figure,))


def _sharing() -> str:
    rows = []
    for workload in WORKLOADS:
        if not any(name in workload.name for name in CHOSEN):
            continue
        for kind in LOADS:
            with scratch() as folder, load(kind):
                if workload.prepare:
                    timed(workload.prepare, folder)()
                spreads = alternate(
                    {name: timed(_learn(name, folder, workload.words), folder) for name in ("shared", "apart")}, ROUNDS
                )
            shared, apart = spreads["shared"], spreads["apart"]
            ratio = f"{apart.median / shared.median:.2f}"
            rows.append([f"{workload.name}, {kind}", shared.milliseconds(), apart.milliseconds(), ratio])
    return table(("ms", "shared", "apart", "apart / shared"), rows)


def _learn(name: str, folder: Path, words: Words) -> Words:
    start = (sys.executable, "-c", APART if name == "apart" else "from callfence.cli import learn; learn()")
    return (*start, "-q", "--fresh", "-o", folder / f"{name}.policy", "--", *words)


def _parallel() -> tuple[str, Figure]:
    with scratch() as folder:
        threads = str(os.cpu_count() or 1)
        words = (compiled("compute.c", folder, "-pthread"), threads, str(STEPS))
        spread = alternate(
            {
                "native": timed(words, folder),
                "strace": timed(["strace", "-f", "-o", "/dev/null", *words], folder),
                "first learn": timed([LEARN, "--fresh", "-q", "-o", "b.policy", "--", *words], folder),
            },
            ROUNDS,
        )
    native, learn = spread["native"].median, spread["first learn"].median
    rows = [(name, one.milliseconds()) for name, one in spread.items()]
    text = (
        f"{threads} threads of {STEPS:,} million steps; median of {ROUNDS} (least-most).\n\n{table(('', 'ms'), rows)}\n"
        f"{WHY if learn / native > GOAL else ''}"
    )
    return text, Figure("computing in parallel: first learn / native", GOAL, learn / native)


if __name__ == "__main__":
    print(section().text)
