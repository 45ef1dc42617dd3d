"""The hosts and unix sockets that lines of a policy name, and which of them contain which others.

A *host* is an IP address, a network such as `10.0.0.0/8`, a DNS name, `*.NAME` (every name below NAME), or `any`.  A *socket*
is a path (`policygen.paths`), which stands for itself and all below it, `@NAME`, an abstract socket, `@START*`, or `any`.
A name and an address contain neither each other: which addresses a name has is known only when it is looked up.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from callfence.policygen.paths import PathError, TextError, canonical as canonical_path, folders, order as path_order
from callfence.tracer.named import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from ipaddress import IPv4Network, IPv6Network

    Network = IPv4Network | IPv6Network

ANY = "any"
"""The host that contains every host, and the socket that contains every socket."""
BELOW = "*."
"""The beginning of a host that is every name below another."""
MAX_NAME = 253
"""The most characters of a DNS name (RFC 1035, 2.3.4), without the dot at its end."""
MAX_ABSTRACT = 107
"""The most bytes of an abstract socket's name (unix(7)), without the NUL at its beginning."""
_CHANGED = frozenset("ßς\u200c\u200d")
"""Characters for which Python's codec (RFC 3490) gives another name than the one that programs look up (RFC 5891)."""
_GATEWAYS = (("::/96", 96), ("::ffff:0:0:0/96", 96), ("64:ff9b::/96", 96), ("64:ff9b:1::/48", 96), ("2002::/16", 16))
"""IPv6 networks whose addresses gateways take for an IPv4 address, and the bit at which that begins
(enforcer/hosts/rules.py, _INNER)."""
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_ADDRESS = r"[0-9.]+(?:/.*)?|\[?[0-9a-f.]*:.*"


class HostError(TextError):
    """The text is not a host or a socket."""


def canonical(text: str) -> str:
    """Return the canonical host that is written as `text`: an address may be in brackets, a name may end with a dot.  Raises
    HostError."""
    lowered = text.lower()
    if lowered == ANY:
        return ANY
    if re.fullmatch(_ADDRESS, lowered):
        return _canonical_address(lowered.removeprefix("[").replace("]", "", 1))
    return _canonical_name(lowered)


def _canonical_address(text: str) -> str:
    from ipaddress import IPv6Address, ip_address, ip_network

    if "%" in text:
        raise HostError("an address has no scope id here", "write the address alone: it holds on every interface")
    try:
        network = ip_network(text, strict=False)
        start, slash, prefix = text.partition("/")
        address = ip_address(start)
        if slash and not prefix.isdecimal():
            raise ValueError  # a mask, which has two forms and may have holes
    except ValueError:
        raise HostError(f"{text} is no IP address or network", "such as 192.0.2.7, 10.0.0.0/8 or 2001:db8::/32") from None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    if mapped:
        if network.prefixlen < 96:
            raise HostError(f"{text} has IPv4 addresses and others", "write the network of the IPv4 addresses")
        return _canonical_address(f"{mapped}/{network.prefixlen - 96}")
    if network.network_address != address:
        raise HostError(f"{text} has bits after the network's prefix", f"write {network}, or the address alone")
    return str(address) if network.prefixlen == network.max_prefixlen else str(network)


def _canonical_name(text: str) -> str:
    name = text.removesuffix(".")
    start = BELOW if name.startswith(BELOW) else ""
    labels = name.removeprefix(start).split(".")
    if not text.isascii():
        try:
            if _CHANGED & {*name}:
                raise UnicodeError
            labels = name.removeprefix(start).encode("idna").decode("ascii").lower().split(".")
        except UnicodeError:
            raise HostError(f"{text} is no host name", "write letters, digits and hyphens, or the name's xn-- form") from None
    result = start + ".".join(labels)
    if "*" in result.removeprefix(start):
        raise HostError(f"{text}: `*` can only be the whole first label", "such as *.example.org; `any` is every host")
    wrong = next((label for label in labels if not re.fullmatch(_LABEL, label)), None)
    if wrong is not None or len(result) > MAX_NAME or labels[-1].isdigit() or result == ANY:  # `any.`, or in wide letters
        raise HostError(f"{text or 'this'} is no host name", "such as example.org, *.example.org, 192.0.2.7 or 10.0.0.0/8")
    return result


def is_name(host: str) -> bool:
    """Return whether a canonical host is a DNS name, or `*.NAME`."""
    return host != ANY and ":" not in host and not host.rpartition(".")[2].partition("/")[0].isdigit()


def is_plain_name(text: str) -> bool:
    """Return whether a line that has this text as its host is about the one DNS name that it is; not so for `any`, `*.com`,
    `10.0.0.0/8` and names that no line can have, all of which can be looked up."""
    try:
        return canonical(text) == text and is_name(text) and not text.startswith(BELOW)
    except HostError:
        return False


def network(host: str) -> Network:
    """Return a canonical address or network as a value of `ipaddress`.  Raises ValueError for any other host."""
    from ipaddress import ip_network

    return ip_network(host)


def carried(host: str) -> Iterator[str]:
    """Yield the IPv4 addresses and networks for which gateways take what a canonical address or network of IPv6 has."""
    own = network(host)
    for start, bit in _GATEWAYS if own.version == 6 else ():
        gateway = network(start)
        if own.overlaps(gateway):
            inner = max(own, gateway, key=lambda each: each.prefixlen)
            length = min(max(inner.prefixlen - bit, 0), 32)
            first = int(inner.network_address) >> 96 - bit & 0xFFFFFFFF
            yield canonical(".".join(map(str, first.to_bytes(4, "big"))) + (f"/{length}" if length < 32 else ""))


def containing(host: str) -> Iterator[str]:
    """Yield the canonical host, then each host that contains it, the smallest first, up to `any`."""
    if host != ANY:
        yield host
    if is_name(host):
        parts = host.removeprefix(BELOW).split(".")
        yield from (BELOW + ".".join(parts[start:]) for start in range(1, len(parts)))
    elif host != ANY:
        own = network(host)
        yield from (str(own.supernet(new_prefix=length)) for length in range(own.prefixlen - 1, -1, -1))
    yield ANY


def order(host: str) -> tuple[object, ...]:
    """Return a sort key: `any`, then networks and addresses, then names by their last label first."""
    if is_name(host):
        return 2, host.removeprefix(BELOW).split(".")[::-1], not host.startswith(BELOW)
    return (0,) if host == ANY else (1, *_numbers(host))


def _numbers(host: str) -> tuple[int, int, int]:
    own = network(host)
    return own.version, int(own.network_address), own.prefixlen


def canonical_query(text: str) -> str:
    """Return the canonical name, `*.NAME` or `any` that is looked up.  Raises HostError, also for an address."""
    host = canonical(text)
    if host != ANY and not is_name(host):
        hint = "write a name; the names of addresses are looked up below in-addr.arpa and ip6.arpa"
        raise HostError(f"{text} is an address, and only names are looked up", hint)
    return host


# Unix sockets


def canonical_socket(text: str) -> str:
    """Return the canonical socket that is written as `text`.  Raises HostError."""
    if text == ANY:
        return ANY
    if text.startswith("@"):
        if len(text.encode("utf-8", "surrogateescape")) - 1 > MAX_ABSTRACT:
            raise HostError(f"the name of an abstract socket has at most {MAX_ABSTRACT} bytes")
        if "*" in text[:-1]:
            raise HostError(f"{text}: `*` can only be at the end", "such as @/tmp/.X11-unix/*")
        return text
    try:
        return canonical_path(text)
    except PathError as error:
        raise HostError(error.message, error.hint or "an abstract socket is written @NAME", error.kind) from None


def containing_sockets(socket: str) -> Iterator[str]:
    """Yield the canonical socket, then each socket that contains it, the smallest first, up to `any`."""
    if socket.startswith("@"):
        yield socket
        start = socket.removesuffix("*")
        yield from (f"{start[:length]}*" for length in range(len(start) - socket.endswith("*"), 0, -1))
    elif socket != ANY:
        yield from folders(socket)
    yield ANY


def socket_order(socket: str) -> tuple[object, ...]:
    """Return a sort key: `any`, then paths, then abstract sockets."""
    if socket == ANY:
        return (0,)
    if socket.startswith("@"):
        return 2, socket.removesuffix("*"), not socket.endswith("*")
    return 1, *path_order(socket)


class Places(NamedTuple):
    """What the places of lines without ports and rights are: functions like those above for hosts."""

    canonical: Callable[[str], str]
    containing: Callable[[str], Iterator[str]]
    order: Callable[[str], tuple[object, ...]]


PLACES = {
    "unix": Places(canonical_socket, containing_sockets, socket_order),
    "query": Places(canonical_query, containing, order),
}
"""Those of each kind of `grants.BARE`."""
