"""Files and ports of several policies, combined and compared: exactly, as calls are.

Grants of paths are sets on a tree: what holds at a path is what it and all folders above it are granted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from policygen.grants import NOTHING, TCP, Files, Right, format_ports, format_rights, path_line, ranges, single
from policygen.paths import folders, order
from policygen.values import replace
from tracer.named import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from policygen.grants import Ports

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


def united_paths(a: Grants, b: Grants) -> dict[str, Right]:
    """Return grants that hold where one of the two holds."""
    return combined((a, b), lambda rights: rights[0] | rights[1])


def shared_paths(a: Grants, b: Grants) -> dict[str, Right]:
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


class Difference(NamedTuple):
    """What one line grants in the second of two policies and not in the first, and the reverse."""

    line: str
    """`path PATH` or `tcp USE`."""
    more: str
    """As the line would have it; '' for nothing."""
    less: str


def differences(old: Files, new: Files) -> tuple[Difference, ...]:
    """Return what is granted newly or no longer, in the order of the lines."""
    found = [
        Difference(path_line(gap.path), _words(gap.more), _words(gap.less)) for gap in gaps(old.grants, new.grants)
    ]
    for use in TCP:
        before, after = single(old.ports(use)), single(new.ports(use))
        if before != after:
            more, less = ranges(after - before), ranges(before - after)
            found.append(Difference(f"tcp {use}", format_ports(more) if more else "", format_ports(less) if less else ""))
    return tuple(found)


def _words(rights: Right) -> str:
    return format_rights(rights) if rights else ""


def united(a: Files, b: Files) -> Files:
    """Return what one of the two grants; what one of them does not confine is not confined."""
    return _combined(a, b, united_paths, set.union, any)


def met(a: Files, b: Files) -> Files:
    """Return what both grant; what neither confines is not confined."""
    return _combined(a, b, shared_paths, set.intersection, all)


def _combined(
    a: Files,
    b: Files,
    of_paths: Callable[[Grants, Grants], dict[str, Right]],
    of_ports: Callable[[set[int], set[int]], set[int]],
    is_free: Callable[[list[bool]], bool],
) -> Files:
    """`is_free` says, of whether each policy leaves a part unconfined, whether the result does."""

    def ports(use: str) -> Ports | None:
        free = is_free([getattr(one, use) is None for one in (a, b)])
        return None if free else ranges(of_ports(single(a.ports(use)), single(b.ports(use))))

    free = is_free([one.paths is None for one in (a, b)])
    return Files(None if free else of_paths(a.grants, b.grants), *(ports(use) for use in TCP))


def extended(files: Files, more: Files) -> Files:
    """Return the files with what some lines add; what the files do not confine stays so, and so does what no line is about."""

    def ports(use: str) -> Ports | None:
        free = getattr(files, use) is None or getattr(more, use) is None
        return getattr(files, use) if free else ranges(single(files.ports(use)) | single(more.ports(use)))

    free = files.paths is None or more.paths is None
    return Files(files.paths if free else united_paths(files.grants, more.grants), *(ports(use) for use in TCP))


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

    def picked(rights: list[Right]) -> Right:
        a, b, c = rights
        return (b & c) | ((b | c) & ~a)

    def is_free(what: str) -> bool:
        a, b, c = (getattr(one, what) is None for one in (base, ours, theirs))
        return (b and c) or ((b or c) and not a)

    def ports(use: str) -> Ports | None:
        a, b, c = (single(one.ports(use)) for one in (base, ours, theirs))
        return None if is_free(use) else ranges((b & c) | ((b | c) - a))

    trees = [one.grants for one in (base, ours, theirs)]
    paths = None if is_free("paths") else combined(trees, picked)
    every = {path for one in trees for path in one}
    conflicts = [
        path_line(path)
        for path in sorted(every)
        if paths is not None and granted(paths, path) != picked([granted(one, path) for one in trees])
    ]
    return Files(paths, *(ports(use) for use in TCP)), tuple(conflicts)
