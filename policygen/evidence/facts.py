"""Facts: what the pointers of an observation's events point to, as a few patterns that are the same from run to run.

    filename="/etc/redis.conf"          a path; `./` is the folder that the run began in, `~/` the home
    filename="/tmp/sort*"               `*` stands for what varies
    filename="/usr/lib/python3/**"      many names below that folder
    argv=["sh", "-c", ...]              the first words of a command
    uservaddr=127.0.0.1:6379            host and port
    addr=unix:"/run/systemd/notify"     a name in the file system; with `@`, an abstract one

Facts of several runs are joined as sets of paths in a tree of which every branch that grows too wide becomes `**`.  So the
result does not depend on the order in which they are joined, and a recording keeps few, and the most different.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from policygen.evidence.pointed import PAGE, Value, evident, quoted
from policygen.evidence.words import escaped, steady
from tracer.abi import Arch, Kind, table

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from collections.abc import Set as AbstractSet

    from tracer.abi import Event

LONGEST = PAGE
"""Characters of a fact."""
MANY = "**"
MORE = "..."
"""The same at the end of a list of words."""
_PREFIX = {"path": "", "unix": "unix:", "text": "text:"}
_SORTS = {prefix.removesuffix(":"): sort for sort, prefix in _PREFIX.items()}
_NAME = re.compile(r'(?:(?P<prefix>unix|text):)?"(?P<name>[^"]*)"')
_WORDS = re.compile(r'\[(?:"[^"]*"(?:, "[^"]*")*(?:, \.\.\.)?|\.\.\.)\]')
_WORD = re.compile(r'"[^"]*"|\.\.\.')
_HOST = re.compile(r"(?:[0-9.]+|\[[0-9a-f:]+\]):(?:[0-9]+|\*\*?)")
_OTHER = re.compile(r"[\w*]+")
_TEMPORARY = ("/tmp", "/var/tmp", "/dev/shm", "/run/lock")
_EPHEMERAL = 32768
"""The first port that Linux chooses by itself (ip(7), ip_local_port_range)."""
_WIDE: Mapping[str, tuple[int, ...]] = {
    "path": (4, 8, 4, 3),
    "text": (8,),
    "words": (8, 4),
    "address": (8, 4),
    "unix": (4, 4),
}
"""How many branches a node may have, by depth; the last is that of all deeper ones."""
_EXCLUSIVE = 0o300  # O_CREAT|O_EXCL, asm-generic/fcntl.h
_DEEP = 8
"""Nodes below which all is `**`."""
_END = "\0"
"""After the last part."""


class Places(NamedTuple):
    """Folders that differ between machines, and that patterns name by a sign."""

    start: str = ""
    """Where the run began."""
    home: str = ""
    temporary: tuple[str, ...] = _TEMPORARY


Fact = tuple[str, str, tuple[str, ...]]
"""An argument's name, the sort of its value, and the pattern's parts."""


def places(start: str, environment: Mapping[str, str]) -> Places:
    """The places of a run that begins in a folder, with an environment."""
    home, temporary = (environment.get(name, "").rstrip("/") for name in ("HOME", "TMPDIR"))
    return Places(escaped(start.rstrip("/")), escaped(home), (*_TEMPORARY, *filter(None, [escaped(temporary)])))


class Varying(NamedTuple):
    """What varies from run to run."""

    ids: tuple[int, ...] = ()
    """Numbers of the event's thread and process."""
    made: AbstractSet[str] = frozenset()
    """Paths that the program has made so that no other has them (`makes`)."""


def facts(event: Event, values: Mapping[int, Value], where: Places, varying: Varying) -> list[str]:
    """What an event's arguments point to, as facts."""
    names = {index: argument.name for index, argument in evident(event.arch, event.number)}
    return [text((names[index], value.sort, _pattern(value, where, varying))) for index, value in values.items()]


def makes(event: Event, values: Mapping[int, Value]) -> str:
    """The path that a call makes as mkstemp(3) and mkdtemp(3) do: a file if there is none, a folder for oneself; or ""."""
    arch = Arch.from_audit(event.arch)
    arguments = table(arch).by_number[event.number].arguments if arch and values else ()
    for index, argument in enumerate(arguments):
        is_file = argument.constants == "open_flags" and event.arguments[index] & _EXCLUSIVE == _EXCLUSIVE
        is_folder = argument.name == "mode" and argument.kind is Kind.MODE and event.arguments[index] & 0o777 == 0o700
        if is_file or is_folder:
            return resolved(values[index - 1]) if index - 1 in values else ""
    return ""


def resolved(value: Value) -> str:
    """The absolute path of a path; "" if it is no path, or that is not known."""
    if value.sort != "path" or (not value.folder and not value.parts[0].startswith("/")):
        return ""
    name = value.parts[0]
    parts = (name if name.startswith("/") else f"{value.folder}/{name}").split("/")
    return "/" + "/".join(part for part in parts if part not in ("", "."))


def path_pattern(path: str, where: Places) -> str:
    """An absolute path of this machine, as facts write it, without quotes."""
    return text(("", "path", _below(escaped(path), where, Varying())))[2:-1] if path.startswith("/") else escaped(path)


def _pattern(value: Value, where: Places, varying: Varying) -> tuple[str, ...]:
    ids = varying.ids
    if value.sort == "path":
        path = resolved(value)
        return _below(path, where, varying) if path else ("?", *_steady(value.parts[0].split("/"), ids))
    if value.sort == "unix":
        name = value.parts[0]
        if name.startswith("/"):
            return _below(name, where, varying)
        return _steady(name.split("/"), ids)
    if value.sort == "address" and len(value.parts) == 2:
        host, port = value.parts
        return (host, "*" if int(port) >= _EPHEMERAL else port)
    return _steady(value.parts, ids)


def _below(path: str, where: Places, varying: Varying) -> tuple[str, ...]:
    """The parts of an absolute path."""
    ids = varying.ids
    if varying.made:
        path = _without_made(path, varying)
    for sign, folder in ((".", where.start), ("~", where.home)):
        if folder and (path == folder or path.startswith(f"{folder}/")):
            return (sign, *_steady(path[len(folder) + 1 :].split("/"), ids)) if path != folder else (sign,)
    parts = path[1:].split("/") if path != "/" else []
    for folder in where.temporary:
        if path.startswith(f"{folder}/"):
            depth = folder.count("/")
            return ("/", *parts[:depth], steady(parts[depth], ids, temporary=True), *_steady(parts[depth + 1 :], ids))
    in_proc = parts[:1] == ["proc"]
    return ("/", *(steady(part, ids, process=in_proc) for part in parts))


def _without_made(path: str, varying: Varying) -> str:
    """The path with patterns for the names that the program has made."""
    parts = path.split("/")
    for end in range(2, len(parts) + 1):
        if "/".join(parts[:end]) in varying.made:
            return "/".join((*parts[: end - 1], steady(parts[end - 1], varying.ids, made=True), *parts[end:]))
    return path


def _steady(parts: Iterable[str], ids: tuple[int, ...]) -> tuple[str, ...]:
    return tuple("/".join(steady(name, ids) for name in part.split("/")) for part in parts)


def examples(event: Event, evidence: Iterable[str]) -> tuple[dict[int, str], list[str]]:
    """Of each argument that facts are about the first one, by place and without the argument's name; and the other facts."""
    places = {argument.name: index for index, argument in evident(event.arch, event.number)}
    first: dict[int, str] = {}
    others = []
    for fact in evidence:
        name, _, shown = fact.partition("=")
        if name in places and places[name] not in first:
            first[places[name]] = shown
        else:
            others.append(fact)
    return first, others


# Facts as text


def text(fact: Fact) -> str:
    name, sort, parts = fact
    if sort in _PREFIX:
        first, rest = parts[0], "/".join(parts[1:])
        shown = _PREFIX[sort] + quoted(first + ("/" if rest and first != "/" else "") + rest)
    elif sort == "words":
        shown = f"[{', '.join(part if part == MORE else quoted(part) for part in parts)}]"
    else:
        shown = ":".join(parts)
    return f"{name}={shown}"


def parse(fact: str) -> Fact | None:
    """The fact of a text that `text` makes; None for any other."""
    name, _, shown = fact.partition("=")
    if not name.isidentifier() or not shown.isprintable() or len(fact) > LONGEST:
        return None
    if found := _NAME.fullmatch(shown):
        first, slash, rest = found["name"].partition("/")
        parts = (first or slash, *(rest.split("/") if rest else ()))
        return name, _SORTS[found["prefix"] or ""], parts
    if _WORDS.fullmatch(shown):
        return name, "words", tuple(part if part == MORE else part[1:-1] for part in _WORD.findall(shown))
    if _HOST.fullmatch(shown):
        return name, "address", shown.rpartition(":")[::2]
    return (name, "address", (shown,)) if _OTHER.fullmatch(shown) else None


def join(those: Iterable[str]) -> tuple[str, ...]:
    """The union of facts, ascending.  Associative, commutative, idempotent.  Texts that are no facts are left out."""
    trees: dict[tuple[str, str], _Tree] = {}
    for one in map(parse, those):
        if one is not None:
            _add(trees.setdefault(one[:2], _Tree()), one[2], one[1])
    return tuple(sorted(text((*head, parts)) for head, tree in trees.items() for parts in _leaves(tree, ())))


class _Tree(dict[str, "_Tree"]):
    """What may follow a part; `_END` if nothing may."""


def _add(tree: _Tree, parts: tuple[str, ...], sort: str) -> None:
    """Add a path to a tree, unless a branch of its grows too wide: then that is `**` for good."""
    end, limits = (MORE if sort == "words" else MANY), _WIDE[sort]
    for depth, part in enumerate((*parts, _END)):
        if end in tree:
            return
        if depth == _DEEP and part != _END:
            part = end
        if part not in tree:
            if part == end or (part != _END and len(tree.keys() - {_END}) >= limits[min(depth, len(limits) - 1)]):
                tree.clear()
                tree[end] = _Tree({_END: _Tree()})
                return
            tree[part] = _Tree()
        tree = tree[part]


def _leaves(tree: _Tree, before: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    for part, below in tree.items():
        if part == _END:
            yield before
        else:
            yield from _leaves(below, (*before, part))
