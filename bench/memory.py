"""learn's memory does not depend on how many calls it sees."""

from __future__ import annotations

from harness import LEARN, Figure, Section, run, scratch, table

TITLE = "learn's memory"
LIMIT_MIB = 100
CALLS = (100_000, 1_000_000, 10_000_000)


def section() -> Section:
    """The measurements."""
    rows, peak = [], 0.0
    for calls in CALLS:
        with scratch() as folder:
            copy = ("dd", "if=/dev/zero", "of=/dev/null", "bs=1", f"count={calls // 2}")  # one read and one write each
            spent = run([LEARN, "--fresh", "-q", "-o", "b.policy", "--", *copy], folder)
        peak = spent.peak_kib / 1024
        rows.append([f"{calls:,}", f"{peak:.1f}", f"{spent.seconds:.1f}", f"{spent.seconds / calls * 1e6:.1f}"])
    text = table(("calls", "peak resident MiB", "seconds", "us per call"), rows)
    return Section(text, (Figure("learn's memory at 10 million calls", LIMIT_MIB, peak, " MiB"),))


if __name__ == "__main__":
    print(section().text)
