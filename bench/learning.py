"""What learn costs, the first time and the second, against the plain run and strace, on the same workload in one run.

The *extra* of a side is its wall time less the native one; learn's start, its checks and its writing of the policy
count as well.
"""

from __future__ import annotations

import re
import statistics
from typing import TYPE_CHECKING

from harness import LEARN, Figure, Section, alternate, require, run, scratch, table, timed
from workloads import WORKLOADS, Workload

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

TITLE = "learn against strace and the plain run"
ROUNDS = 3
SINGLE, PINNED, SECOND = 0.12, 0.7, 1.05
START = 60
"""Milliseconds that a second learn may take besides."""
REASONS = """\
Why: learn starts an interpreter and, the first time, makes a policy, a tenth of a second in all, which
counts where a workload has few calls.  Each process stops four times for the tracer whatever it does (as its maker has made it,
as it begins, at its execve, and when its maker hears of its end); and a second learn cannot share a processor with the program,
which may look at its affinity in calls that no longer stop, so each of these stops wakes another processor.  Threads and
processes that call the kernel at the same time take turns on the tracer's processor."""


def section() -> Section:
    """The measurements."""
    require("strace", "taskset", *(name for workload in WORKLOADS for name in workload.needs))
    rows, against_strace, pinned, second = [], [], [], []
    for workload in WORKLOADS:
        with scratch() as folder:
            if workload.prepare:
                run(workload.prepare, folder)
            calls = count(workload, folder)
            strace = ("strace", "-f", "-o", "/dev/null", *workload.words)
            spread = alternate(
                {
                    "native": timed(workload.words, folder),
                    "strace": timed(strace, folder),
                    "pinned": timed(("taskset", "-c", "0", *strace), folder),
                    "first": timed([LEARN, "--fresh", "-q", "-o", "first.policy", "--", *workload.words], folder),
                    "second": timed([LEARN, "-q", "-o", "second.policy", "--", *workload.words], folder),
                },
                ROUNDS,
            )
        native = spread["native"].median
        first = spread["first"].median - native
        against_strace.append(first / (spread["strace"].median - native))
        pinned.append(first / (spread["pinned"].median - native))
        second.append((spread["second"].median - START / 1000) / native)
        times = (spread[side].milliseconds() for side in ("native", "strace", "pinned", "first", "second"))
        ratios = (f"{found[-1]:.2f}" for found in (against_strace, pinned, second))
        rows.append([workload.name, f"{calls:,}", *times, f"{first / calls * 1e6:.1f}", *ratios])
    header = (
        "ms",
        "calls",
        "native",
        "strace",
        "strace on one processor",
        "first learn",
        "second learn",
        "us/call, first",
        "first/strace",
        "first/pinned",
        f"(second - {START} ms)/native",
    )
    text = (
        f"Median of {ROUNDS} rounds (least-most).  The ratios to strace are of the wall times beyond the native one;\n"
        f"strace on one processor (`taskset -c 0`) is its best case.\n\n{table(header, rows)}\n"
        f"Over {SINGLE} of strace, of those that are one process of many calls: {over(against_strace, SINGLE, single=True)}.\n"
        f"Over {PINNED} of strace on one processor: {over(pinned, PINNED)}.\n"
        f"Over {SECOND} of the native time: {over(second, SECOND)}.\n\n{REASONS}\n"
    )
    single = [ratio for one, ratio in zip(WORKLOADS, against_strace, strict=True) if one.is_single]
    figures = (
        Figure("first learn / strace, extra time, one process of many calls: the worst", SINGLE, max(single)),
        Figure("first learn / strace, extra time: the median", 0.6, statistics.median(against_strace)),
        Figure("first learn / strace on one processor, extra time: the worst", PINNED, max(pinned)),
        Figure(f"(second learn - {START} ms) / native: the worst", SECOND, max(second)),
    )
    return Section(text, figures)


def over(ratios: Sequence[float], goal: float, *, single: bool = False) -> str:
    """The workloads that miss a goal."""
    missed = (one.name for one, ratio in zip(WORKLOADS, ratios, strict=True) if ratio > goal and one.is_single >= single)
    return ", ".join(missed) or "none"


def count(workload: Workload, folder: Path) -> int:
    """The calls that learn sees in one run.  Leaves the policies that a second learn knows."""
    errors = ""
    for policy in ("first.policy", "second.policy", "second.policy"):
        spent = run([LEARN, "--every-call", "-o", policy, "--", *workload.words], folder)
        errors = errors or spent.errors
    found = re.search(r"this run +([\d,]+) calls?", errors)
    assert found, errors
    return int(found[1].replace(",", ""))


if __name__ == "__main__":
    print(section().text)
