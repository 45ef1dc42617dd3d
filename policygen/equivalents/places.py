"""Files that have another name on each architecture, from places.tsv."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from policygen.equivalents.links import rows
from policygen.grants import written
from tracer.abi.constants import table_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from policygen.grants import Files
    from tracer.abi import Arch


def elsewhere(files: Files, source: Arch, target: Arch) -> Iterator[tuple[str, str]]:
    """Yield the lines about files that name something of one architecture, each with the line for the other one, unless `files`
    has that too."""
    lines = files.lines()
    for line, granted in lines.items():
        there = line
        for old, new in _words(source, target):
            there = there.replace(old, new)
        if there != line and there not in lines:
            yield written(line, granted), written(there, granted)


@cache
def _words(source: Arch, target: Arch) -> tuple[tuple[str, str], ...]:
    heading = next(line for line in table_text(__spec__, "places.tsv").splitlines() if not line.startswith("#")).split("\t")
    if source not in heading or target not in heading:
        return ()
    here, there = heading.index(source), heading.index(target)
    return tuple((row[here], row[there]) for row in rows("places.tsv"))
