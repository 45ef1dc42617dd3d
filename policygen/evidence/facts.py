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
from collections.abc import Iterable, Iterator, Mapping, Set as AbstractSet
from functools import cache

from callfence.policygen.evidence.pointed import PAGE, Caller, Value, arguments, evident, folder, pointed, quoted
from callfence.policygen.evidence.words import escaped, masked, steady
from callfence.tracer.abi import Event, Kind
from callfence.tracer.named import NamedTuple

MAX_FACT = PAGE
"""The most characters of a fact."""
WILDCARD = "**"
MORE = "..."
"""Marks, at the end of a list of words, that more words follow."""
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
_WIDE: Mapping[str, tuple[int, ...]] = {"path": (4, 8, 4, 3), "text": (8,), "words": (8, 4), "address": (8, 4), "unix": (4, 4)}
"""The most branches of a node, by sort of value and depth; the last number is for all greater depths."""
_EXCLUSIVE = 0o300  # O_CREAT|O_EXCL, asm-generic/fcntl.h
_DEEP = 8
"""Depth below which everything is written as `**`."""
_END = "\0"
"""The node that ends a fact."""


class Places(NamedTuple):
    """The folders whose paths differ between machines; patterns have a sign such as `~` in place of each."""

    start: str = ""
    """The working folder in which the run began."""
    copied: str = ""
    """The folder in which the run began if that is a copy of `start`; "" if there is no copy."""
    home: str = ""
    temporary: tuple[str, ...] = _TEMPORARY


Fact = tuple[str, str, tuple[str, ...]]
"""An argument's name, the sort of its value (`Value.sort`), and the parts of the pattern."""


def places(start: str, environment: Mapping[str, str], copied: str = "") -> Places:
    """Return the places of a run: `start` is its working folder, `environment` has HOME and TMPDIR, and `copied` is the folder
    in which the run actually began, if that is a copy of `start`."""
    home, temporary = (environment.get(name, "").rstrip("/") for name in ("HOME", "TMPDIR"))
    folders = (*_TEMPORARY, *filter(None, [escaped(temporary)]))
    return Places(escaped(start.rstrip("/")), escaped(copied), escaped(home), folders)


class Varying(NamedTuple):
    """The numbers and paths that differ from run to run, in place of which a pattern has `*`."""

    ids: tuple[int, ...] = ()
    """The IDs of the event's thread and process."""
    created: AbstractSet[str] = frozenset()
    """Paths that the program has created with names of its own (`created`)."""


def facts(event: Event, values: Mapping[int, Value], where: Places, varying: Varying) -> list[Fact]:
    """Return one fact for each of `values` (index of an argument -> the data that it points to): the argument's name, the sort
    of the data, and the data as a pattern.  `where`: the folders that patterns abbreviate; `varying`: the ids and paths for
    which they have `*`."""
    names = arguments(event.arch, event.number)
    return [(names[index].name, value.sort, _pattern(value, where, varying)) for index, value in values.items()]


def is_library(fact: Fact) -> bool:
    """Return whether a fact is the name of a shared library."""
    name = fact[2][-1]
    return name.endswith(".so") or ".so." in name


def created(event: Event, values: Mapping[int, Value]) -> str:
    """Return the path that a call creates as mkstemp(3) or mkdtemp(3) does: an exclusively created file, or a folder of mode
    0700.  Return "" if the call creates no such path."""
    place = created_at(event)
    return resolved(values[place]) if place in values else ""


def created_at(event: Event) -> int:
    """Return the index of the argument whose path a call creates as in `created`; -1 if the call creates no such path."""
    for index, bits, all_of in _creating(event.arch, event.number):
        if event.arguments[index] & bits == all_of:
            return index - 1
    return -1


@cache
def _creating(arch: int, number: int) -> tuple[tuple[int, int, int], ...]:
    """Return the arguments that decide whether a call creates a path as in `created`: the index of each, the bits to compare,
    and the value that they must have."""
    return tuple(
        (index, _EXCLUSIVE, _EXCLUSIVE) if argument.constants == "open_flags" else (index, 0o777, 0o700)
        for index, argument in enumerate(arguments(arch, number))
        if argument.constants == "open_flags" or (argument.name == "mode" and argument.kind is Kind.MODE)
    )


def resolved(value: Value) -> str:
    """Return the absolute path of a value; "" if the value is not a path, or is relative to an unknown folder."""
    if value.sort != "path" or (not value.folder and not value.parts[0].startswith("/")):
        return ""
    name = value.parts[0]
    path = name if name.startswith("/") else f"{value.folder}/{name}"
    if "//" not in path and "/." not in path and not path.endswith("/"):  # nearly all
        return path
    return "/" + "/".join(part for part in path.split("/") if part not in ("", "."))


def path_pattern(path: str, where: Places) -> str:
    """Return the pattern, without quotes, of an absolute path on this machine; other text is only escaped."""
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
    """Return the parts of the pattern of an absolute path."""
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
    """Return the parts of a path, with `/` as the first of an absolute one."""
    first, slash, rest = name.partition("/")
    return (first or slash, *(rest.split("/") if rest else ()))


def examples(event: Event, evidence: Iterable[str]) -> tuple[dict[int, str], list[str]]:
    """Return two things from facts about an event's call: index of an argument -> the first fact about it, without the
    argument's name; and a list of the other facts, unchanged."""
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
    """Return a fact, of a recording of an older version, with `<secret>` in place of what looks like a secret."""
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
    """Return the fact whose text is `fact`; None if the text is not that of a fact.  The inverse of `text`."""
    name, _, shown = fact.partition("=")
    if not name.isidentifier() or not shown.isprintable() or len(fact) > MAX_FACT:
        return None
    if match := re.fullmatch(_NAME, shown):
        return name, _SORTS[match["prefix"] or ""], _split(match["name"])
    if re.fullmatch(_WORDS, shown):
        return name, "words", tuple(part if part == MORE else part[1:-1] for part in re.findall(_WORD, shown))
    if re.fullmatch(_HOST, shown):
        return name, "address", shown.rpartition(":")[::2]
    return (name, "address", (shown,)) if re.fullmatch(_OTHER, shown) else None


def join(texts: Iterable[str]) -> tuple[str, ...]:
    """Return the union of facts, given and returned as texts, in ascending order.  Associative, commutative, idempotent.

    Where more parts differ than `_WIDE` keeps, `**` (`...` among words) stands for all of them.  Texts that are not those of
    facts are left out."""
    union = Union()
    for fact in map(parse, texts):
        if fact is not None:
            union.add(fact)
    return union.texts()


class _Tree(dict[str, "_Tree"]):
    """The parts that may follow each part; `_END` where a fact ends."""


class Union:
    """A union of facts, as `join` makes it, to which facts are added one by one."""

    __slots__ = ("_trees", "_wide")

    def __init__(self) -> None:
        self._trees: dict[tuple[str, str], _Tree] = {}
        """The tree of parts for each argument's name and sort of value."""
        self._wide: tuple[bytes, ...] | None = ()
        """The cached result of `wide`; None if it has to be computed."""

    def add(self, fact: Fact) -> bool:
        """Add a fact; return whether that changed the union."""
        name, sort, parts = fact
        is_new = _add(self._trees.setdefault((name, sort), _Tree()), parts, sort)
        if is_new:
            self._wide = None
        return is_new

    @property
    def wide(self) -> tuple[bytes, ...]:
        """The beginnings of absolute paths, as bytes, below which the union already covers every name by `**`."""
        if self._wide is None:
            many = [parts[1:-1] for _, sort, parts in self if sort == "path" and parts[0] + parts[-1] == f"/{WILDCARD}"]
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
    end, limits = (MORE if sort == "words" else WILDCARD), _WIDE[sort]
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
"""Bytes of a path that are read to find the folder that it is in."""
MAX_CREATED = 4096
"""The most created paths that are remembered for a program."""


class Pointers:
    """Reads the data that the pointers of calls point to, as facts, and remembers the paths that the program has created."""

    def __init__(self, where: Places) -> None:
        self._where = where
        self._created: set[str] = set()
        """Paths that the program has created with names of its own (`created`)."""

    def has(self, event: Event) -> bool:
        """Return whether an event's call has pointers that are followed."""
        return bool(evident(event.arch, event.number))

    def follow(self, event: Event, caller: Caller, union: Union | None) -> tuple[Union, bool]:
        """Return `union` with the facts of an event added, and whether following the next event may be worth its cost.

        It may be if this event has a new fact, or names a shared library (a program opens dozens before its own work begins),
        or has an absolute path below a folder of `wide`, since such a path is cheap to check."""
        union = Union() if union is None else union
        if union.wide and (where := _within(event, caller, union.wide)):
            return union, where == "absolute"
        values = pointed(event, caller)
        if (path := created(event, values)) and len(self._created) < MAX_CREATED:
            self._created.add(path)
        is_new = False
        for fact in facts(event, values, self._where, Varying(caller.ids, self._created)):
            is_new |= union.add(fact) or is_library(fact)
        return union, is_new


def _within(event: Event, caller: Caller, wide: tuple[bytes, ...]) -> str:
    """Return `absolute` or `relative`, as the call's only path is, if it is below a folder of `wide` and not made; else ""."""
    pointers = evident(event.arch, event.number)
    if len(pointers) != 1 or pointers[0][1].kind is not Kind.PATH or created_at(event) >= 0:
        return ""
    index, argument = pointers[0]
    address = event.arguments[index] & argument.mask
    begin = caller.read(address, min(PAGE - address % PAGE, _BEGIN))
    if begin.startswith(b"/") or b"\0" not in begin:
        return "absolute" * begin.startswith(wide)
    return "relative" * os.fsencode(f"{folder(event, index, caller)}/").startswith(wide)
