"""What enforce adds to a program's start, and to the calls that it allows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness import ENFORCE, LEARN, Spread, Words, alternate, run, scratch, table

if TYPE_CHECKING:
    from collections.abc import Callable

TITLE = "enforce"
STARTS = 20
ROUNDS = 5
COPY = ("dd", "if=/dev/zero", "of=/dev/null", "bs=1", "count=500000")
"""A million calls."""


def section() -> str:
    """The measurements, as Markdown."""
    with scratch() as folder, scratch() as home:

        def timed(words: Words) -> Callable[[], float]:
            return lambda: run(words, folder, home).seconds

        run([LEARN, "-q", "-o", "true.policy", "--", "true"], folder, home)
        run([LEARN, "-q", "-o", "dd.policy", "--", *COPY], folder, home)
        starts = alternate(
            {
                "the program alone": timed(["true"]),
                "an empty Python, for scale": timed([ENFORCE.parent / "python", "-S", "-c", "pass"]),
                "enforce": timed([ENFORCE, "-p", "true.policy", "--", "true"]),
                "enforce --quiet-kernel": timed([ENFORCE, "--quiet-kernel", "-p", "true.policy", "--", "true"]),
            },
            STARTS,
        )
        calls = alternate(
            {
                "the program alone": timed(COPY),
                "enforce": timed([ENFORCE, "-p", "dd.policy", "--", *COPY]),
            },
            ROUNDS,
        )
    return (
        f"Starting `true`: median of {STARTS} (least-most), the compiled filter in the cache.\n\n"
        f"{table(('', 'ms'), rows(starts))}\n"
        f"A million allowed calls: median of {ROUNDS} (least-most).\n\n{table(('', 'ms'), rows(calls))}"
    )


def rows(spreads: dict[str, Spread]) -> list[tuple[str, str]]:
    return [(name, spread.milliseconds()) for name, spread in spreads.items()]


if __name__ == "__main__":
    print(section())
