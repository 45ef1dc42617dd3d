"""The files that runs made, and what follows from their names: that old ones will be removed, and what should be elsewhere.

They are recorded as uses (`generalise.Use`): MADE, the path of a file that the run made in a folder which was there before, and
"".  LEFT, the path, and "" is a file that was there already, and will not be at some later start.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import cache

from callfence.policygen.files.algebra import granted
from callfence.policygen.grants import Files, Right

MADE = "made"
"""The first field of a use that names a file which a run made; the path of a folder in which it made more ends with a slash."""
LEFT = "left"
"""The first field of a use that names a file left in one of `KEPT_APART`, which the next start or logrotate(8) will remove."""
MIN_GENERALISED = 8
"""Number of alike names (of files in one folder, of hosts, sockets or ports) from which all such are granted."""
KEPT_APART = (
    "/", "/etc", "/home", "/root", "/dev", "/proc", "/sys", "/run", "/var", "/usr", "/opt", "/var/log", "$HOME",
    "$HOME/.config", "$XDG_RUNTIME_DIR",
)  # fmt: skip
"""Folders that no rule grants: their contents are unrelated."""
TEMPORARY = ("$TMPDIR", "/tmp", "/var/tmp", "/dev/shm")
"""Folders of temporary files, whose names are chosen by chance."""
_SHARED = (*KEPT_APART, ".", *TEMPORARY)
"""Folders in which no rule grants `remove`: they hold files that are not the program's output."""
_NUMBER = re.compile(r"\d+")


@cache
def _date() -> re.Pattern[str]:  # compiling it takes 2 ms, and few runs make files
    """Return the pattern of a date, as 2026-11-28 or 20261128, or of seconds or milliseconds since the epoch."""
    day = r"(?:19|20)\d\d([-_.]?)(?:0[1-9]|1[0-2])\1(?:0[1-9]|[12]\d|3[01])(?!\d)"
    return re.compile(rf"(?<!\d)(?:{day}|1\d{{9}}(?:\d{{3}})?(?!\d))")


def numbered(made: Iterable[str]) -> set[tuple[str, str]]:
    """Return the kinds (`alike`) of the files that runs made (`made`: their paths) whose names have a date, or differ in a
    number: the next run makes others.  Kinds in folders that hold more than the program's output are left out."""
    names: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    for path in made:
        names[alike(path)].add(path.rstrip("/"))
    dated = _date().search
    varied = {kind for kind, paths in names.items() if len(paths) > 1 or any(dated(path.rpartition("/")[2]) for path in paths)}
    return {kind for kind in varied if kind[0] not in _SHARED}


def alike(path: str) -> tuple[str, str]:
    """Return the folder of a path, and its name with each number as 0."""
    folder, _, name = path.rstrip("/").rpartition("/")
    return folder or "/", _NUMBER.sub("0", name)


def removals(made: Iterable[str]) -> set[str]:
    """Return the folders in which runs made files with dates or other numbers in their names (`numbered`): programs remove old
    ones of these later, after more runs than are learned."""
    return {folder for folder, _ in numbered(made)}


def made(runs: Sequence[Iterable[tuple[str, str, str]]]) -> list[str]:
    """Return the paths that runs made in folders that were there before, ascending; with a slash if a run made more in it."""
    return sorted({path for run in runs for use, path, _ in run if use == MADE})


def movable(files: Files, made: Iterable[str]) -> dict[str, list[str]]:
    """Return the granted folders that hold more than the program's output, each with the names that the program makes in it.
    In a folder of their own, the program would need no right to change anything else."""
    changes = Right.WRITE | Right.CREATE | Right.REMOVE
    broad = {path for path, rights in (files.paths or {}).items() if rights & changes and path in (*KEPT_APART, ".")}
    names: dict[str, list[str]] = {}
    for path in fewest(made):
        folder, _, name = path.rstrip("/").rpartition("/")
        if (folder or "/") in broad:
            names.setdefault(folder or "/", []).append(name + "/" * path.endswith("/"))
    return names


def fewest(paths: Iterable[str]) -> list[str]:
    """Return enough of the paths that a run made to find out what differs: two of those that differ in numbers alone, and
    `MIN_GENERALISED` kinds in each folder."""
    kept: defaultdict[str, defaultdict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for path in sorted(paths):
        folder, kind = alike(path)
        kinds = kept[folder]
        if (kind in kinds or len(kinds) < MIN_GENERALISED) and len(kinds[kind]) < 2:
            kinds[kind].append(path)
    return [path for kinds in kept.values() for names in kinds.values() for path in names]


def left(files: Files, runs: Sequence[Iterable[tuple[str, str, str]]]) -> list[str]:
    """Return the files that earlier runs had left, and that no line lets the program make, ascending."""
    found = {path for run in runs for use, path, _ in run if use == LEFT} if files.paths is not None else set()
    return sorted(path for path in found if Right.CREATE not in granted(files.grants, path.rpartition("/")[0] or "/"))
