"""What learn costs, the first time and the second, against the plain run and strace, on the same workload in one run.

The *extra* of a side is its wall time less the native one; learn's start, its checks and its writing of the policy
count as well.
"""

from __future__ import annotations

import re
import statistics
from typing import TYPE_CHECKING, NamedTuple

from harness import BUSY, IDLE, LEARN, LOADS, Figure, Section, Spread, alternate, load, require, run, scratch, table, timed
from programs.workloads import WORKLOADS, Workload

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

TITLE = "learn against strace and the plain run"
ROUNDS = {IDLE: 3, BUSY: 1}
START = 60
"""Milliseconds that a second learn may take besides."""
SINGLE = {"dd": 0.02, "find": 0.02, "tar": 0.08}
"""The most of strace's extra time, for those that are one process of many calls."""
PINNED, SECOND, SHORT, MEDIAN = 0.9, 1.2, 2.2, 0.6
STOPS = """\
Why: learn starts an interpreter and, the first time, makes a policy, 70 ms in all, which counts where a workload has
few calls. Until a process has its late filter, each of its calls stops twice, for some 11 us each, and later what it
does for the first time.

With one busy processor strace seldom has to wake an idle one, and takes a fraction of the time for many calls, while
learn's own start and end stay what they are: these alone are then more than 0.02 of it.

A short process of a known executable stops, the first time: at its maker's fork, as it begins, and at its execve, which
attach to it and tell its executable; three times to be given the filter of what is known of that executable; and where
it opens a file for reading (which may show the processors that it may use, and it shares learn's; what opens many files
does so apart). Its maker stops at SIGCHLD. A second learn needs all but the filter: the kernel stops a
traced task at these events whatever its filter says, and in a child that is not traced a call that the policy does not
allow would fail instead of being recorded. It cannot share a processor with the program, which may look at its affinity
in calls that no longer stop, so each of these stops wakes another processor."""


class Measured(NamedTuple):
    """One workload's times under one load, by side."""

    calls: int
    native: Spread
    strace: Spread
    pinned: Spread
    first: Spread
    second: Spread

    @property
    def against_strace(self) -> float:
        return (self.first.median - self.native.median) / (self.strace.median - self.native.median)

    @property
    def against_pinned(self) -> float:
        return (self.first.median - self.native.median) / (self.pinned.median - self.native.median)

    @property
    def again(self) -> float:
        return (self.second.median - START / 1000) / self.native.median

    def row(self, name: str) -> list[str]:
        times = (spread.milliseconds() for spread in self[1:])
        ratios = (f"{ratio:.3f}" for ratio in (self.against_strace, self.against_pinned, self.again))
        per_call = (self.first.median - self.native.median) / self.calls * 1e6
        return [name, f"{self.calls:,}", *times, f"{per_call:.1f}", *ratios]


def section() -> Section:
    """The measurements."""
    require("strace", "taskset", *(name for workload in WORKLOADS for name in workload.needs))
    found: dict[str, list[Measured]] = {kind: [] for kind in LOADS}
    for workload in WORKLOADS:
        with scratch() as folder:
            if workload.prepare:
                run(workload.prepare, folder)
            calls = count(workload, folder)
            for kind in LOADS:
                found[kind].append(measured(workload, folder, calls, kind))
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
        "Median (least-most).  The ratios to strace are of the wall times beyond the native one;\n"
        "strace on one processor (`taskset -c 0`) is its best case.\n"
    )
    for kind in LOADS:
        rows = [one.row(workload.name) for workload, one in zip(WORKLOADS, found[kind], strict=True)]
        text += f"\n### {kind}, {ROUNDS[kind]} rounds\n\n{table(header, rows)}\n"
        text += f"Over {PINNED} of strace on one processor: {over([one.against_pinned for one in found[kind]], PINNED)}.\n"
        text += f"Over {SECOND} of the native time: {over([one.again for one in found[kind]], SECOND)}.\n"
    figures = tuple(figure for kind in LOADS for figure in goals(found[kind], kind))
    return Section(f"{text}\n{STOPS}\n", figures)


def measured(workload: Workload, folder: Path, calls: int, kind: str) -> Measured:
    strace = ("strace", "-f", "-o", "/dev/null", *workload.words)
    sides = {
        "native": timed(workload.words, folder),
        "strace": timed(strace, folder),
        "pinned": timed(("taskset", "-c", "0", *strace), folder),
        "first": timed([LEARN, "--fresh", "-q", "-o", "first.policy", "--", *workload.words], folder),
        "second": timed([LEARN, "-q", "-o", "second.policy", "--", *workload.words], folder),
    }
    with load(kind):
        return Measured(calls, **alternate(sides, ROUNDS[kind], warm_up=kind == IDLE))


def goals(found: Sequence[Measured], kind: str) -> Iterator[Figure]:
    by_name = {workload.name: one for workload, one in zip(WORKLOADS, found, strict=True)}
    for name, goal in SINGLE.items():
        one = next(one for title, one in by_name.items() if title.endswith(f"({name})") or f"({name}," in title)
        yield Figure(f"first learn / strace, extra time: {name} ({kind})", goal, one.against_strace)
    yield Figure(f"the same: the median ({kind})", MEDIAN, statistics.median(one.against_strace for one in found))
    worst = max(one.against_pinned for one in found)
    yield Figure(f"first learn / strace on one processor, extra time: the worst ({kind})", PINNED, worst)
    short = by_name["400 short processes (sh)"]
    yield Figure(f"400 short processes: first learn / native ({kind})", SHORT, short.first.median / short.native.median)
    yield Figure(f"(second learn - {START} ms) / native: the worst ({kind})", SECOND, max(one.again for one in found))


def over(ratios: Sequence[float], goal: float) -> str:
    """The workloads that miss a goal."""
    return ", ".join(one.name for one, ratio in zip(WORKLOADS, ratios, strict=True) if ratio > goal) or "none"


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
