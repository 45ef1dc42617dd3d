"""Grants on a tree of files, as exact sets: what holds at a path is what it and all folders above it are granted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from policygen.grants import NOTHING, Right
from policygen.paths import folders, order
from tracer.named import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    Grants = Mapping[str, Right]


class Gap(NamedTuple):
    """Where one of two trees grants more than the other: at the path and everything below it."""

    path: str
    more: Right
    less: Right


def granted(grants: Grants, path: str) -> Right:
    """Return the rights that hold at a path."""
    return _union(grants, folders(path))


def _union(grants: Grants, paths: Iterable[str]) -> Right:
    found = NOTHING
    for path in paths:
        found |= grants.get(path, NOTHING)
    return found


def reduced(grants: Grants) -> dict[str, Right]:
    """Return the fewest grants that mean the same: without what a folder above grants already."""
    found: dict[str, Right] = {}
    for path in sorted(grants, key=order):
        own = grants[path] & ~_union(grants, [folder for folder in folders(path) if folder != path])
        if own:
            found[path] = own
    return found


def united(a: Grants, b: Grants) -> dict[str, Right]:
    """Return grants that hold where one of the two holds."""
    return combined((a, b), lambda rights: rights[0] | rights[1])


def met(a: Grants, b: Grants) -> dict[str, Right]:
    """Return grants that hold where both hold."""
    return combined((a, b), lambda rights: rights[0] & rights[1])


def combined(trees: Iterable[Grants], rule: Callable[[list[Right]], Right]) -> dict[str, Right]:
    """Return the reduced grants that have at each path what a rule makes of those of the trees.

    Exact if the rule never gives less below a folder than in it: below the deepest path that one of the trees names, nothing
    changes in any of them.
    """
    every = list(trees)
    paths = {path for tree in every for path in tree}
    return reduced({path: rule([granted(tree, path) for tree in every]) for path in paths})


def gaps(old: Grants, new: Grants) -> list[Gap]:
    """Return every difference, once: not again below a folder for which it is told."""
    found: list[Gap] = []
    for path in sorted({*old, *new}, key=order):
        above = [gap for gap in found if gap.path in folders(path)]
        before, after = granted(old, path), granted(new, path)
        more, less = after & ~before, before & ~after
        for gap in above:
            more, less = more & ~gap.more, less & ~gap.less
        if more or less:
            found.append(Gap(path, more, less))
    return found
