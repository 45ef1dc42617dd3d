"""What the smallest commands take in all: learning, enforcing and proving, with nothing kept from earlier runs."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from harness import BIN, ENFORCE, LEARN, Figure, Section, alternate, run, scratch, table, timed

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TITLE = "the smallest commands"
ROUNDS = 20
LEARN_TRUE = "learn -q --fresh true"


def section() -> Section:
    """The measurements."""
    with scratch() as folder, scratch() as home, scratch() as empty:
        run([LEARN, "-q", "-o", "true.policy", "--", "true"], folder, home)
        spreads = alternate(
            {
                LEARN_TRUE: timed([LEARN, "-q", "--fresh", "true"], folder, home),
                "learn -q true, again": timed([LEARN, "-q", "true"], folder, home),
                "enforce true, no filter in the cache": _uncached(folder, empty),
                "callfence verify true.policy": timed([BIN / "callfence", "verify", "true.policy"], folder, home),
            },
            ROUNDS,
        )
    rows = [(name, spread.milliseconds()) for name, spread in spreads.items()]
    return Section(
        f"Median of {ROUNDS} (least-most).\n\n{table(('', 'ms'), rows)}",
        (Figure(LEARN_TRUE, 80, spreads[LEARN_TRUE].median * 1000, " ms"),),
    )


def _uncached(folder: Path, home: Path) -> Callable[[], float]:
    """Runs `enforce` in a home that is empty each time."""

    def side() -> float:
        shutil.rmtree(home)
        home.mkdir()
        return run([ENFORCE, "-p", "true.policy", "--", "true"], folder, home).seconds

    return side


if __name__ == "__main__":
    print(section().text)
