"""Generalise the files that runs used into a policy's grants, by a few rules, each with its reason.

A *use* is a path as a policy writes it, the rights, and the executable that used it (`callfence.learning.files`).  A rule moves
rights from a path to a folder above it.  Rules only add grants, and never grant the whole root, home or `/etc`.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from functools import cache, reduce
from operator import or_
from pathlib import Path
from typing import TYPE_CHECKING

from policygen.files.algebra import extended, granted, reduced
from policygen.grants import NOTHING, Files, Right, ranges, rights_of
from policygen.paths import covers, folders
from tracer.named import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

Use = tuple[str, str, str]
Names = dict[str, Right]
"""Path -> the rights to it."""
Move = tuple[str, Right, str]
"""The folder that gets rights instead of a path below it, these rights, and the reason."""

MANY = 8
"""Number of names read in one folder from which the whole folder is granted."""
_KEPT_APART = ("/", "/etc", "/home", "/root", "/dev", "/proc", "/sys", "/run", "/var", "/usr", "/opt", "$HOME", "$HOME/.config")
"""Folders that no rule grants: their contents are unrelated."""
_EPHEMERAL = 32768
"""The first port that Linux chooses by itself (ip(7), ip_local_port_range); a server that binds such a port asked for any
port.
"""


class Learned(NamedTuple):
    """The files that runs need, and why some grants exceed what the runs used."""

    files: Files
    why: Mapping[str, str]
    """Path of a grant that a rule made -> the reason."""


def learned(runs: Sequence[Iterable[Use]], *, exact: bool = False) -> Learned:
    """Return what these runs need; the order of the runs does not matter.  `exact`: grant only the names that they used."""
    parsed = [_names(run) for run in runs]
    why: dict[str, str] = {}
    for rule in () if exact else RULES:
        move = rule(parsed)
        parsed = [_moved(names, move, why) for names in parsed]
    whole: Names = {}
    for path, rights in (item for names in _with_equal_rights(parsed, why) for item in names.items()):
        whole[path] = whole.get(path, NOTHING) | rights
    grants = reduced(whole)
    files = Files(grants, ranges(_ports(runs, "connect")), ranges(_ports(runs, "bind")))
    return Learned(files, {path: why[path] for path in grants if path in why})


def _names(run: Iterable[Use]) -> Names:
    names: Names = {}
    for path, words, _ in run:
        if is_path(path):
            names[path] = names.get(path, NOTHING) | rights_of(words)
    return names


def is_path(name: str) -> bool:
    """Return whether a use is of a file, not of a port or a socket."""
    return name.startswith(("/", ".", "$"))


def _ports(runs: Iterable[Iterable[Use]], use: str) -> set[int]:
    ports = {int(value) for run in runs for line, value, _ in run if line == f"tcp {use}"}
    return {0 if use == "bind" and port >= _EPHEMERAL else port for port in ports}


# Rules.  Each takes the names of every run, and returns a function that says of a name and its rights what is moved where.


def of_trees(runs: list[Names]) -> Callable[[str, Right], Move | None]:
    """Return the rule that grants the whole tree of libraries or read-only data: names in it change with each update of the
    machine."""

    def move(path: str, rights: Right) -> Move | None:
        above = [tree for tree in trees() if rights & Right.READ and covers(tree, path) and path != tree]
        return (above[0], Right.READ, trees()[above[0]]) if above else None

    return move


def of_numbers(runs: list[Names]) -> Callable[[str, Right], Move | None]:
    """Return the rule that grants all terminals instead of one: the terminal's number changes from run to run."""

    def move(path: str, rights: Right) -> Move | None:
        why = "the terminal's number changes from run to run"
        return ("/dev/pts", rights, why) if path.startswith("/dev/pts/") else None

    return move


def of_varied_names(runs: list[Names]) -> Callable[[str, Right], Move | None]:
    """Return the rule that grants the folder instead of its names, if they differ from run to run and have the same rights.

    It does not apply in the folders of `_KEPT_APART`, nor to anything that is executed."""
    names_of_runs: defaultdict[tuple[str, Right], set[frozenset[str]]] = defaultdict(set)
    for names in runs:
        groups: defaultdict[tuple[str, Right], set[str]] = defaultdict(set)
        for path, rights in names.items():
            groups[_folder(path), rights].add(path)
        for group, paths in groups.items():
            names_of_runs[group].add(frozenset(paths))

    def move(path: str, rights: Right) -> Move | None:
        folder = _folder(path)
        is_varied = len(names_of_runs[folder, rights]) > 1 and folder not in _KEPT_APART and Right.EXECUTE not in rights
        return (folder, rights, "the names in it differ from run to run") if is_varied else None

    return move


def of_many_names(runs: list[Names]) -> Callable[[str, Right], Move | None]:
    """Return the rule that grants the folder instead of its names, if at least `MANY` of them are read and nothing else is done
    with them."""
    read = {path for names in runs for path, rights in names.items() if rights == Right.READ}
    count = Counter(map(_folder, read))

    def move(path: str, rights: Right) -> Move | None:
        folder = _folder(path)
        if rights == Right.READ and count[folder] >= MANY and folder not in _KEPT_APART:
            return folder, rights, f"{count[folder]} of its files were read"
        return None

    return move


RULES: tuple[Callable[[list[Names]], Callable[[str, Right], Move | None]], ...] = (
    of_trees,
    of_numbers,
    of_varied_names,
    of_many_names,
)


def _moved(names: Names, move: Callable[[str, Right], Move | None], why: dict[str, str]) -> Names:
    """Return the names with the rights that `move` names moved to the folder that it names; other rights stay."""
    result: Names = {}
    for path, rights in names.items():
        folder, taken, reason = move(path, rights) or (path, NOTHING, "")
        if taken:
            why[folder] = reason
        for place, part in ((folder, taken), (path, rights & ~taken)):
            if part:
                result[place] = result.get(place, NOTHING) | part
    return result


def _with_equal_rights(runs: list[Names], why: dict[str, str]) -> list[Names]:
    """Return the names with equal rights for all folders between which files are moved.  Landlock denies a move by which a file
    would gain rights, so a repeated run could fail otherwise."""
    moving = {path for names in runs for path, rights in names.items() if Right.MOVE in rights}
    whole = reduce(or_, (names[path] for names in runs for path in moving & names.keys()), NOTHING)
    why |= dict.fromkeys(moving, "files are moved to or from here, and Landlock denies moves that gain rights")
    return [{path: whole if path in moving else rights for path, rights in names.items()} for names in runs]


def _folder(path: str) -> str:
    return next(folder for index, folder in enumerate(folders(path)) if index or folder == "/")


@cache
def trees() -> dict[str, str]:
    """Return the folders that are granted as a whole, with the reasons."""
    lines = Path(__file__).with_name("trees.tsv").read_text("utf-8").splitlines()
    rows = [line.split("\t") for line in lines if not line.startswith("#")]
    return {path: reason for path, reason in rows}  # noqa: C416 -- dict() would take lists for pairs, as mypy says


def added(files: Files, runs: Sequence[Iterable[Use]], newest: Iterable[Use], *, exact: bool = False) -> Learned:
    """Return `files` with what the newest run needs beyond them; a use that they do not confine stays unconfined.

    Grants are made from all runs together, but only those that the newest run uses are added.
    """
    uses = list(newest)
    missing = [path for path, rights in _names(uses).items() if rights & ~granted(files.grants, path)]
    needed = learned(runs, exact=exact)
    grants = {path: rights for path, rights in needed.files.grants.items() if any(covers(path, name) for name in missing)}
    ports = [ranges(_ports([uses], use)) for use in ("connect", "bind")]
    whole = extended(files, Files(grants or None, *ports))
    return Learned(whole, {path: why for path, why in needed.why.items() if path in grants})
