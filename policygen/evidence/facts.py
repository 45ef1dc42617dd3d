"""Facts: what the pointers of an observation's events point to, as a few patterns that are the same from run to run.

    filename="/etc/redis.conf"          a path; `./` is the folder that the run began in, `~/` the home
    filename="/tmp/sort*"               `*` stands for what varies
    filename="/usr/lib/python3/**"      many names below that folder
    filename="./<secret>"               what looks like a key, a token or a password
    argv=["sh", "-c", ...]              the first words of a command
    uservaddr=127.0.0.1:6379            host and port
    addr=unix:"/run/systemd/notify"     a name in the file system; with `@`, an abstract one

Facts of several runs are joined as sets of paths in a tree of which every branch that grows too wide becomes `**`.  So the
result does not depend on the order in which they are joined, and a recording keeps few, and the most different.
"""

from __future__ import annotations

import os
import re
from functools import cache
from typing import TYPE_CHECKING

from policygen.evidence.pointed import PAGE, Value, arguments, evident, folder, pointed, quoted
from policygen.evidence.words import escaped, masked, steady
from tracer.abi import Kind
from tracer.named import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Set as AbstractSet

    from policygen.evidence.pointed import Caller
    from tracer.abi import Event

LONGEST = PAGE
"""Characters of a fact."""
MANY = "**"
MORE = "..."
"""The same at the end of a list of words."""
_PREFIX = {"path": "", "unix": "unix:", "text": "text:"}
_SORTS = {prefix.removesuffix(":"): sort for sort, prefix in _PREFIX.items()}
_NAME = r'(?:(?P<prefix>unix|text):)?"(?P<name>[^"]*)"'
_WORDS = r'\[(?:"[^"]*"(?:, "[^"]*")*(?:, \.\.\.)?|\.\.\.)\]'
_WORD = r'"[^"]*"|\.\.\.'
_HOST = r"(?:[0-9.]+|\[[0-9a-f:]+\]):(?:[0-9]+|\*\*?)"
_OTHER = r"[\w*]+"
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
    copied: str = ""
    """What stands for that folder; "" if nothing does."""
    home: str = ""
    temporary: tuple[str, ...] = _TEMPORARY


Fact = tuple[str, str, tuple[str, ...]]
"""An argument's name, the sort of its value, and the pattern's parts."""


def places(start: str, environment: Mapping[str, str], copied: str = "") -> Places:
    """Return the places of a run that begins in a folder, or in one that is `copied` from it, with an environment."""
    home, temporary = (environment.get(name, "").rstrip("/") for name in ("HOME", "TMPDIR"))
    folders = (*_TEMPORARY, *filter(None, [escaped(temporary)]))
    return Places(escaped(start.rstrip("/")), escaped(copied), escaped(home), folders)


class Varying(NamedTuple):
    """What varies from run to run."""

    ids: tuple[int, ...] = ()
    """Numbers of the event's thread and process."""
    created: AbstractSet[str] = frozenset()
    """Paths that the program has created with names of its own (`created`)."""


def facts(event: Event, values: Mapping[int, Value], where: Places, varying: Varying) -> list[Fact]:
    """Return what an event's arguments point to."""
    names = arguments(event.arch, event.number)
    return [(names[index].name, value.sort, _pattern(value, where, varying)) for index, value in values.items()]


def is_library(fact: Fact) -> bool:
    """Return whether it is the name of a shared library: a program opens some dozens before it does anything of its own."""
    name = fact[2][-1]
    return name.endswith(".so") or ".so." in name


def created(event: Event, values: Mapping[int, Value]) -> str:
    """Return the path that a call creates as mkstemp(3) and mkdtemp(3) do: a new file, or a folder of mode 0700; or ""."""
    place = created_at(event)
    return resolved(values[place]) if place in values else ""


def created_at(event: Event) -> int:
    """Return the place of the path that a call creates so; -1 if it creates none."""
    for index, bits, all_of in _creating(event.arch, event.number):
        if event.arguments[index] & bits == all_of:
            return index - 1
    return -1


@cache
def _creating(arch: int, number: int) -> tuple[tuple[int, int, int], ...]:
    """Return the arguments after a path that decide whether a call creates it so: place, bits, and their value then."""
    return tuple(
        (index, _EXCLUSIVE, _EXCLUSIVE) if argument.constants == "open_flags" else (index, 0o777, 0o700)
        for index, argument in enumerate(arguments(arch, number))
        if argument.constants == "open_flags" or (argument.name == "mode" and argument.kind is Kind.MODE)
    )


def resolved(value: Value) -> str:
    """Return the absolute path of a path; "" if it is no path, or that is not known."""
    if value.sort != "path" or (not value.folder and not value.parts[0].startswith("/")):
        return ""
    name = value.parts[0]
    path = name if name.startswith("/") else f"{value.folder}/{name}"
    if "//" not in path and "/." not in path and not path.endswith("/"):  # nearly all
        return path
    return "/" + "/".join(part for part in path.split("/") if part not in ("", "."))


def path_pattern(path: str, where: Places) -> str:
    """Return an absolute path of this machine as facts write it, without quotes."""
    return text(("", "path", _below(escaped(path), where, Varying())))[2:-1] if path.startswith("/") else escaped(path)


def _pattern(value: Value, where: Places, varying: Varying) -> tuple[str, ...]:
    ids, name = varying.ids, value.parts[0]
    if value.sort == "path":
        path = resolved(value)
        return _below(path, where, varying) if path else _split(f"?/{_steady(name, ids)}")
    if value.sort == "unix" and name.startswith("/"):
        return _below(name, where, varying)
    if value.sort in ("unix", "text"):
        return _split(_steady(name, ids))
    if value.sort == "address" and len(value.parts) == 2:
        return (name, "*" if int(value.parts[1]) >= _EPHEMERAL else value.parts[1])
    return tuple(_steady(part, ids) for part in value.parts)


def _below(path: str, where: Places, varying: Varying) -> tuple[str, ...]:
    """Return the parts of an absolute path."""
    ids = varying.ids
    if varying.created:
        path = _without_created(path, varying)
    for sign, above in ((".", where.start), (".", where.copied), ("~", where.home)):
        if above and path.startswith(above) and path[len(above) : len(above) + 1] in ("", "/"):
            return (sign, *[steady(part, ids) for part in path[len(above) + 1 :].split("/") if part])
    parts = path[1:].split("/") if path != "/" else []
    for above in where.temporary if path.startswith(where.temporary) else ():
        if path.startswith(f"{above}/"):
            depth = above.count("/")
            first = steady(parts[depth], ids, temporary=True)
            return ("/", *parts[:depth], first, *[steady(part, ids) for part in parts[depth + 1 :]])
    in_proc = parts[:1] == ["proc"]
    return ("/", *[steady(part, ids, process=in_proc) for part in parts])


def _without_created(path: str, varying: Varying) -> str:
    """Return the path with patterns for the names that the program has created."""
    parts = path.split("/")
    for end in range(2, len(parts) + 1):
        if "/".join(parts[:end]) in varying.created:
            return "/".join((*parts[: end - 1], steady(parts[end - 1], varying.ids, created=True), *parts[end:]))
    return path


def _steady(name: str, ids: tuple[int, ...]) -> str:
    return "/".join(steady(part, ids) for part in masked(name).split("/"))


def _split(name: str) -> tuple[str, ...]:
    """Return the parts of a name."""
    first, slash, rest = name.partition("/")
    return (first or slash, *(rest.split("/") if rest else ()))


def examples(event: Event, evidence: Iterable[str]) -> tuple[dict[int, str], list[str]]:
    """Return the first fact about each argument, by place and without the argument's name; and the other facts."""
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


def without_secrets(fact: str) -> str:
    """Return a fact of an older recording without what looks like a secret."""
    parsed = parse(fact)
    return text((parsed[0], parsed[1], tuple(map(masked, parsed[2])))) if parsed else fact


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
    """Return the fact of a text that `text` returned; None for others."""
    name, _, shown = fact.partition("=")
    if not name.isidentifier() or not shown.isprintable() or len(fact) > LONGEST:
        return None
    if match := re.fullmatch(_NAME, shown):
        return name, _SORTS[match["prefix"] or ""], _split(match["name"])
    if re.fullmatch(_WORDS, shown):
        return name, "words", tuple(part if part == MORE else part[1:-1] for part in re.findall(_WORD, shown))
    if re.fullmatch(_HOST, shown):
        return name, "address", shown.rpartition(":")[::2]
    return (name, "address", (shown,)) if re.fullmatch(_OTHER, shown) else None


def join(texts: Iterable[str]) -> tuple[str, ...]:
    """Return the union of facts, ascending.  Associative, commutative, idempotent.  Texts that are no facts are left out."""
    union = Union()
    for fact in map(parse, texts):
        if fact is not None:
            union.add(fact)
    return union.texts()


class _Tree(dict[str, "_Tree"]):
    """What may follow a part; `_END` if nothing may."""


class Union:
    """The union of facts (`join`), as they come."""

    __slots__ = ("_trees", "_wide")

    def __init__(self) -> None:
        self._trees: dict[tuple[str, str], _Tree] = {}
        """By the argument's name and the sort of its value."""
        self._wide: tuple[bytes, ...] | None = ()
        """See `wide`; None if that is to be found out."""

    def add(self, fact: Fact) -> bool:
        """Add a fact; return whether that changed the union."""
        name, sort, parts = fact
        is_new = _add(self._trees.setdefault((name, sort), _Tree()), parts, sort)
        if is_new:
            self._wide = None
        return is_new

    @property
    def wide(self) -> tuple[bytes, ...]:
        """The beginnings of absolute paths that are nothing new, because there are many below that folder."""
        if self._wide is None:
            many = [parts[1:-1] for _, sort, parts in self if sort == "path" and parts[0] + parts[-1] == f"/{MANY}"]
            folders = ["/".join(parts) for parts in many if parts]
            self._wide = tuple(f"/{folder}/".encode() for folder in folders if not {"*", "\\"} & {*folder})
        return self._wide

    def __iter__(self) -> Iterator[Fact]:
        return ((*head, parts) for head, tree in self._trees.items() for parts in _leaves(tree, ()))

    def texts(self) -> tuple[str, ...]:
        """Return the facts as texts, ascending."""
        return tuple(sorted(map(text, self)))


def _add(tree: _Tree, parts: tuple[str, ...], sort: str) -> bool:
    """Add a path to a tree; a branch that grows too wide becomes `**` for good.  Return whether that changed the tree."""
    end, limits = (MORE if sort == "words" else MANY), _WIDE[sort]
    is_new = False
    for depth, part in enumerate((*parts, _END)):
        if end in tree:
            break
        if depth == _DEEP and part != _END:
            part = end
        if part not in tree:
            is_new = True
            if part == end or (part != _END and len(tree.keys() - {_END}) >= limits[min(depth, len(limits) - 1)]):
                tree.clear()
                tree[end] = _Tree({_END: _Tree()})
                break
            tree[part] = _Tree()
        tree = tree[part]
    return is_new


def _leaves(tree: _Tree, before: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    for part, below in tree.items():
        if part == _END:
            yield before
        else:
            yield from _leaves(below, (*before, part))


_BEGIN = 128
"""Bytes of a path that are read to see where it is."""
MANY_CREATED = 4096
"""The most paths that a program has created which are remembered."""


class Pointers:
    """Follows the pointers of calls."""

    def __init__(self, where: Places) -> None:
        self._where = where
        self._created: set[str] = set()
        """Paths that the program has created with names of its own (`created`)."""

    def has(self, event: Event) -> bool:
        """Return whether a call has pointers that are followed."""
        return bool(evident(event.arch, event.number))

    def follow(self, event: Event, caller: Caller, union: Union | None) -> tuple[Union, bool]:
        """Return the facts so far with those of an event, and whether more events are worth following.

        They are if this event has a new fact, is about a shared library, of which a program opens some dozens before it does
        anything of its own, or has an absolute path within a folder of which there are many names, which is cheap to see.
        """
        union = Union() if union is None else union
        if union.wide and (where := _within(event, caller, union.wide)):
            return union, where == "absolute"
        values = pointed(event, caller)
        if (path := created(event, values)) and len(self._created) < MANY_CREATED:
            self._created.add(path)
        is_new = False
        for fact in facts(event, values, self._where, Varying(caller.ids, self._created)):
            is_new |= union.add(fact) or is_library(fact)
        return union, is_new


def _within(event: Event, caller: Caller, wide: tuple[bytes, ...]) -> str:
    """Return whether the only path of a call is in such a folder, `absolute` or `relative`; "" if not, or if it is created."""
    pointers = evident(event.arch, event.number)
    if len(pointers) != 1 or pointers[0][1].kind is not Kind.PATH or created_at(event) >= 0:
        return ""
    index, argument = pointers[0]
    address = event.arguments[index] & argument.mask
    begin = caller.read(address, min(PAGE - address % PAGE, _BEGIN))
    if begin.startswith(b"/") or b"\0" not in begin:
        return "absolute" * begin.startswith(wide)
    return "relative" * os.fsencode(f"{folder(event, index, caller)}/").startswith(wide)
