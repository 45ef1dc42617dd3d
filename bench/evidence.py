"""The share of evidence in the processor time of a first learn, counted within each run, so that other load matters little."""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from typing import Any

from harness import Figure, Section, require, run, scratch, table
from programs.workloads import WORKLOADS

TITLE = "Evidence"
ROUNDS = 5
MOST = 3
"""Per cent."""
COUNTED = "--counted"


def section() -> Section:
    """The measurements."""
    require(*(name for workload in WORKLOADS for name in workload.needs))
    rows, shares = [], []
    for workload in WORKLOADS:
        with scratch() as folder:
            if workload.prepare:
                run(workload.prepare, folder)
            for _ in range(ROUNDS):
                run([sys.executable, __file__, COUNTED, folder / "counted", *workload.words], folder)
            counted = map(json.loads, (folder / "counted").read_text().splitlines())
            part, whole = min(counted, key=lambda one: one[0] / one[1])
        shares.append(100 * part / whole)
        rows.append([workload.name, f"{part * 1e3:.1f}", f"{whole * 1e3:.0f}", f"{shares[-1]:.1f}"])
    text = (
        f"Milliseconds of processor time, of the run of {ROUNDS} with the least share: following pointers and\n"
        "loading what does that, of all that `learn` and the program take.  A run in which nothing is new does neither.\n\n"
        f"{table(('workload', 'evidence', 'first learn', 'per cent'), rows)}"
    )
    return Section(text, (Figure("evidence in a first learn's processor time: the worst", MOST, max(shares), " %"),))


def counted(told: str, *command: str) -> None:
    """Learn a program, and append the seconds that went into evidence and all seconds to a file."""
    import callfence.policygen.recording.fold
    from callfence.cli import learn

    began = time.thread_time()
    import callfence.policygen.evidence.facts

    spent = time.thread_time() - began
    look, end = callfence.policygen.recording.fold.Aggregator.look, os._exit

    def looking(*arguments: Any) -> bool:
        nonlocal spent
        began = time.thread_time()
        found = look(*arguments)
        spent += time.thread_time() - began
        return found

    def write() -> None:
        used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        with open(told, "a") as file:
            file.write(json.dumps([spent, sum(one.ru_utime + one.ru_stime for one in used)]) + "\n")

    def ending(status: int) -> None:
        write()
        end(status)

    callfence.policygen.recording.fold.Aggregator.look = looking  # type: ignore[method-assign]
    os._exit = ending  # type: ignore[assignment]
    sys.argv = ["learn", "--fresh", "-q", "-o", "counted.policy", "--", *command]
    try:
        learn()
    finally:
        write()


if __name__ == "__main__":
    if sys.argv[1:2] == [COUNTED]:
        counted(*sys.argv[2:])
    else:
        print(section().text)
