"""What a policy grants of files, as mounts of a root folder that has nothing else: for bubblewrap, nsjail and minijail.

A mount is for reading and executing, or for changing as well.  Links of a merged /usr are made again, since policies have the
files that they lead to.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from policygen.grants import ALL, Files, Right
from policygen.paths import covers
from tracer.named import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

LOADERS = "/usr/lib64"
"""On x86_64 every program names its dynamic loader in /lib64: on Debian a link there leads to the file that policies have."""
LINKS = ("bin", "lib", "lib64", "sbin")
"""Of the root folder, to folders of those names in /usr."""
PROC = "/proc"
_READS = Right.READ | Right.EXECUTE


class Mount(NamedTuple):
    """A folder or a file that is visible."""

    path: str
    changes: bool
    """Whether it can be written, too."""
    executes: bool
    """Whether it may hold what is executed, or mapped as executable memory: all that cannot be written does."""
    is_device: bool


def mounts(paths: Mapping[str, Right], starts: Iterable[str] = ("",)) -> list[Mount]:
    """Return the mounts for grants in the root folder and in the named folders of `starts`; none for /proc, which is its own.

    A folder comes before what is below it."""
    found = [Mount(LOADERS, changes=False, executes=True, is_device=False)]
    for path, rights in paths.items():
        if path.partition("/")[0] in starts and rights and not covers(PROC, path):
            changes = bool(rights & ~_READS)
            found.append(Mount(path, changes, not changes or Right.EXECUTE in rights, covers("/dev", path)))
    return found


def has_proc(paths: Mapping[str, Right]) -> bool:
    """Whether anything below /proc is granted, which then is all visible."""
    return any(rights and covers(PROC, path) for path, rights in paths.items())


def effect(made: Iterable[Mount], *, proc: bool, noexec: bool) -> Files:
    """Return what mounts confine; `noexec`: what `executes` denies cannot be executed there."""
    grants = {}
    for one in made:
        rights = ALL if one.changes or one.is_device else _READS
        grants[one.path] = rights & ~Right.EXECUTE if noexec and not one.executes else rights
    return Files(grants | ({PROC: ALL} if proc else {}))
