"""Combine and compare the files and ports of several policies exactly.

A grant for a folder holds for everything below it: the rights at a path are those granted to the path and to all folders above
it.
"""

from __future__ import annotations

from functools import reduce
from operator import and_, or_
from typing import TYPE_CHECKING, Any

from policygen.grants import NOTHING, TCP, Files, Right, closed, format_ports, format_rights, path_line, ranges, single
from policygen.paths import folders, order
from policygen.values import replace
from tracer.named import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from policygen.grants import Ports

    Grants = Mapping[str, Right]
    Rule = Callable[..., Any]


class Gap(NamedTuple):
    """A path at which, and below which, one of two trees grants more than the other."""

    path: str
    more: Right
    less: Right


def granted(grants: Grants, path: str) -> Right:
    """Return the rights that hold at a path."""
    return _union(grants, folders(path))


def _union(grants: Grants, paths: Iterable[str]) -> Right:
    return reduce(or_, [grants.get(path, NOTHING) for path in paths], NOTHING)


def reduced(grants: Grants) -> dict[str, Right]:
    """Return the fewest grants that mean the same: each without the rights that a folder above it has."""
    own = {path: grants[path] & ~_union(grants, [above for above in folders(path) if above != path]) for path in grants}
    return {path: closed(own[path]) for path in sorted(own, key=order) if own[path]}


def combined(trees: Sequence[Grants], rule: Rule) -> dict[str, Right]:
    """Return reduced grants that give each path the rights that `rule` makes of its rights in each of the trees.

    Exact if the rule never gives a path fewer rights than the folder above it.
    """
    paths = {path for tree in trees for path in tree}
    return reduced({path: rule(*(granted(tree, path) for tree in trees)) for path in paths})


def gaps(old: Grants, new: Grants) -> list[Gap]:
    """Return every difference between two trees once: a difference of a folder is not repeated for the paths below it."""
    differences: list[Gap] = []
    for path in sorted({*old, *new}, key=order):
        above = [gap for gap in differences if gap.path in folders(path)]
        before, after = granted(old, path), granted(new, path)
        more, less = after & ~before, before & ~after
        for gap in above:
            more, less = more & ~gap.more, less & ~gap.less
        if more or less:
            differences.append(Gap(path, more, less))
    return differences


class Difference(NamedTuple):
    """What one line of the second of two policies grants beyond the first, and what it no longer grants."""

    line: str
    """`path PATH` or `tcp USE`."""
    more: str
    """What is granted in addition, as the line writes it; '' for nothing."""
    less: str


def differences(old: Files, new: Files) -> tuple[Difference, ...]:
    """Return the differences between the lines of two policies, in the lines' order."""
    lines = [Difference(path_line(gap.path), _words(gap.more), _words(gap.less)) for gap in gaps(old.grants, new.grants)]
    for use in TCP:
        before, after = single(old.ports(use)), single(new.ports(use))
        if before != after:
            more, less = ranges(after - before), ranges(before - after)
            lines.append(Difference(f"tcp {use}", format_ports(more) if more else "", format_ports(less) if less else ""))
    return tuple(lines)


def _words(rights: Right) -> str:
    return format_rights(rights) if rights else ""


def united(a: Files, b: Files) -> Files:
    """Return the union: what either grants.  A use that either leaves unconfined is unconfined."""
    return _combined((a, b), or_)


def intersected(a: Files, b: Files) -> Files:
    """Return the intersection: what both grant.  A use that neither confines is unconfined."""
    return _combined((a, b), and_)


def _combined(files: Sequence[Files], rule: Rule) -> Files:
    """Return the files that `rule` makes bit by bit of the rights at each path, the ports, and whether a use is unconfined."""

    def ports(use: str) -> Ports | None:
        if rule(*(getattr(part, use) is None for part in files)):
            return None
        bits = rule(*(sum((2 << last) - (1 << first) for first, last in part.ports(use)) for part in files))
        return ranges({port for port, bit in enumerate(reversed(f"{bits:b}")) if bit == "1"})

    is_free = rule(*(part.paths is None for part in files))
    paths = None if is_free else combined([part.grants for part in files], rule)
    return Files(paths, *(ports(use) for use in TCP))


def extended(files: Files, more: Files) -> Files:
    """Return `files` with the grants of `more` added.  A use that either leaves unconfined is as in `files`."""
    whole = united(files, more)
    free = [name for name in ("paths", *TCP) if getattr(files, name) is None or getattr(more, name) is None]
    return replace(whole, **{name: getattr(files, name) for name in free})


def with_line(files: Files, line: str, other: Files) -> Files:
    """Return `files` with one line as in `other`, or without the line if `other` confines its kind and lacks it.  If `other`
    does not confine that kind, all lines of the kind are dropped."""
    if line.startswith("tcp "):
        use = line.removeprefix("tcp ")
        return replace(files, **{use: getattr(other, use)})
    if files.paths is None or other.paths is None:
        return replace(files, paths=other.paths)
    paths = {path: rights for path, rights in files.paths.items() if path_line(path) != line}
    return replace(files, paths=paths | {path: rights for path, rights in other.paths.items() if path_line(path) == line})


def merged(base: Files, ours: Files, theirs: Files) -> tuple[Files, tuple[str, ...]]:
    """Return the three-way merge, and the lines in conflict.

    Each right at each path, and each port, is taken from the side that has changed it.  A line is in conflict if one side
    grants a folder a right that the other side removes from a path below it; the result grants the right.
    """
    if ours in (base, theirs) or theirs == base:
        return (theirs if ours == base else ours), ()
    sides = (base, ours, theirs)
    files = _combined(sides, _picked)
    if files.paths is None:
        return files, ()
    every = {path for side in sides for path in side.grants}
    conflicts = [
        path_line(path)
        for path in sorted(every)
        if granted(files.paths, path) != _picked(*(granted(side.grants, path) for side in sides))
    ]
    return files, tuple(conflicts)


def _picked(base: Any, ours: Any, theirs: Any) -> Any:
    """Return each bit from the side that has changed it."""
    return (ours & theirs) | ((ours | theirs) & ~base)
