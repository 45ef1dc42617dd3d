"""What learn costs against `strace -f -o /dev/null`, on the same workload in the same run.

The *extra* of a side is its wall time less the native one; learn's start, its checks and its writing of the policy
count as well.
"""

from __future__ import annotations

import re
import shutil
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness import LEARN, Words, alternate, run, scratch, table

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TITLE = "learn against strace"
ROUNDS = 5
LIMIT = 0.6
"""At most this much of strace's extra time, at the median of the workloads."""


@dataclass(frozen=True, slots=True)
class Workload:
    name: str
    words: tuple[str, ...]
    needs: tuple[str, ...] = ()


def shell(script: str) -> tuple[str, ...]:
    return ("sh", "-c", script)


WORKLOADS = (
    Workload("small reads and writes (dd)", ("dd", "if=/dev/zero", "of=/dev/null", "bs=1", "count=100000")),
    Workload("a tree of files (find, stat)", ("find", "/usr", "-xdev", "-size", "+100M")),
    Workload("400 short processes (sh)", shell("i=0; while [ $i -lt 400 ]; do /bin/true; i=$((i+1)); done")),
    Workload("two processes and a pipe (tar)", shell("tar cf - /usr/share/doc | cat")),
    Workload(
        "1,500 transactions (sqlite3)",
        shell(
            "rm -f b.db; { echo 'PRAGMA synchronous=OFF; CREATE TABLE t (x);'; i=0; while [ $i -lt 1500 ]; do "
            "echo \"INSERT INTO t VALUES ($i);\"; i=$((i+1)); done; } | sqlite3 b.db"
        ),
        ("sqlite3",),
    ),
    Workload(
        "60 commits (git)",
        shell(
            "rm -rf r; git init -q r; cd r; git config user.name me; git config user.email me@localhost; i=0; "
            "while [ $i -lt 60 ]; do echo $i >f; git add f; git commit -q -m $i; i=$((i+1)); done"
        ),
        ("git",),
    ),
    Workload(
        "8 threads that hand over a lock (python3)",
        (
            "python3",
            "-c",
            "import threading as t\n"
            "a = [t.Semaphore(0) for _ in range(8)]\n"
            "def turn(n):\n"
            "    for _ in range(1500): a[n].acquire(); a[(n + 1) % 8].release()\n"
            "x = [t.Thread(target=turn, args=(n,)) for n in range(8)]\n"
            "[i.start() for i in x]; a[0].release(); [i.join() for i in x]",
        ),
    ),
    Workload(
        "60 compilations (cc)",
        shell("i=0; while [ $i -lt 60 ]; do echo 'int f;' | cc -c -x c - -o o.o; i=$((i+1)); done"),
        ("cc",),
    ),
)


def section() -> str:
    """The measurements, as Markdown."""
    missing = {name for workload in WORKLOADS for name in (*workload.needs, "strace") if not shutil.which(name)}
    if missing:
        raise SystemExit(f"bench: these are missing: {', '.join(sorted(missing))}; .ci/run lists their packages")
    rows, ratios = [], []
    for workload in WORKLOADS:
        with scratch() as folder:
            calls = count(workload, folder)
            spread = alternate(
                {
                    "native": timed(workload.words, folder),
                    "strace": timed(["strace", "-f", "-o", "/dev/null", *workload.words], folder),
                    "learn": timed([LEARN, "--fresh", "-q", "-o", "b.policy", "--", *workload.words], folder),
                },
                ROUNDS,
            )
        native = spread["native"].median
        learn, strace = spread["learn"].median - native, spread["strace"].median - native
        ratios.append(learn / strace)
        per_call = f"{learn / calls * 1e6:.1f}", f"{strace / calls * 1e6:.1f}"
        times = (spread[side].milliseconds() for side in ("native", "strace", "learn"))
        rows.append([workload.name, f"{calls:,}", *times, *per_call, f"{ratios[-1]:.2f}"])
    median = statistics.median(ratios)
    header = ("workload", "calls", "native ms", "strace ms", "learn ms", "learn us/call", "strace us/call", "ratio")
    return (
        f"Median of {ROUNDS} rounds (least-most); the ratio is learn's extra wall time over strace's.\n\n"
        f"{table(header, rows)}\n"
        f"Median ratio: **{median:.2f}**; the limit is {LIMIT}: {'kept' if median <= LIMIT else '**not kept**'}.\n"
    )


def timed(words: Words, folder: Path) -> Callable[[], float]:
    return lambda: run(words, folder).seconds


def count(workload: Workload, folder: Path) -> int:
    """The calls that learn sees in one run."""
    errors = run([LEARN, "--fresh", "-o", "b.policy", "--", *workload.words], folder).errors
    found = re.search(r"this run +([\d,]+) calls?", errors)
    assert found, errors
    return int(found[1].replace(",", ""))


if __name__ == "__main__":
    print(section())
