"""Writes the results of run.py at the end of a page: table.py RESULTS PAGE."""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

HEADING = "## Test suites of other projects\n"
TEXT = """
Every second script of a test suite is learned into one policy, and the others are enforced with it: `make suites`. Only scripts
that succeed by themselves count, at most 100 of each suite. A held-out script fails if a call is denied, or if its exit status
is another one. What grants nothing is implied ([implied.md](implied.md)), so what fails should be resources and dangers that
the learned half did not use.
"""


def main(results: Path, page: Path) -> None:
    rows = [json.loads(line) for line in results.read_text().splitlines()]
    before = page.read_text().partition(HEADING)[0].rstrip("\n")
    page.write_text("\n".join([before, "", f"{HEADING}{TEXT}", *table(rows), "", *calls(rows)]) + "\n")


def failed(row: dict[str, Any]) -> dict[str, list[str]]:
    """The denied calls of each held-out script that fails."""
    return {name: one["denied"] for name, one in row["held out"].items() if one["denied"] or one["status"] != 0}


def table(rows: list[dict[str, Any]]) -> Iterator[str]:
    yield "| suite | learned | held out | fail, `--exact` | fail, `implied 1` | fail, `--files` |"
    yield "|---|--:|--:|--:|--:|--:|"
    for suite in dict.fromkeys(row["suite"] for row in rows):
        mine = {row["mode"]: row for row in rows if row["suite"] == suite}
        counts = [str(len(failed(mine[mode]))) if mode in mine else "-" for mode in ("exact", "implied", "files")]
        some = mine.get("implied") or next(iter(mine.values()))
        yield f"| {suite} | {some['learned']} | {len(some['held out'])} | {' | '.join(counts)} |"


def calls(rows: list[dict[str, Any]]) -> Iterator[str]:
    yield "What is denied with `implied 1`, in how many scripts:"
    yield ""
    found = Counter(
        (row["suite"], call)
        for row in rows
        if row["mode"] == "implied"
        for denied in failed(row).values()
        for call in dict.fromkeys(map(short, denied or ["no call; the exit status is another one"]))
    )
    for (suite, call), times in sorted(found.items()):
        yield f"- {suite}, {times}: `{call}`" if "(" in call else f"- {suite}, {times}: {call}"
    if not found:
        yield "Nothing."


def short(call: str) -> str:
    """A call without names of files and addresses."""
    return re.sub(r"(, )?\b\w+=(0x[0-9a-f]{5,}|\"[^\"]*\"|\[[^]]*\])", "", call).replace("(, ", "(")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
