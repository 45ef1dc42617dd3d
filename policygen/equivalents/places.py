"""Files that have another name on each architecture, from places.tsv."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from callfence.policygen.grants import Right, format_rights, path_line, written
from callfence.policygen.values import replace
from callfence.tracer.abi.constants import table_rows, table_text
from callfence.tracer.named import NamedTuple

if TYPE_CHECKING:
    from callfence.policygen.grants import Files
    from callfence.tracer.abi import Arch


class Place(NamedTuple):
    """A line about a file of one architecture."""

    line: str
    there: str
    """The line for the same file of the other architecture."""
    is_added: bool
    """Whether the carried policy has got that line: those that permit changes have to be written by hand."""


def with_places(files: Files, source: Arch, target: Arch) -> tuple[Files, tuple[Place, ...]]:
    """Return the lines about files with those for the same files of another architecture, and the places that they name.

    On a machine of the source, what these lines name is usually not there."""
    paths, places = dict(files.paths or {}), []
    for path, rights in (files.paths or {}).items():
        there = path
        for old, new in _words(source, target):
            there = there.replace(old, new)
        if there not in paths:
            is_added = not rights & ~(Right.READ | Right.EXECUTE)
            if is_added:
                paths[there] = rights
            here, other = (written(path_line(name), format_rights(rights)) for name in (path, there))
            places.append(Place(here, other, is_added))
    return (replace(files, paths=paths) if places else files), tuple(places)


@cache
def _words(source: Arch, target: Arch) -> tuple[tuple[str, str], ...]:
    heading = next(line for line in table_text(__spec__, "places.tsv").splitlines() if not line.startswith("#")).split("\t")
    here, there = heading.index(source), heading.index(target)
    return tuple((row[here], row[there]) for row in table_rows(__spec__, "places.tsv"))
