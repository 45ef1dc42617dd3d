"""What it is worth that the tracer and the tasks that stop often share a processor (tracer/processor.py)."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from harness import LOADS, Section, alternate, load, scratch, table, timed
from workloads import WORKLOADS

if TYPE_CHECKING:
    from pathlib import Path

    from harness import Words

TITLE = "sharing a processor"
ROUNDS = 3
CHOSEN = ("dd", "400 short processes", "two processes and a pipe", "8 threads", "60 commits", "a test run")
APART = """
import sys
from tracer.processor import SharedProcessor
SharedProcessor.pin = lambda self, task: None
from callfence.cli import learn
learn()
"""
WHY = """\
A first learn with the tracer and the tasks that stop often on one processor, and with each where the kernel puts it. A stop is
3 us where they share one, and 50 to 100 us where the kernel has to wake another. With the late filter it matters to what starts
processes or makes few calls; a process with its filter seldom stops.
"""


def section() -> Section:
    """The measurements."""
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
    return Section(f"{WHY}\n{table(('ms', 'shared', 'apart', 'apart / shared'), rows)}")


def _learn(name: str, folder: Path, words: Words) -> Words:
    start = (sys.executable, "-c", APART if name == "apart" else "from callfence.cli import learn; learn()")
    return (*start, "-q", "--fresh", "-o", folder / f"{name}.policy", "--", *words)


if __name__ == "__main__":
    print(section().text)
