"""What the smallest commands take in all: learning, enforcing and proving, with nothing kept from earlier runs."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from harness import BIN, ENFORCE, LEARN, LOADS, Figure, Section, alternate, load, run, scratch, table, timed

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
        sides = {
            LEARN_TRUE: timed([LEARN, "-q", "--fresh", "true"], folder, home),
            "learn -q true, again": timed([LEARN, "-q", "true"], folder, home),
            "enforce true, no filter in the cache": _uncached(folder, empty),
            "callfence verify true.policy": timed([BIN / "callfence", "verify", "true.policy"], folder, home),
        }
        spreads = {}
        for kind in LOADS:
            with load(kind):
                spreads[kind] = alternate(sides, ROUNDS)
    rows = [(name, *(spreads[kind][name].milliseconds() for kind in LOADS)) for name in sides]
    return Section(
        f"Median of {ROUNDS} (least-most), ms.\n\n{table(('', *LOADS), rows)}",
        tuple(Figure(f"{LEARN_TRUE} ({kind})", 80, spreads[kind][LEARN_TRUE].median * 1000, " ms") for kind in LOADS),
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
