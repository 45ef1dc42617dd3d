"""A policy's files and ports -> Landlock's terms."""

from __future__ import annotations

from typing import TYPE_CHECKING

from policygen.files import landlock
from policygen.files.paths import encoded

if TYPE_CHECKING:
    from policygen.files.model import Files
    from policygen.files.rights import Right


def ruleset(files: Files, *, truncates: bool = True) -> landlock.Ruleset:
    """Return the rules; a line that grants nothing is none.  `truncates`: see `landlock.Ruleset`."""
    paths = None
    if files.paths is not None:
        paths = [(encoded(path), access(rights)) for path, rights in files.paths.items() if rights]
    return landlock.Ruleset(paths, files.connect, files.bind, truncates=truncates)


def access(rights: Right) -> int:
    """Return Landlock's rights for those of a line."""
    found = 0
    for right in rights:
        found |= landlock.ACCESS[right.word]
    return found
