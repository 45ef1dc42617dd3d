"""Files and ports of several policies, combined and compared: exactly, as calls are.

Grants of paths are sets on a tree: what holds at a path is what it and all folders above it are granted.
"""

from __future__ import annotations

from functools import reduce
from operator import and_, or_
from typing import TYPE_CHECKING, Any

from policygen.grants import NOTHING, TCP, Files, Right, format_ports, format_rights, path_line, ranges, single
from policygen.paths import folders, order
from policygen.values import replace
from tracer.named import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from policygen.grants import Ports

    Grants = Mapping[str, Right]
    Rule = Callable[..., Any]


class Gap(NamedTuple):
    """Where one of two trees grants more than the other: at the path and everything below it."""

    path: str
    more: Right
    less: Right


def granted(grants: Grants, path: str) -> Right:
    """Return the rights that hold at a path."""
    return _union(grants, folders(path))


def _union(grants: Grants, paths: Iterable[str]) -> Right:
    return reduce(or_, [grants.get(path, NOTHING) for path in paths], NOTHING)


def reduced(grants: Grants) -> dict[str, Right]:
    """Return the fewest grants that mean the same: without what a folder above grants already."""
    own = {path: grants[path] & ~_union(grants, [above for above in folders(path) if above != path]) for path in grants}
    return {path: own[path] for path in sorted(own, key=order) if own[path]}


def combined(trees: Sequence[Grants], rule: Rule) -> dict[str, Right]:
    """Return the reduced grants that have at each path what a rule makes of those of the trees.

    Exact if the rule never gives less below a folder than in it: below the deepest path that one of the trees names, nothing
    changes in any of them.
    """
    paths = {path for tree in trees for path in tree}
    return reduced({path: rule(*(granted(tree, path) for tree in trees)) for path in paths})


def gaps(old: Grants, new: Grants) -> list[Gap]:
    """Return every difference, once: not again below a folder for which it is reported."""
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
    """What one line grants in the second of two policies and not in the first, and the reverse."""

    line: str
    """`path PATH` or `tcp USE`."""
    more: str
    """As the line would have it; '' for nothing."""
    less: str


def differences(old: Files, new: Files) -> tuple[Difference, ...]:
    """Return what is granted newly or no longer, in the order of the lines."""
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
    """Return what one of the two grants; what one of them does not confine is not confined."""
    return _combined((a, b), or_)


def met(a: Files, b: Files) -> Files:
    """Return what both grant; what neither confines is not confined."""
    return _combined((a, b), and_)


def _combined(files: Sequence[Files], rule: Rule) -> Files:
    """Return what a rule makes, bit by bit, of the rights at each path, of the ports, and of whether a part is unconfined."""

    def ports(use: str) -> Ports | None:
        if rule(*(getattr(part, use) is None for part in files)):
            return None
        bits = rule(*(sum((2 << last) - (1 << first) for first, last in part.ports(use)) for part in files))
        return ranges({port for port, bit in enumerate(reversed(f"{bits:b}")) if bit == "1"})

    is_free = rule(*(part.paths is None for part in files))
    paths = None if is_free else combined([part.grants for part in files], rule)
    return Files(paths, *(ports(use) for use in TCP))


def extended(files: Files, more: Files) -> Files:
    """Return the files with what some lines add; what the files do not confine stays so, and so does what no line is about."""
    whole = united(files, more)
    free = [name for name in ("paths", *TCP) if getattr(files, name) is None or getattr(more, name) is None]
    return replace(whole, **{name: getattr(files, name) for name in free})


def with_line(files: Files, line: str, other: Files) -> Files:
    """Return the files with a line as other ones have it: theirs, or none; all lines of its kind if they have none at all."""
    if line.startswith("tcp "):
        use = line.removeprefix("tcp ")
        return replace(files, **{use: getattr(other, use)})
    if files.paths is None or other.paths is None:
        return replace(files, paths=other.paths)
    paths = {path: rights for path, rights in files.paths.items() if path_line(path) != line}
    return replace(files, paths=paths | {path: rights for path, rights in other.paths.items() if path_line(path) == line})


def merged(base: Files, ours: Files, theirs: Files) -> tuple[Files, tuple[str, ...]]:
    """Return the three-way merge, and the lines in conflict.

    Each right at each path, and each port, is as the side has it that has changed it.  It is a conflict if one side grants
    something to a folder that the other takes from what is below it; the result grants it.
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
    """Return each bit as the side has it that has changed it."""
    return (ours & theirs) | ((ours | theirs) & ~base)
