"""What a policy grants beside calls: rights to paths, sets of ports, hosts, unix sockets and names; the value that holds all.

docs/files.md lists each right's word with its Landlock rights; docs/hosts.md is about hosts, unix sockets and names.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Flag, auto
from types import MappingProxyType

from callfence.policygen.paths import order, shown
from callfence.policygen.values import frozen


class Right(Flag):
    """What may be done with a file, or with a folder and everything below it.

    Each right is a word of the policy language, and one or more rights of Landlock (`landlock.ACCESS`).  There is no right for
    ioctl: the filter decides on its command, which Landlock does not see."""

    CONTENT = auto()
    """Open a file to read it.  It has no word of its own: whoever grants it grants LIST as well, and `Files` adds that."""
    LIST = auto()
    """List a folder."""
    READ = CONTENT | LIST
    """Open a file to read it, list a folder."""
    WRITE = auto()
    """Open a file to write it, truncate it."""
    CREATE = auto()
    """Make a file or a folder, or a link to a file."""
    REMOVE = auto()
    """Remove a file or a folder, or replace it by another."""
    EXECUTE = auto()
    """Execute a file; this needs `read` as well."""
    MOVE = auto()
    """Rename from one folder into another, or link; both folders need it."""
    SYMLINK = auto()
    """Make a symbolic link."""
    SOCKET = auto()
    """Make a unix socket."""
    FIFO = auto()
    """Make a named pipe."""
    DEVICE = auto()
    """Make a device."""

    @property
    def word(self) -> str:
        """The word of a single right; that of CONTENT is `read`."""
        return str((Right.READ if self is Right.CONTENT else self).name).lower()


NOTHING = Right(0)
ALL = ~NOTHING
OF_A_FILE = Right.READ | Right.WRITE | Right.EXECUTE
"""The rights that a file which is no folder can have."""
NONE, ANY = "none", "any"
"""The words of lines that grant no right or no port, and every right or every port."""


def closed(rights: Right) -> Right:
    """Return the rights with those that they imply: `read` implies `list`."""
    return rights | Right.LIST if Right.CONTENT in rights else rights


WORDS = {right.word: closed(right) for right in Right}


def format_rights(rights: Right) -> str:
    """Return the words of the rights, as a `path` line writes them: `list` is missing beside `read`."""
    shown = rights & ~Right.LIST if Right.CONTENT in rights else rights
    return ANY if rights == ALL else ", ".join(right.word for right in shown) or NONE


def rights_of(words: str) -> Right:
    """Return the rights with these words; an unknown word adds no right."""
    rights = ALL if words == ANY else NOTHING
    for word in words.split(", "):
        rights |= WORDS.get(word, NOTHING)
    return rights


Ports = tuple[tuple[int, int], ...]
"""Ranges of ports: the first and last port of each."""

MAX_PORT, DNS = 65535, 53
ANY_PORT: Ports = ((0, MAX_PORT),)
NO_PORT: Ports = ()


def single(ports: Ports) -> set[int]:
    return {port for first, last in ports for port in range(first, last + 1)}


def ranges(spans: Iterable[tuple[int, int]]) -> Ports:
    """Return the fewest ranges that have exactly the ports of these, which may overlap."""
    result: list[tuple[int, int]] = []
    for first, last in sorted(spans):
        if result and first <= result[-1][1] + 1:
            result[-1] = (result[-1][0], max(result[-1][1], last))
        else:
            result.append((first, last))
    return tuple(result)


def format_ports(ports: Ports) -> str:
    """Return the ports as a `tcp` line writes them."""
    if ports == ANY_PORT:
        return ANY
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in ports) or NONE


TCP = ("connect", "bind")
"""The uses of a TCP port that a `tcp` line can grant, which are those that Landlock confines."""
USES = {"connect": "tcp connect", "bind": "tcp bind", "send": "udp send"}
"""The uses of a port -> the beginning of the line that grants ports of any host."""
TO_HOSTS = ("connect", "send")
"""The uses of a port whose lines can name a host."""
BARE = {"unix": "unix connect", "query": "dns query"}
"""What is granted or not, without ports or rights -> the beginning of the line that grants one such place."""
UNIX, QUERY = BARE.values()
KINDS = ("paths", *USES, *BARE)
"""What a policy can confine: the attributes of `Files`."""
STATEMENTS = ("path", *dict.fromkeys(line.split()[0] for line in (*USES.values(), *BARE.values())))
"""The words that begin a line which grants something beside calls."""


@frozen
class Files:
    """The files, ports, hosts and unix sockets that the program can reach, and the names that it can look up; None for a kind
    that is not confined: the filter alone decides."""

    paths: Mapping[str, Right] | None = None
    """Canonical path (`paths.canonical`) -> the rights to the file, or to the folder and everything below it."""
    connect: Ports | None = None
    """The TCP ports of any host to which the program can connect.  It is not None if `connect_to` has a host."""
    bind: Ports | None = None
    """The TCP ports that the program can bind."""
    send: Ports | None = None
    """The UDP ports of any host to which the program can send.  It is not None if `send_to` has a host."""
    unix: tuple[str, ...] | None = None
    """The unix sockets (`hosts.canonical_socket`) to which the program can connect or send, in the order of their lines."""
    connect_to: Mapping[str, Ports] = MappingProxyType({})
    """Canonical host (`hosts.canonical`, but not `any`) -> the TCP ports to which the program can connect there."""
    send_to: Mapping[str, Ports] = MappingProxyType({})
    """The same for UDP."""
    query: tuple[str, ...] | None = None
    """The names (`hosts.canonical_query`) that the program can look up, beside `names`, in the order of their lines.  It is not
    None if there are `names`: a policy that names hosts lets nothing else be looked up."""

    def __post_init__(self) -> None:
        if self.paths is not None:  # without a line, no files are confined
            sorted_ = {path: closed(self.paths[path]) for path in sorted(self.paths, key=order)} or {"/": NOTHING}
            object.__setattr__(self, "paths", MappingProxyType(sorted_))
        for use in TO_HOSTS:
            if hosts := self.hosts(use):
                from callfence.policygen.hosts import order as host_order

                by_host = {host: hosts[host] for host in sorted(hosts, key=host_order) if hosts[host]}
                object.__setattr__(self, f"{use}_to", MappingProxyType(by_host))
                if getattr(self, use) is None:
                    object.__setattr__(self, use, NO_PORT)
        for kind in BARE:
            if places := getattr(self, kind):
                from callfence.policygen.hosts import PLACES

                object.__setattr__(self, kind, tuple(sorted(set(places), key=PLACES[kind].order)))
        if self.query is None and self.names:
            object.__setattr__(self, "query", ())

    @property
    def grants(self) -> Mapping[str, Right]:
        """The rights by path; all rights to `/` if files are not confined."""
        return {"/": ALL} if self.paths is None else self.paths

    def ports(self, use: str) -> Ports:
        """Return the ports that are granted for a use (one of `USES`) at any host; all ports if the use is not confined."""
        ports: Ports | None = getattr(self, use)
        return ANY_PORT if ports is None else ports

    def hosts(self, use: str) -> Mapping[str, Ports]:
        """Return the ports that are granted for a use beyond `ports`, by host."""
        hosts: Mapping[str, Ports] = getattr(self, f"{use}_to", {})
        return hosts

    @property
    def names(self) -> tuple[str, ...]:
        """The names of hosts in lines about ports, which the program can look up."""
        hosts = (*self.connect_to, *self.send_to)
        if not hosts:
            return ()
        from callfence.policygen.hosts import is_name

        return tuple(filter(is_name, hosts))

    @property
    def asks_servers(self) -> bool:
        """Whether the program can send to port 53 of some host by UDP."""
        ports = self.every_port("send")
        return ports is None or any(first <= DNS <= last for first, last in ports)

    @property
    def asks_freely(self) -> bool:
        """Whether names are not confined in spite of `dns query: none`: a policy without any name leaves look-ups to its lines
        about UDP, and these let name servers be asked."""
        return self.query == () and not self.names and self.asks_servers

    def every_port(self, use: str) -> Ports | None:
        """Return the ports that are granted for a use at any host or at one of its hosts; None if the use is not confined."""
        at_any: Ports | None = getattr(self, use)
        spans = [span for ports in self.hosts(use).values() for span in ports]
        return ranges((*(at_any or ()), *spans)) if spans else at_any

    def lines(self, *, whole: bool = False) -> dict[str, str]:
        """Return the policy's lines in canonical order: `path PATH`, `tcp USE` or `udp send`, also with ` HOST`, `unix connect
        SOCKET` or `dns query NAME` -> what the line grants, after its colon; "" for a line without a colon.

        `whole`: with the lines that grant nothing beside others of their kind, or beside names, and so are not printed."""
        lines = {path_line(path): format_rights(rights) for path, rights in (self.paths or {}).items()}
        for use, start in USES.items():
            hosts = self.hosts(use)
            if getattr(self, use) is not None and (self.ports(use) or not hosts or whole):
                lines[start] = format_ports(self.ports(use))
            lines |= {host_line(use, host): format_ports(ports) for host, ports in hosts.items()}
        for kind, start in BARE.items():
            places: tuple[str, ...] | None = getattr(self, kind)
            if places is not None:
                named = [place for place in places if place != ANY]
                says_more = named or (kind == "query" and self.names)
                lines |= {start: ANY} if ANY in places else {} if says_more and not whole else {start: NONE}
                lines |= {bare_line(kind, place): "" for place in named}
        return lines


NOT_CONFINED = Files()
EVERYTHING = Files({"/": ALL}, ANY_PORT, ANY_PORT, ANY_PORT, (ANY,), query=(ANY,))
"""The lines that permit what their absence permits."""


def is_grant_line(text: str) -> bool:
    """Return whether a text begins with the word of a line about files, ports, hosts, unix sockets or names, such as `path`,
    and so is no entry of a call."""
    return text.startswith(tuple(f"{word} " for word in STATEMENTS))


def path_line(path: str) -> str:
    """Return the part before the colon of the line for a path."""
    return f"path {shown(path)}"


def host_line(use: str, host: str) -> str:
    """Return the part before the colon of the line for a use of `USES` at a host."""
    return USES[use] if host == ANY else f"{USES[use]} {host}"


def bare_line(kind: str, place: str) -> str:
    """Return the line for a unix socket or a looked-up name, by its kind in BARE; for `any`, the part before the colon."""
    if place == ANY:
        return BARE[kind]
    stem, star = (place[:-1], "*") if place.startswith("@") and place.endswith("*") else (place, "")
    is_plain = kind == "query" or shown(stem) == stem
    return f"{BARE[kind]} {stem}{star}" if is_plain else f"{BARE[kind]} {shown(place)}"


def is_bare(line: str) -> bool:
    """Return whether a line grants one unix socket, or one name that is looked up."""
    return line.startswith(tuple(f"{start} " for start in BARE.values()))


def written(line: str, granted: str) -> str:
    """Return the whole line of a policy, by the part before its colon and what it grants (`Files.lines`); a line of
    `BARE` for one place has no colon, and grants all that there is to grant."""
    return f"{line}: {granted}" if granted and not is_bare(line) else line
