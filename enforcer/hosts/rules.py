"""The lines of a policy about hosts and unix sockets, ready to judge by.

`encode` writes them into the file of a compiled filter; the helper reads them when the program has started.  Like all that a
start may import, this imports nothing that takes a millisecond.
"""

from __future__ import annotations

from _socket import AF_INET, AF_INET6, inet_pton

from callfence.tracer import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from callfence.policygen.grants import Files

ANY = "any"
_PORTS = ("tcp connect", "udp send")
_STARTS = {"tcp connect": "connect", "udp send": "send", "unix connect": "unix", "dns query": "query"}
"""The words with which a line begins -> the use that it is about."""
_BIND = "tcp bind"
LINES = tuple(_STARTS)
_ALL = [(0, 65535)]
NEAR = (
    (b"\x7f", 8), (b"\xa9\xfe", 16), (b"\0", 8), (b"\xe0", 3), (b"\xf0", 4),
    (bytes(16), 128), (bytes(15) + b"\1", 128), (b"\xfe\x80", 10), (b"\xff", 8),
)  # fmt: skip
"""Networks (first bytes, length of the prefix) that a name does not open: loopback, which `localhost` opens, link-local with
the metadata address of clouds, this network, multicast, broadcast; of IPv4, then of IPv6."""
_INNER = (
    (bytes(12), 12), (bytes(8) + b"\xff\xff\0\0", 12), (b"\0\x64\xff\x9b" + bytes(8), 12), (b"\0\x64\xff\x9b\0\1", 12),
    (b"\x20\x02", 2),
)  # fmt: skip
"""First bytes of IPv6 addresses that gateways take for an IPv4 address, and where that is: IPv4-compatible (RFC 4291),
IPv4-translated (RFC 2765), NAT64 (RFC 6052, and of a network's own, RFC 8215), 6to4 (RFC 3056)."""

MAPPED = bytes(10) + b"\xff\xff"
"""The beginning of an IPv6 address that stands for an IPv4 address."""
UNSPECIFIED = {bytes(4): b"\x7f\0\0\1", bytes(16): bytes(15) + b"\1"}
"""The addresses that mean this host itself where a program connects to them (ip(7), INADDR_ANY) -> the address reached."""


def makes_calls(files: Files) -> bool:
    """Return whether the helper has to make calls for the program: a line confines hosts, UDP or unix sockets.  Ports of any
    host, which `tcp connect: PORTS` grants, are left to Landlock."""
    return not all(line.startswith("tcp connect: ") for line in _lines(files))


def encode(files: Files) -> bytes:
    """Return a policy's lines about hosts and unix sockets, with NUL between them (`_ESCAPES` stand for those in names); b"" if
    it has none.

    There are those that are left to Landlock, too: if another policy needs the helper, Landlock does not judge what that makes.
    Beside other lines there is the one for the ports that the program binds."""
    each = _lines(files)
    if makes_calls(files) and (bound := files.lines().get(_BIND)):
        each.append(f"{_BIND}: {bound}")
    return "\0".join(map(_escaped, each)).encode("utf-8", "surrogateescape")


def _lines(files: Files) -> list[str]:
    each = [f"{line}: {granted}" for line, granted in files.lines().items() if line.startswith(_PORTS)]
    for start, use in _STARTS.items():
        if start not in _PORTS and (places := getattr(files, use)) is not None:
            each += [f"{start} {place}: " for place in places] or [f"{start}: none"] * (use != "query")
    return each


_ESCAPES = ("\\", "\\\\"), ("\0", "\\0")
"""What stands for a character of a line: the name of an abstract socket can have any byte."""


def _escaped(line: str) -> str:
    for character, escape in _ESCAPES:
        line = line.replace(character, escape)
    return line


def _unescaped(line: str) -> str:
    return "\\".join(part.replace("\\0", "\0") for part in line.split("\\\\"))


class Rules:
    """What one policy grants: for each use the hosts and ports, and the unix sockets."""

    __slots__ = ("below", "bound", "confines", "everywhere", "names", "networks", "sockets")

    def __init__(self, content: bytes) -> None:
        """`content`: the result of `encode`."""
        self.confines: set[str] = set()
        """The uses that the policy confines, of those in `_STARTS`."""
        self.everywhere: dict[str, list[tuple[int, int]]] = {}
        """Use -> ranges of ports of any host."""
        self.networks: dict[str, list[tuple[int, int, int, list[tuple[int, int]]]]] = {"connect": [], "send": []}
        """Use -> (bits of an address, bits of the prefix, the prefix, ranges of ports)."""
        self.names: dict[str, dict[str, list[tuple[int, int]]]] = {"connect": {}, "send": {}, "query": {}}
        """Use -> name -> ranges of ports; all for `query`, which has none."""
        self.below: dict[str, dict[str, list[tuple[int, int]]]] = {"connect": {}, "send": {}, "query": {}}
        """Use -> name -> ranges of ports of all names below it."""
        self.bound: list[tuple[int, int]] = []
        """Ranges of the TCP ports that the policy lets the program bind; none if it does not confine them."""
        self.sockets: list[str] = []
        """The unix sockets as the policy writes them (`policygen.hosts`)."""
        for line in content.decode("utf-8", "surrogateescape").split("\0") if content else ():
            self.add(*_unescaped(line).rsplit(": ", 1))

    def add(self, start: str, granted: str) -> None:
        """Add a line: what is before its last colon, and what is after it."""
        if start == _BIND:
            self.bound = _ports(granted)
            return
        words = start.split(" ", 2)
        use, host = _STARTS[" ".join(words[:2])], words[2] if len(words) > 2 else ""
        self.confines.add(use)
        if use == "unix":
            self.sockets += [host] if host else []
            return
        ports = _ALL if use == "query" else _ports(granted)
        if not host or host == ANY:
            self.everywhere[use] = [*self.everywhere.get(use, ()), *(ports if host or use != "query" else ())]
        elif host.startswith("*."):
            self.below[use][host[2:]] = [*self.below[use].get(host[2:], ()), *ports]
        elif network := _network(host):
            self.networks[use].append((*network, ports))
        else:
            self.names[use][host] = [*self.names[use].get(host, ()), *ports]

    def binds(self, port: int) -> bool:
        """Return whether the policy confines the TCP ports that the program binds, and this is one of them."""
        return _has(self.bound, port)

    @property
    def has_names(self) -> bool:
        """Whether a line names a host, so that look-ups have to be followed."""
        return any(self.names[use] or self.below[use] for use in self.names) or bool(self.everywhere.get("query"))

    def spare(self, name: str) -> int | None:
        """Return how many characters a name has that the policy does not: 0 for one that a line has, those before the part that
        `*.` has; None for a name that no line names."""
        if self.everywhere.get("query") or any(name in self.names[use] for use in self.names):
            return 0
        return min((len(name) - len(above) - 1 for use in self.below for above in self._above(use, name)), default=None)

    def line_for(self, name: str) -> tuple[str, str]:
        """Return a line that lets the program look a name up, and its ports, "" without any.

        A look-up does not say which: those of all names that the program may reach, if these are the same, else that of HTTPS.
        If it may only ask for names, it is a `dns query` line."""
        for use, start in (("connect", _PORTS[0]), ("send", _PORTS[1])):
            hosts = [*self.names[use].items(), *self.below[use].items()]
            granted = [sorted(ports) for host, ports in hosts if not is_local(host)]  # which no name server is asked for
            if granted:
                ports = granted[0] if granted.count(granted[0]) == len(granted) and granted[0] != _ALL else [(443, 443)]
                return f"{start} {name}", ", ".join(f"{first}-{last}".removesuffix(f"-{first}") for first, last in ports)
        if self.names["query"] or self.below["query"]:
            return f"dns query {name}", ""
        return f"{_PORTS[0]} {name}", "443"

    def _above(self, use: str, name: str) -> Iterable[str]:
        below = self.below[use]
        while below and "." in name:
            name = name.partition(".")[2]
            if name in below:
                yield name

    def grants_everywhere(self, use: str, port: int | None) -> bool:
        """Return whether the policy lets the program reach a port of any host; with None, any port."""
        return use not in self.confines or _has(self.everywhere.get(use, ()), port)

    def reaches(self, use: str, host: bytes, names: Sequence[str]) -> bool:
        """Return whether the policy lets the program reach any port of a host, whose address was given for `names`."""
        return self.grants(use, host, None, names)

    def grants(self, use: str, host: bytes, port: int | None, names: Sequence[str]) -> bool:
        """Return whether the policy grants a port (None: any) of a host whose address was given for `names`."""
        if self.grants_everywhere(use, port):
            return True
        number, bits = int.from_bytes(host, "big"), 8 * len(host)
        for size, length, prefix, ports in self.networks[use]:
            if size == bits and number >> (bits - length) == prefix and _has(ports, port):
                return True
        is_far = not is_near(host)
        return any(
            (is_loopback(host) if is_local(name) else is_far) and _has(ports, port)  # a name server may give any for localhost
            for name, ports in self._named(use, names)
        )

    def _named(self, use: str, names: Sequence[str]) -> Iterable[tuple[str, Sequence[tuple[int, int]]]]:
        """Yield those of the names that lines name, with the ports of each line.  An address of a block list in /etc/hosts has
        more than 10,000 names, of which few are."""
        for name in filter(self.names[use].__contains__, names):
            yield name, self.names[use][name]
        if self.below[use]:
            yield from ((name, self.below[use][above]) for name in names for above in self._above(use, name))


def is_near(host: bytes) -> bool:
    """Return whether an address (4 or 16 bytes) is this host's or its link's own, which no name opens (NEAR)."""
    bits = 8 * len(host)
    number = int.from_bytes(host, "big")
    if bits == 128 and any(host.startswith(start) and is_near(host[at : at + 4]) for start, at in _INNER):
        return True
    for start, length in NEAR[:5] if bits == 32 else NEAR[5:]:
        whole = int.from_bytes(start + bytes(len(host) - len(start)), "big")
        if number >> (bits - length) == whole >> (bits - length):
            return True
    return False


def is_loopback(host: bytes) -> bool:
    """Return whether an address (4 or 16 bytes) is one of this host's loopback addresses."""
    return host[:1] == b"\x7f" if len(host) == 4 else host == bytes(15) + b"\1"


def plain(host: bytes) -> bytes:
    """Return an IP address of 4 or 16 bytes as it is used: one of IPv4 that is written as IPv6 has 4 bytes, and the unspecified
    address is that of this host itself."""
    if len(host) == 16 and host.startswith(MAPPED):
        host = host[12:]
    return UNSPECIFIED.get(host, host)


def is_local(name: str) -> bool:
    """Return whether a name means this host itself (RFC 6761, 6.3)."""
    return name == "localhost" or name.endswith(".localhost")


def _has(ports: Sequence[tuple[int, int]], port: int | None) -> bool:
    return bool(ports) if port is None else any(first <= port <= last for first, last in ports)


def _ports(granted: str) -> list[tuple[int, int]]:
    if granted in (ANY, "none"):
        return _ALL if granted == ANY else []
    return [(int(first), int(last or first)) for first, _, last in (part.partition("-") for part in granted.split(", "))]


def _network(host: str) -> tuple[int, int, int] | None:
    """Return the bits of an address, the bits of the prefix and the prefix; None for a name."""
    text, _, length = host.partition("/")
    try:
        address = inet_pton(AF_INET6 if ":" in text else AF_INET, text)
    except OSError:
        return None
    bits = 8 * len(address)
    used = int(length) if length else bits
    return bits, used, int.from_bytes(address, "big") >> (bits - used)
