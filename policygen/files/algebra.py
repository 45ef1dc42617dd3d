"""Combine and compare the files, ports, hosts, unix sockets and names of several policies exactly.

Each kind of line (`grants.KINDS`) is a *tree*: place -> the bits that its line grants there.  A grant holds at its place and at
everything that the place contains: the rights at a path are those granted to the path and to all folders above it, the ports at
a host those granted to the host and to all networks and names that contain it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache, reduce
from operator import and_, or_
from typing import Any

from callfence.policygen import hosts, paths
from callfence.policygen.files.places import MADE_BELOW
from callfence.policygen.grants import (
    ANY,
    BARE,
    DNS,
    KINDS,
    NO_PORT,
    NONE,
    NOT_CONFINED,
    NOTHING,
    TO_HOSTS,
    Files,
    Ports,
    Right,
    bare_line,
    closed,
    format_ports,
    format_rights,
    host_line,
    path_line,
    rights_of,
)
from callfence.policygen.paths import unquoted
from callfence.policygen.values import replace
from callfence.tracer.named import NamedTuple

Bits = Any  # a Right; the ports as an int, bit N for port N; 1 for a place of BARE
Grants = Mapping[str, Bits]
Rule = Callable[..., Any]


class Kind:
    """A kind of line as a tree: this class for unix sockets and names that are looked up (BARE), the others for the rest."""

    root = ANY
    """The place that contains every other."""
    nothing: Bits = 0

    def __init__(self, name: str) -> None:
        self.name = name
        """One of `grants.KINDS`."""
        self.containing: Callable[[str], tuple[str, ...]] = lru_cache(1024)(lambda place: tuple(self._containing(place)))
        """The place, then each place that contains it, up to the root."""

    def _containing(self, place: str) -> Iterator[str]:
        return hosts.PLACES[self.name].containing(place)

    def order(self, place: str) -> tuple[object, ...]:
        """Return a sort key: a place comes before those that it contains."""
        return hosts.PLACES[self.name].order(place)

    def line(self, place: str) -> str:
        """Return the part before the colon of the line for a place."""
        return bare_line(self.name, place)

    def words(self, bits: Bits) -> str:
        """Return what a line grants, after its colon; '' for nothing."""
        return ANY if bits else ""

    def closed(self, bits: Bits) -> Bits:
        """Return the bits with those that they imply."""
        return bits

    def grants(self, files: Files) -> Grants:
        """Return the tree of a policy; one with everything if it does not confine this kind."""
        places: tuple[str, ...] | None = getattr(files, self.name)
        return dict.fromkeys((ANY,) if places is None else places, 1)

    def fields(self, grants: Grants) -> dict[str, Any]:
        """Return the fields of `Files` for a tree."""
        return {self.name: tuple(place for place in grants if grants[place])}

    def place(self, line: str) -> str:
        """Return the place that a line of this kind, up to its colon, is about."""
        text = line.removeprefix(self.line(self.root)).strip()
        return unquoted(text) if text.startswith('"') else text or self.root

    def bits(self, words: str) -> Bits:
        """Return what a recorded use of this kind (`recording.model.Use`) needs, by its second field; `nothing` for NONE."""
        return int(words != NONE)

    def copied(self, files: Files) -> dict[str, Any]:
        """Return the fields of this kind as they are in `files`."""
        names = (self.name, f"{self.name}_to") if self.name in TO_HOSTS else (self.name,)
        return {name: getattr(files, name) for name in names}

    def kept(self, place: str) -> Bits:
        """Return the bits that the line for a place keeps though one for a place that contains it has them."""
        return self.nothing

    def united(self, grants: Grants, places: Iterable[str]) -> Bits:
        return reduce(or_, [grants.get(place, self.nothing) for place in places], self.nothing)

    def granted(self, grants: Grants, place: str) -> Bits:
        """Return the bits that hold at a place."""
        return self.united(grants, self.containing(place))


_MADE_BELOW = tuple(map(os.fsdecode, MADE_BELOW))


class _Paths(Kind):
    root = "/"
    nothing = NOTHING

    def _containing(self, place: str) -> Iterator[str]:
        return paths.folders(place)

    def order(self, place: str) -> tuple[object, ...]:
        return paths.order(place)

    def line(self, place: str) -> str:
        return path_line(place)

    def place(self, line: str) -> str:
        return super().place(line.removeprefix("path "))

    def bits(self, words: str) -> Bits:
        return rights_of(words)

    def words(self, bits: Bits) -> str:
        return format_rights(bits) if bits else ""

    def closed(self, bits: Bits) -> Bits:
        return closed(bits)

    def kept(self, place: str) -> Bits:
        return Right.CREATE if place.startswith(_MADE_BELOW) else NOTHING

    def grants(self, files: Files) -> Grants:
        return files.grants

    def fields(self, grants: Grants) -> dict[str, Any]:
        return {"paths": grants}


class _Ports(Kind):
    def _containing(self, place: str) -> Iterator[str]:
        return hosts.containing(place)

    def order(self, place: str) -> tuple[object, ...]:
        return hosts.order(place)

    def line(self, place: str) -> str:
        return host_line(self.name, place)

    def bits(self, words: str) -> Bits:
        return 1 << int(words) if words.isdecimal() else 0

    def words(self, bits: Bits) -> str:
        return format_ports(_ranges(bits)) if bits else ""

    def grants(self, files: Files) -> Grants:
        return {host: _bits(ports) for host, ports in ((ANY, files.ports(self.name)), *files.hosts(self.name).items())}

    def fields(self, grants: Grants) -> dict[str, Any]:
        ports = {host: _ranges(bits) for host, bits in grants.items()}
        at_any = ports.pop(ANY, NO_PORT)
        return {self.name: at_any, **({f"{self.name}_to": ports} if self.name in TO_HOSTS else {})}


def _bits(ports: Ports) -> int:
    return sum((2 << last) - (1 << first) for first, last in ports)


def _ranges(bits: int) -> Ports:
    """Return the fewest ranges of the ports whose bits are set."""
    spans, port = [], 0
    while bits:
        free = (bits & -bits).bit_length() - 1
        bits >>= free
        taken = (~bits & (bits + 1)).bit_length() - 1
        bits >>= taken
        spans.append((port + free, port + free + taken - 1))
        port += free + taken
    return tuple(spans)


TREES = {name: {"paths": _Paths, **dict.fromkeys(BARE, Kind)}.get(name, _Ports)(name) for name in KINDS}
"""Each of `grants.KINDS` as a tree."""
PATHS = TREES["paths"]
_STARTS = {"path ": PATHS, **{kind.line(kind.root): kind for kind in TREES.values() if kind is not PATHS}}
"""The beginning of each kind's lines."""


class Gap(NamedTuple):
    """A place at which, and below which, one of two trees grants more than the other."""

    place: str
    more: Bits
    less: Bits


def granted(grants: Mapping[str, Right], path: str) -> Right:
    """Return the rights that hold at a path."""
    rights: Right = PATHS.granted(grants, path)
    return rights


def reduced(grants: Grants, kind: Kind = PATHS, lines: Sequence[Grants] = ()) -> dict[str, Bits]:
    """Return the fewest grants that mean the same: each without the bits that a place has which contains its own.  A folder
    that needs a line keeps `create`, by which `enforce` makes it (`places.MADE_BELOW`), if one of `lines` has that for it;
    without `lines`, if its grant has."""
    own = {place: grants[place] & ~kind.united(grants, kind.containing(place)[1:]) for place in grants}
    for tree in lines or (grants,):
        own = {place: bits and bits | grants[place] & tree.get(place, bits) & kind.kept(place) for place, bits in own.items()}
    return {place: kind.closed(own[place]) for place in sorted(own, key=kind.order) if own[place]}


def combined(trees: Sequence[Grants], rule: Rule, kind: Kind = PATHS) -> dict[str, Bits]:
    """Return reduced grants that give each place the bits that `rule` makes of its bits in each of the trees.  Exact if the
    rule never gives a place fewer bits than one that contains it."""
    places = {place for tree in trees for place in tree}
    return reduced({place: rule(*(kind.granted(tree, place) for tree in trees)) for place in places}, kind, trees)


def gaps(old: Grants, new: Grants, kind: Kind = PATHS) -> list[Gap]:
    """Return every difference between two trees once: a difference of a place is not repeated for those that it contains."""
    differences: dict[str, Gap] = {}
    for place in sorted({*old, *new}, key=kind.order):
        before, after = kind.granted(old, place), kind.granted(new, place)
        more, less = after & ~before, before & ~after
        for gap in (differences[above] for above in kind.containing(place) if above in differences):
            more, less = more & ~gap.more, less & ~gap.less
        if more or less:
            differences[place] = Gap(place, more, less)
    return [*differences.values()]


class Difference(NamedTuple):
    """What one line of the second of two policies grants beyond the first, and what it no longer grants."""

    line: str
    """The line up to its colon, as `Files.lines` has it."""
    more: str
    """What is granted in addition, as the line writes it (`any` for a place of BARE: see `grants.written`); '' for nothing."""
    less: str


def differences(old: Files, new: Files) -> tuple[Difference, ...]:
    """Return the differences between the lines of two policies, in the lines' order.  A line for the name of a host also grants
    that it is looked up."""
    result: list[Difference] = []
    names, looked_up = [{*files.names} for files in (old, new)], [looking_up(files) for files in (old, new)]
    for kind in TREES.values():
        if kind.copied(old) == kind.copied(new) and (kind.name != "query" or old.asks_freely == new.asks_freely):
            continue
        before, after = (_look_ups_of(files, kind) or kind.grants(files) for files in (old, new))
        found = {gap.place: gap for gap in gaps(before, after, kind)}
        for place in (*before, *after) if kind.name in TO_HOSTS else ():
            gap = found.get(place, Gap(place, 0, 0))
            if place in names[1] and not looked_up[0](place):
                gap = gap._replace(more=gap.more or after.get(place, 0))
            if place in names[0] and not looked_up[1](place):
                gap = gap._replace(less=gap.less or before.get(place, 0))
            found |= {place: gap} if gap.more or gap.less else {}
        for place in [*found] if kind.name == "query" else ():
            if place != ANY and all(look(place) for look in looked_up):  # by the line of a host
                del found[place]
        found_gaps = sorted(found.values(), key=lambda gap: kind.order(gap.place))
        result += [Difference(kind.line(gap.place), kind.words(gap.more), kind.words(gap.less)) for gap in found_gaps]
    return tuple(result)


def _look_ups_of(files: Files, kind: Kind) -> Grants:
    """Return every name as look-ups where `dns query: none` confines none; {} for another policy or kind."""
    return {ANY: 1} if kind.name == "query" and files.asks_freely else {}


def looking_up(files: Files) -> Callable[[str], bool]:
    """Return a function that returns whether a policy lets a name, or all names below `*.NAME`, be looked up."""
    granted = None if files.query is None else {*files.query, *files.names}
    return lambda name: granted is None or not granted.isdisjoint(hosts.containing(name))


def united(a: Files, b: Files) -> Files:
    """Return the union: what either grants.  A use that either leaves unconfined is unconfined."""
    return _with_look_ups(_combined((a, b), or_), (a, b), any)


def intersected(a: Files, b: Files) -> Files:
    """Return the intersection: what both grant.  A use that neither confines is unconfined.  Where no name is left, it asks no
    name server by UDP, which it could ask for every name (`Files.asks_freely`), unless both could."""
    both = _with_look_ups(_combined((a, b), and_), (a, b), all)
    if not both.asks_freely or all(files.query is None or files.asks_freely for files in (a, b)):
        return both
    kind = TREES["send"]
    return replace(both, **kind.fields({host: ports & ~(1 << DNS) for host, ports in kind.grants(both).items()}))


def _with_look_ups(result: Files, policies: Sequence[Files], rule: Callable[[Iterable[bool]], bool]) -> Files:
    """Return `result` in which exactly those names are looked up for which `rule` holds of the policies: without the lines for
    other names of hosts, which the program cannot find, and with lines for the names of hosts that it has lost."""
    if result.query is None:
        return result
    named = dict.fromkeys(name for files in policies for name in (*files.names, *(files.query or ())) if name != ANY)
    looked_up = [looking_up(files) for files in policies]
    allowed = [name for name in named if rule(look(name) for look in looked_up)]
    if not {*result.names} <= {*allowed}:
        for kind in (TREES[use] for use in TO_HOSTS if getattr(result, use) is not None):
            grants = kind.grants(result)
            kept = {host: grants[host] for host in grants if host not in named}
            found = {host: kind.granted(grants, host) for host in allowed}
            result = replace(result, **kind.fields(reduced(kept | found, kind)))
    query = reduced(dict.fromkeys((*(result.query or ()), *allowed), 1), TREES["query"])
    names = {*result.names}
    return replace(result, query=tuple(name for name in query if names.isdisjoint(hosts.containing(name))))


def _combined(files: Sequence[Files], rule: Rule) -> Files:
    """Return the files that `rule` makes bit by bit of what is granted at each place, and of whether a kind is unconfined."""
    fields: dict[str, Any] = {}
    for kind in TREES.values():
        if not rule(*(_is_free(part, kind) for part in files)):
            fields |= kind.fields(combined([kind.grants(part) for part in files], rule, kind))
    return _with(NOT_CONFINED, {"query": None, **fields})


def _is_free(files: Files, kind: Kind) -> bool:
    """Return whether a policy does not confine a kind; that of names must be said to be free where there are names of hosts."""
    return getattr(files, kind.name) is None or (kind.name == "query" and ANY in (files.query or ()))


def _with(files: Files, fields: Mapping[str, Any]) -> Files:
    """Return `files` with these fields.  Hosts' names would confine look-ups: if the fields do not, `any` name is granted."""
    result = replace(files, **fields)
    is_free = fields.get("query", ()) is None and result.query is not None
    return replace(result, query=(ANY,)) if is_free else result


def extended(files: Files, more: Files) -> Files:
    """Return `files` with the grants of `more` added.  A use that either leaves unconfined is as in `files`."""
    whole = united(files, more)
    free = [kind for kind in TREES.values() if getattr(files, kind.name) is None or getattr(more, kind.name) is None]
    fields = {name: value for kind in free for name, value in kind.copied(files).items()}
    looked_up = files if more.query is None else more
    return _with_look_ups(_with(whole, {"query": whole.query, **fields}), (files, looked_up), any)


def line_kind(line: str) -> Kind | None:
    """Return the kind of a policy's line, given up to its colon or longer; None for what is no such line."""
    return next((kind for start, kind in _STARTS.items() if line.startswith(start)), None)


def freed(files: Files, kinds: Iterable[str]) -> Files:
    """Return `files` with some of `grants.KINDS` not confined."""
    return _with(files, {name: value for kind in kinds for name, value in TREES[kind].copied(NOT_CONFINED).items()})


def with_lines(files: Files, lines: Iterable[str], other: Files) -> Files:
    """Return `files` with some lines as in `other`, or without a line if `other` confines its kind and lacks it.  If one of
    the two does not confine that kind, all lines of the kind are those of `other`.  Raises ValueError for what is no line."""
    by_kind: dict[str, set[str]] = {}
    for line in lines:
        if (kind := line_kind(line)) is None:
            raise ValueError(f"no line about files, ports, hosts or sockets: {line}")
        by_kind.setdefault(kind.name, set()).add(line)
    for name, named in by_kind.items():
        kind = TREES[name]
        if getattr(files, name) is None or getattr(other, name) is None:
            files = _with(files, {"query": files.query, **kind.copied(other)})
            continue
        own = {place: bits for place, bits in kind.grants(files).items() if kind.line(place) not in named}
        theirs = {place: bits for place, bits in kind.grants(other).items() if kind.line(place) in named}
        files = _with(files, {"query": files.query, **kind.fields(own | theirs)})
    return files


def merged(base: Files, ours: Files, theirs: Files) -> tuple[Files, tuple[str, ...]]:
    """Return the three-way merge, and the lines in conflict.

    Each bit at each place is taken from the side that has changed it.  A line is in conflict if one side grants a bit to a
    place that contains another, from which the other side removes it; the result grants the bit."""
    if ours in (base, theirs) or theirs == base:
        return (theirs if ours == base else ours), ()
    sides = (base, ours, theirs)
    files = _combined(sides, _picked)
    conflicts = []
    for kind in TREES.values():
        *trees, result = ({**kind.grants(side), **_look_ups(side, kind)} for side in (*sides, files))
        every = {place for tree in trees for place in tree}
        conflicts += [
            kind.line(place)
            for place in sorted(every, key=kind.order)
            if kind.granted(result, place) != _picked(*(kind.granted(tree, place) for tree in trees))
        ]
    return files, tuple(conflicts)


def _look_ups(files: Files, kind: Kind) -> Grants:
    """Return the look-ups that lines of hosts grant; nothing for another kind."""
    return dict.fromkeys(files.names, 1) if kind.name == "query" else {}


def _picked(base: Any, ours: Any, theirs: Any) -> Any:
    """Return each bit from the side that has changed it."""
    return base ^ ((ours ^ base) | (theirs ^ base))
