"""A program that computes on every processor keeps them while it is learned."""

from __future__ import annotations

import os

from harness import LEARN, Figure, Section, alternate, compiled, scratch, table, timed

TITLE = "computing in parallel"
ROUNDS = 3
STEPS = 4_000
"""Millions, in each thread: seconds, of which a quarter of one, learn's own start and end, is little."""
GOAL = 1.05
WHY = """\
Why it is more: each thread makes a call for every million steps, some 600 a second, and each of these stops takes a processor
from a thread that computes, for the tracer.  Learn's own start and end take a tenth of a second.
"""


def section() -> Section:
    """The measurements."""
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
    return Section(text, (Figure("computing in parallel: first learn / native", GOAL, learn / native),))


if __name__ == "__main__":
    print(section().text)
