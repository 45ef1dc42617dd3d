"""What runs did with files -> what a policy grants, by few rules, each with its reason.

A *use* is a path as a policy has it, its rights, and the executable that used it (`callfence.learning.files`).  A rule moves
rights from a path to a folder above it.  Rules only ever grant more, and never the root, a home or `/etc` as a whole.
"""

from __future__ import annotations

from functools import cache
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
"""By path."""

MANY = 8
"""Names in one folder that are read, from which on the folder is."""
_KEPT_APART = ("/", "/etc", "/home", "/root", "/dev", "/proc", "/sys", "/run", "/var", "/usr", "/opt", "$HOME", "$HOME/.config")
"""Folders that no rule grants: what is in them has nothing to do with each other."""
_READS = Right.READ
_EPHEMERAL = 32768
"""The first port that Linux chooses by itself (ip(7), ip_local_port_range); a server that binds one asked for any."""


class Learned(NamedTuple):
    """What runs need, and why it is more than they used."""

    files: Files
    why: Mapping[str, str]
    """By path of a grant that a rule has made: the reason."""


def learned(runs: Sequence[Iterable[Use]], *, exact: bool = False) -> Learned:
    """Return what these runs need; the order of the runs does not matter.  `exact`: each name that they used, as it is."""
    parsed = [_names(run) for run in runs]
    why: dict[str, str] = {}
    for rule in EXACT if exact else RULES:
        parsed = rule(parsed, why)
    whole: Names = {}
    for names in parsed:
        for path, rights in names.items():
            whole[path] = whole.get(path, NOTHING) | rights
    grants = reduced(whole)
    ports = {use: _ports(runs, use) for use in ("connect", "bind")}
    files = Files(grants, ranges(ports["connect"]), ranges(ports["bind"]))
    return Learned(files, {path: why[path] for path in grants if path in why})


def _names(run: Iterable[Use]) -> Names:
    found: Names = {}
    for path, words, _ in run:
        if is_path(path):
            found[path] = found.get(path, NOTHING) | rights_of(words)
    return found


def is_path(name: str) -> bool:
    """Whether a use is of a file, and not of a port or a socket."""
    return name.startswith(("/", ".", "$"))


def _ports(runs: Iterable[Iterable[Use]], use: str) -> set[int]:
    ports = {int(value) for run in runs for line, value, _ in run if line == f"tcp {use}"}
    return {0 if use == "bind" and port >= _EPHEMERAL else port for port in ports}


# Rules.  Each takes the names of every run, returns them with rights moved to folders, and notes why.


def of_trees(runs: list[Names], why: dict[str, str]) -> list[Names]:
    """Libraries and read-only data are granted by their tree: names in it change with each update of the machine."""

    def moved(path: str, rights: Right) -> tuple[str, Right]:
        for tree, reason in trees().items():
            if rights & _READS and covers(tree, path) and path != tree:
                why[tree] = reason
                return tree, _READS
        return path, NOTHING

    return [_moved(names, moved) for names in runs]


def of_numbers(runs: list[Names], why: dict[str, str]) -> list[Names]:
    """A terminal is granted with all terminals: its number is another one the next time."""

    def moved(path: str, rights: Right) -> tuple[str, Right]:
        if path.startswith("/dev/pts/"):
            why["/dev/pts"] = "the terminal's number is another one the next time"
            return "/dev/pts", rights
        return path, NOTHING

    return [_moved(names, moved) for names in runs]


def of_varied_names(runs: list[Names], why: dict[str, str]) -> list[Names]:
    """Names in a folder that differ from run to run, with the same rights, are granted by the folder: the next run has others.

    Not names in folders that are kept apart, and nothing that is executed."""
    every = {(path, rights) for names in runs for path, rights in names.items()}
    varied: set[tuple[str, Right]] = set()
    for path, rights in every:
        used_in = {index for index, names in enumerate(runs) if names.get(path) == rights}
        folder = _folder(path)
        if len(used_in) == len(runs) or folder in _KEPT_APART or Right.EXECUTE in rights:
            continue
        others = {
            index
            for other, same in every
            if other != path and same == rights and _folder(other) == folder
            for index, names in enumerate(runs)
            if names.get(other) == rights and index not in used_in
        }
        if others:
            varied.add((folder, rights))

    def moved(path: str, rights: Right) -> tuple[str, Right]:
        folder = _folder(path)
        if (folder, rights) in varied:
            why[folder] = "the names in it differ from run to run"
            return folder, rights
        return path, NOTHING

    return [_moved(names, moved) for names in runs]


def of_many_names(runs: list[Names], why: dict[str, str]) -> list[Names]:
    """Many files of one folder that are only read are granted by the folder: what is read is the folder's content."""
    read = {path for names in runs for path, rights in names.items() if rights == _READS}
    count: dict[str, int] = {}
    for path in read:
        count[_folder(path)] = count.get(_folder(path), 0) + 1

    def moved(path: str, rights: Right) -> tuple[str, Right]:
        folder = _folder(path)
        if rights == _READS and count[folder] >= MANY and folder not in _KEPT_APART:
            why[folder] = f"{count[folder]} files of it were read"
            return folder, rights
        return path, NOTHING

    return [_moved(names, moved) for names in runs]


def of_moves(runs: list[Names], why: dict[str, str]) -> list[Names]:
    """Folders between which files move get the same rights: Landlock lets no file gain rights by moving."""
    moving = {path for names in runs for path, rights in names.items() if Right.MOVE in rights}
    whole = NOTHING
    for names in runs:
        for path, rights in names.items():
            if path in moving:
                whole |= rights
    for path in moving:
        why[path] = "files are moved between it and another folder, and may gain no rights by that"
    return [{path: whole if path in moving else rights for path, rights in names.items()} for names in runs]


RULES: tuple[Callable[[list[Names], dict[str, str]], list[Names]], ...] = (
    of_trees,
    of_numbers,
    of_varied_names,
    of_many_names,
    of_moves,
)

EXACT = (of_moves,)
"""What even those names need: without it, a run that is repeated could be denied what it did."""


def _moved(names: Names, move: Callable[[str, Right], tuple[str, Right]]) -> Names:
    """Return the names with some rights of each moved to where `move` says; the others stay."""
    found: Names = {}
    for path, rights in names.items():
        place, taken = move(path, rights)
        for where, what in ((place, taken), (path, rights & ~taken)):
            if what:
                found[where] = found.get(where, NOTHING) | what
    return found


def _folder(path: str) -> str:
    return next(one for index, one in enumerate(folders(path)) if index or one == "/")


@cache
def trees() -> dict[str, str]:
    """Return the folders that are granted as a whole, with the reasons."""
    lines = Path(__file__).with_name("trees.tsv").read_text("utf-8").splitlines()
    rows = [line.split("\t") for line in lines if not line.startswith("#")]
    return {path: reason for path, reason in rows}  # noqa: C416 -- dict() would take lists for pairs, as mypy says


def added(files: Files, runs: Sequence[Iterable[Use]], newest: Iterable[Use], *, exact: bool = False) -> Learned:
    """Return the files with what the newest of the runs needs beyond them; what they do not confine stays so.

    Of what the runs need together, only those grants are added that the newest one has use for.
    """
    uses = list(newest)
    missing = [path for path, rights in _names(uses).items() if rights & ~granted(files.grants, path)]
    found = learned(runs, exact=exact)
    grants = {path: rights for path, rights in found.files.grants.items() if any(covers(path, one) for one in missing)}
    ports = [ranges(_ports([uses], use)) for use in ("connect", "bind")]
    made = extended(files, Files(grants or None, *ports))
    return Learned(made, {path: why for path, why in found.why.items() if path in grants})
