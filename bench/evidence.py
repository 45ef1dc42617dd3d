"""What recording evidence adds to a first learn, and to one in which nothing is new: the same run with and without it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness import LEARN, Figure, Section, alternate, computed, require, run, scratch, table
from programs.workloads import WORKLOADS

if TYPE_CHECKING:
    from pathlib import Path

    from programs.workloads import Workload

TITLE = "Evidence"
ROUNDS = 7
MOST = 1.03


def section() -> Section:
    """The measurements."""
    require(*(name for workload in WORKLOADS for name in workload.needs))
    rows, first, warm = [], [], []
    for workload in WORKLOADS:
        with scratch() as folder:
            if workload.prepare:
                run(workload.prepare, folder)
            first.append(_ratio(workload, folder, "--fresh"))
            warm.append(_ratio(workload, folder))
        rows.append([workload.name, f"{first[-1]:.3f}", f"{warm[-1]:.3f}"])
    text = (
        "Processor time of `learn` and the program, with evidence by without (`--no-evidence`): the least of "
        f"{ROUNDS} rounds each.\n\n{table(('workload', 'first learn', 'second learn'), rows)}"
    )
    figures = (
        Figure("first learn, with evidence / without: the worst", MOST, max(first)),
        Figure("second learn, with evidence / without: the worst", MOST, max(warm)),
    )
    return Section(text, figures)


def _ratio(workload: Workload, folder: Path, *flags: str) -> float:
    commands = {
        name: [LEARN, *flags, *more, "-q", "-o", f"{name}.policy", "--", *workload.words]
        for name, more in (("with", ()), ("without", ("--no-evidence",)))
    }
    if not flags:
        for words in commands.values():
            run(words, folder)
    spread = alternate({name: computed(words, folder) for name, words in commands.items()}, ROUNDS)
    return spread["with"].least / spread["without"].least


if __name__ == "__main__":
    print(section().text)
