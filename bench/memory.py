"""learn's memory does not depend on how many calls it sees."""

from __future__ import annotations

import subprocess
import sys
import time

from harness import LEARN, Figure, Section, scratch, table

TITLE = "learn's memory"
LIMIT_MIB = 100
CALLS = (100_000, 1_000_000, 10_000_000)
STARTER = """
import os, sys
child = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ)
print(os.wait4(child, 0)[2].ru_maxrss)
"""
"""What a process has at its execve counts as its own: of this small one, instead of all benchmarks."""


def section() -> Section:
    """The measurements."""
    rows, peak = [], 0.0
    for calls in CALLS:
        with scratch() as folder:
            copy = ("dd", "if=/dev/zero", "of=/dev/null", "bs=1", f"count={calls // 2}")  # one read and one write each
            command = (sys.executable, "-S", "-c", STARTER, LEARN, "--fresh", "-q", "-o", "b.policy", "--", *copy)
            began = time.perf_counter()
            done = subprocess.run(command, cwd=folder, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
            seconds = time.perf_counter() - began
        peak = int(done.stdout) / 1024
        rows.append([f"{calls:,}", f"{peak:.1f}", f"{seconds:.1f}", f"{seconds / calls * 1e6:.1f}"])
    text = table(("calls", "peak resident MiB", "seconds", "us per call"), rows)
    return Section(text, (Figure("learn's memory at 10 million calls", LIMIT_MIB, peak, " MiB"),))


if __name__ == "__main__":
    print(section().text)
