"""Generalise the files and ports that runs used into a policy's grants, by a few rules, each with its reason.

A *use* is a path as a policy writes it, the rights, and the executable that used it (`callfence.learning.files`); or `tcp
connect` or `tcp bind`, a port, and the executable (`callfence.learning.ports`); or one of a host or unix socket
(`generalise_hosts`); or MADE, the path of a file that the run made in a folder which was there before, and ""; or PUBLIC and a
folder, or SOUGHT and a file that was not there (`configuration`).  A rule moves rights from a path to a folder above it, or a
port to a range.  Rules only add grants, and never grant the whole root, home or `/etc`.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import cache

from callfence.policygen.files.algebra import extended, granted, reduced
from callfence.policygen.files.bytecode import sources, with_sources
from callfence.policygen.files.calls import DNS, UDP_CONNECT
from callfence.policygen.files.configuration import configures, public, sought
from callfence.policygen.files.generalise_hosts import (
    added_hosts,
    learned_hosts,
    learned_queries,
    learned_sockets,
    recorded,
    with_queries,
)
from callfence.policygen.files.generalise_ports import spans
from callfence.policygen.files.made import KEPT_APART, MIN_GENERALISED, alike, made, numbered, removals
from callfence.policygen.grants import (
    BARE,
    KINDS,
    NONE,
    NOT_CONFINED,
    NOTHING,
    TCP,
    USES,
    Files,
    Ports,
    Right,
    ranges,
    rights_of,
)
from callfence.policygen.paths import covers, folders
from callfence.policygen.values import replace
from callfence.tracer.abi.constants import table_rows
from callfence.tracer.named import NamedTuple

Use = tuple[str, str, str]
Names = dict[str, Right]
"""Path -> the rights to it."""
Move = tuple[str, Right, str]
"""The folder that gets rights instead of a path below it, these rights, and the reason."""

_SHARDS = re.compile(r"(?:/[0-9a-f]{1,3})+/(?=[a-z]*[0-9]+[a-z]+[0-9]|[0-9]+(?![0-9a-z]))[0-9a-z]{16,}(?:[-_.]\w+)?$")
"""The end of a path in a store that is addressed by content: one or more folders named by the first digits of a hash, then a
file named by a hash, in hexadecimal or base 32, or by the rest of one.  It has digits between letters, unlike most words."""
_THREADS = "/proc/self/task/"
_SHARD = re.compile(r"/[0-9a-f]{2}$")
_LETTER = re.compile(r"[a-f]")
_FEW = 3
"""Number of folders with two hexadecimal digits as names, one of them a letter, that make the folder above them a store."""


class Learned(NamedTuple):
    """The files that runs need, and why some grants exceed what the runs used."""

    files: Files
    why: Mapping[str, str]
    """Path of a grant that a rule made, or `tcp connect` or `tcp bind` -> the reason."""
    removes: frozenset[str] = frozenset()
    """The folders in which `remove` is granted although no run may have used it (`removals`)."""
    absent: frozenset[str] = frozenset()
    """The files of configuration that are granted because runs looked for them, though they were not there (`sought`)."""


def learned(runs: Sequence[Iterable[Use]], *, exact: bool = False, hosts: bool = True) -> Learned:
    """Return what these runs need; the order of the runs does not matter.  `exact`: grant only the names that they used.
    `hosts`: where a run recorded to which hosts it connects, grant ports there, not at any host."""
    parsed = [_names(run) for run in runs]
    why: dict[str, str] = {}
    if not exact:
        parsed = [with_sources(names, why) for names in parsed]
    # Of configuration last: the folder of several such folders may have one for few users.
    for rule in () if exact else (of_own_files(made(runs)), *RULES, of_configuration(public(runs))):
        move = rule(parsed)
        parsed = [_moved(names, move, why) for names in parsed]
    whole: Names = {}
    for path, rights in (item for names in parsed for item in names.items()):
        whole[path] = whole.get(path, NOTHING) | rights
    absent = set() if exact else {path for path in sought(runs) if Right.READ not in granted(whole, path)}
    for path in absent:
        whole[path] = whole.get(path, NOTHING) | Right.READ
    removes = set() if exact else {folder for folder in removals(made(runs)) if Right.CREATE in granted(whole, folder)}
    for folder in removes:
        whole[folder] = whole.get(folder, NOTHING) | Right.REMOVE
    why |= dict.fromkeys(moving(whole), "files are moved to or from here, and Landlock denies moves that gain rights")
    grants = reduced(with_equal_rights(whole))
    of_any_host = _without_hosts(runs) if hosts else runs
    ports = {use: generalised_ports(of_any_host if use == "connect" else runs, use, exact=exact) for use in TCP}
    why = {path: why[path] for path in grants if path in why}
    why |= {f"tcp {use}": text for use in TCP for text in ports[use].values() if text}
    connect, bind = (ranges(ports[use]) for use in TCP)
    if not any(map(recorded, runs)):
        return Learned(Files(grants, connect, bind), why, frozenset(removes), frozenset(absent))
    connects = learned_hosts(runs if hosts else (), "connect", exact=exact)
    sends = learned_hosts(runs, "send", exact=exact)
    unix, reasons = learned_sockets(runs, exact=exact)
    query, of_names = learned_queries(runs, (*connects.ports, *sends.ports), exact=exact)
    files = Files(grants, connect, bind, (), unix, connects.ports, sends.ports, query)
    return Learned(files, {**why, **connects.why, **sends.why, **reasons, **of_names}, frozenset(removes), frozenset(absent))


def _without_hosts(runs: Sequence[Iterable[Use]]) -> list[Iterable[Use]]:
    """Return the runs in which hosts were not recorded."""
    return [run for run in runs if not recorded(run)]


def beside_hosts(run: Sequence[Use]) -> list[Use]:
    """Return the uses of a run without its ports to connect to, if it has the hosts, too."""
    ports = ("tcp connect", UDP_CONNECT) if recorded(run) else ()
    return [use for use in run if use[0] not in ports]


def _names(run: Iterable[Use]) -> Names:
    names: Names = {}
    for path, words, _ in run:
        if is_path(path):
            names[path] = names.get(path, NOTHING) | rights_of(words)
    return names


def is_path(name: str) -> bool:
    """Return whether a use is of a file, not of a port or a socket."""
    return name.startswith(("/", ".", "$"))


def kind_of(use: Use) -> str:
    """Return which of `grants.KINDS` a use belongs to; "" if no line grants it."""
    if is_path(use[0]):
        return "paths"
    return next((kind for kind, start in (USES | BARE).items() if use[0] == start or use[0].startswith(f"{start} ")), "")


def begun(runs: Sequence[Iterable[Use]]) -> Files:
    """Return the files of a policy that confines, without a grant, the kinds whose uses were recorded in all of the runs."""
    kinds = [{kind_of(use) for use in run} for run in runs]
    of_all = set.intersection(*kinds) if kinds else set()
    return replace(NOT_CONFINED, **{kind: {} if kind == "paths" else () for kind in KINDS if kind in of_all})


def generalised_ports(
    runs: Sequence[Iterable[Use]], use: str, more: Iterable[int] = (), *, exact: bool = False
) -> dict[tuple[int, int], str]:
    """Return the ranges of ports (first, last) that these runs need for a use, one of TCP, and those with `more` ports.  The
    value is the reason why a range has ports that no run used, or ''.  `exact`: there are none."""
    return spans([_ports(run, use) for run in runs], more, exact=exact)


def _ports(run: Iterable[Use], use: str) -> set[int]:
    """Return the ports that a run used.  A program that asks name servers by UDP connects to them if an answer is too long."""
    ports = {int(value) for line, value, _ in run if line == f"tcp {use}" and value != NONE}
    asks = use == "connect" and any(line == UDP_CONNECT and value == str(DNS) for line, value, _ in run)
    return ports | {DNS} if asks else ports


# Rules.  Each takes the names of every run, and returns a function that says of a name and its rights what is moved where.


def of_configuration(folders: Collection[str]) -> Callable[[list[Names]], Callable[[str, Right], Move | None]]:
    """Return the rule that grants one of these folders of configuration once a file in it is read: editors and updates replace
    files there, and a reload may read others."""

    def move(path: str, rights: Right) -> Move | None:
        folder = next((one for one in configures(path) if one in folders), "")
        if not folder or Right.READ not in rights:
            return None
        return folder, Right.READ, "every user may read this configuration, and editing replaces its files"

    return lambda _: move


def of_own_files(made: Iterable[str]) -> Callable[[list[Names]], Callable[[str, Right], Move | None]]:
    """Return the rule that grants the folder in which runs made (`made`) files whose names differ in a number, or what is below
    such folders, once one of them is used: the next run finds the others."""
    kinds = numbered(made)

    def move(path: str, rights: Right) -> Move | None:
        for above in reversed([*folders(path)]):  # the outermost first
            if Right.EXECUTE not in rights and alike(above) in kinds:
                return _folder(above), rights, "the program makes files there with other numbers in their names"
        return None

    return lambda _: move


def of_trees(runs: list[Names]) -> Callable[[str, Right], Move | None]:
    """Return the rule that grants the whole tree of libraries or read-only data, whose names change with each update."""

    def move(path: str, rights: Right) -> Move | None:
        if not rights & Right.READ:
            return None
        for tree, why in trees().items():
            above = [tree] if tree.startswith("/") else [folder for folder in folders(path) if folder.endswith(tree[1:])]
            if above and covers(above[-1], path) and path != above[-1]:
                return above[-1], rights & Right.READ, why
        return None

    return move


def of_stores(runs: list[Names]) -> Callable[[str, Right], Move | None]:
    """Return the rule that grants a store whose files are named by their content: the next run has other content.

    A store is a folder of `stores.tsv`, or one below which folders named by a few hexadecimal digits hold files named by long
    hashes.  Nothing that is executed is granted so."""
    every = {path for names in runs for path in names}
    roots = {match.string[: match.start()] for path in every if (match := _SHARDS.search(path))}
    shards = {path for path in every if _SHARD.search(path)}
    count, lettered = (Counter(map(_folder, some)) for some in (shards, {path for path in shards if _LETTER.search(path[-2:])}))
    roots |= {folder for folder in lettered if count[folder] >= _FEW}
    roots -= {*KEPT_APART, "", ".", "$TMPDIR"}

    def move(path: str, rights: Right) -> Move | None:
        if Right.EXECUTE in rights:
            return None
        for root in reversed([*folders(path)]):  # the outermost first
            why = next((why for end, why in stores().items() if f"{root}/".endswith(f"/{end}/")), "")
            if why and root not in KEPT_APART:
                return root, rights, why
            is_in = root in roots and root != path and re.fullmatch("[0-9a-f]{1,3}", path[len(root) + 1 :].partition("/")[0])
            if is_in:
                return root, rights, "names in it are hashes of what the files hold"
        return None

    return move


def of_numbers(runs: list[Names]) -> Callable[[str, Right], Move | None]:
    """Return the rule that grants all terminals instead of one, and to read all threads: the numbers change from run to run."""

    def move(path: str, rights: Right) -> Move | None:
        if path.startswith("/dev/pts/"):
            return "/dev/pts", rights, "the terminal's number changes from run to run"
        if path.startswith(_THREADS) and not rights & (Right.WRITE | Right.EXECUTE):
            return _THREADS.rstrip("/"), rights, "a thread's number changes from run to run"
        return None

    return move


def of_varied_names(runs: list[Names]) -> Callable[[str, Right], Move | None]:
    """Return the rule that grants the folder instead of its names, if they differ from run to run and have the same rights.

    It does not apply in the folders of `KEPT_APART`, nor to anything that is executed.  What is read below folders that are
    listed, and whose names vary, is granted with them."""
    names_of_runs: defaultdict[tuple[str, Right], set[frozenset[str]]] = defaultdict(set)
    for names in runs:
        groups: defaultdict[tuple[str, Right], set[str]] = defaultdict(set)
        for path, rights in names.items():
            groups[_folder(path), rights].add(path)
        for group, paths in groups.items():
            names_of_runs[group].add(frozenset(paths))
    varied = _varied_folders(names_of_runs)

    def move(path: str, rights: Right) -> Move | None:
        folder = _folder(path)
        is_varied = len(names_of_runs[folder, rights]) > 1 and folder not in KEPT_APART and Right.EXECUTE not in rights
        if is_varied:
            return folder, rights, _VARIED
        for above in reversed([*folders(path)][1:]):  # the outermost first
            if rights & Right.READ and Right.EXECUTE not in rights and above in varied:
                return _folder(above), rights & Right.READ, _VARIED
        return None

    return move


_VARIED = "the names in it differ from run to run"


def _varied_folders(names_of_runs: Mapping[tuple[str, Right], set[frozenset[str]]]) -> set[str]:
    """Return the folders that were listed in some runs, where others listed other folders beside them."""
    result: set[str] = set()
    for (folder, rights), names in names_of_runs.items():
        if rights == Right.LIST and len(names) > 1 and folder not in KEPT_APART:
            result |= frozenset.union(*names) - frozenset.intersection(*names)
    return result


def of_many_names(runs: list[Names]) -> Callable[[str, Right], Move | None]:
    """Return the rule that grants the folder instead of its names, if at least `MIN_GENERALISED` of them are read, or
    listed, and nothing else is done with them."""
    read = {(path, rights) for names in runs for path, rights in names.items() if not rights & ~Right.READ}
    count = Counter((_folder(path), rights) for path, rights in read)

    def move(path: str, rights: Right) -> Move | None:
        folder = _folder(path)
        if (many := count[folder, rights]) >= MIN_GENERALISED and folder not in KEPT_APART:
            what = "files were read" if rights == Right.READ else "folders were listed"
            return folder, rights, f"{many} of its {what}"
        return None

    return move


RULES: tuple[Callable[[list[Names]], Callable[[str, Right], Move | None]], ...] = (
    of_trees,
    of_stores,
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


def moving(grants: Mapping[str, Right]) -> list[str]:
    """Return the folders between which files are moved."""
    return [path for path, rights in grants.items() if Right.MOVE in rights]


def with_equal_rights(grants: Mapping[str, Right], *before: Mapping[str, Right]) -> Names:
    """Return the grants with what a folder between which files are moved gets, itself or with one above it, beyond any grants
    of `before` by which they are moved, in all such folders.  Landlock denies a move by which a file would gain rights, so a
    repeated run could fail otherwise."""
    more = NOTHING
    for path in moving(grants):
        had = [rights for one in before if Right.MOVE in (rights := granted(one, path))]
        for rights in had or [NOTHING]:
            more |= granted(grants, path) & ~rights
    return {**grants, **{path: grants[path] | more for path in moving(grants)}}


def _folder(path: str) -> str:
    return next(folder for index, folder in enumerate(folders(path)) if index or folder == "/")


@cache
def trees() -> dict[str, str]:
    """Return the folders that are granted as a whole, with the reasons; `*/NAME` is every folder of that name."""
    return dict(table_rows(__spec__, "trees.tsv"))


@cache
def stores() -> dict[str, str]:
    """Return the last names of the paths of stores, with the reasons why these are granted as a whole."""
    return dict(table_rows(__spec__, "stores.tsv"))


def lacking(files: Files, uses: Iterable[Use]) -> dict[str, Right]:
    """Return the paths that uses need and `files` does not grant, with the rights lacking; {} if files are not confined."""
    if files.paths is None:
        return {}
    every = ((path, rights & ~granted(files.paths, path)) for path, rights in _names(uses).items())
    return {path: rights for path, rights in every if rights}


def added(files: Files, runs: Sequence[Iterable[Use]], newest: Iterable[Use], *, latest: int = 1, exact: bool = False) -> Files:
    """Return `files` with what the newest runs need beyond them; a use that they do not confine stays unconfined.

    `newest`: the uses of the newest runs, which are the last ones, `latest` of them.  Grants are made from all runs together,
    but only those that the newest runs use are added.  If hosts are added
    (`connects_by_host`), `newest` has only those ports that are to be granted at any host (`beside_hosts`)."""
    uses = list(newest)
    missing = [*lacking(files, uses)]
    if not exact and files.paths is not None:  # once: who takes the right out of the policy does not want it
        earlier = runs[: len(runs) - latest]
        known = earlier if files.paths else ()
        guessed = (sought(runs) | _sources(runs)) - sought(known) - _sources(known)
        missing += [path for path in guessed if Right.READ not in granted(files.paths, path)]
        fresh = removals(made(runs)) - removals(made(earlier)) if len(runs) > 1 else ()
        missing += [folder for folder in fresh if Right.CREATE in granted(files.paths, folder)]
    needed = learned(runs, exact=exact)
    above = {folder for name in missing for folder in folders(name)}
    grants = {path: rights for path, rights in needed.files.grants.items() if path in above}
    fields = added_hosts(files, uses, needed.files)
    each = _without_hosts(runs) if "connect_to" in fields else runs
    fields["connect"] = _added_ports(files.ports("connect"), each, "connect", uses, exact=exact)
    fields["bind"] = _added_ports(files.ports("bind"), runs, "bind", uses, exact=exact)
    whole = extended(files, Files(grants or None, **fields))
    if grants and files.paths is not None and whole.paths is not None:
        whole = replace(whole, paths=reduced(with_equal_rights(whole.paths, files.paths)))
    return with_queries(files, whole, runs, uses, exact=exact)


def _sources(runs: Sequence[Iterable[Use]]) -> set[str]:
    return {path for run in runs for path in sources(_names(run))}


def _added_ports(had: Ports, runs: Sequence[Iterable[Use]], use: str, uses: Sequence[Use], *, exact: bool) -> Ports:
    """Return the ports to be granted for those in `uses` that `had` lacks."""
    lacking = {port for port in _ports(uses, use) if not any(first <= port <= last for first, last in had)}
    spans = generalised_ports(runs, use, lacking, exact=exact)
    return ranges(span for span in spans if any(span[0] <= port <= span[1] for port in lacking))
