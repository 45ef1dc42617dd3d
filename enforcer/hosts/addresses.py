"""Socket addresses, as a program hands them to the kernel (struct sockaddr), and whom they mean."""

from __future__ import annotations

from _socket import AF_INET, AF_INET6, inet_ntop

from callfence.enforcer.hosts.rules import MAPPED, UNSPECIFIED, plain
from callfence.tracer.linux import AF_UNIX
from callfence.tracer.named import NamedTuple

AF_UNSPEC, AF_NETLINK = 0, 16  # linux/socket.h
MAX_ADDRESS = 128
"""The size of struct sockaddr_storage in bytes: the kernel takes no longer address (net/socket.c, move_addr_to_kernel)."""
ECHOES = (1, 58)
"""IPPROTO_ICMP and IPPROTO_ICMPV6 (linux/in.h): of datagram sockets that send echo requests.  These have no port, whatever the
address says, so it counts as 0."""
_SHORTEST = {AF_INET: 16, AF_INET6: 24}
"""The least bytes of an address that the kernel takes (net/ipv4, net/ipv6: SIN6_LEN_RFC2133)."""
_MAX_UNIX = 110
"""The size of struct sockaddr_un in bytes (linux/un.h)."""


class Peer(NamedTuple):
    """Whom an address means."""

    family: int
    """AF_*; that of the address, except that AF_UNSPEC is AF_INET where the kernel takes it for that."""
    host: bytes = b""
    """The IP address, 4 or 16 bytes; of a mapped address 4, and never one that stands for this host itself."""
    port: int = 0
    path: bytes = b""
    """The path of a unix socket as it was written; `\\0` and a name for an abstract one."""

    @property
    def text(self) -> str:
        """The IP address as text."""
        return shown(self.host)


def shown(host: bytes) -> str:
    """Return an IP address (4 or 16 bytes) as text."""
    return inet_ntop(AF_INET if len(host) == 4 else AF_INET6, host)


def peer_of(address: bytes, domain: int, *, sends: bool) -> Peer | None:
    """Return whom a struct sockaddr means for a socket of the family `domain`; None for bytes that the kernel refuses.
    `sends`: it is the address of a datagram, for which an IPv4 socket takes AF_UNSPEC as AF_INET (net/ipv4/udp.c)."""
    if len(address) < 2:
        return None
    family = int.from_bytes(address[:2], "little")
    if family == AF_UNSPEC and sends and domain == AF_INET:
        family = AF_INET
    if family in _SHORTEST:
        if len(address) < _SHORTEST[family]:
            return None
        host = address[4:8] if family == AF_INET else address[8:24]
        return Peer(family, plain(host), int.from_bytes(address[2:4], "big"))
    if family == AF_UNIX:
        if len(address) > _MAX_UNIX:
            return None
        path = address[2:]
        return Peer(family, path=path if path[:1] == b"\0" else path.partition(b"\0")[0])
    return Peer(family)


def explicit(address: bytes) -> bytes:
    """Return a struct sockaddr of an IP address with the loopback address instead of one that means this host itself: the
    kernel may take the address that a socket is bound to for that."""
    at, size = (8, 16) if address[:2] == AF_INET6.to_bytes(2, "little") else (4, 4)
    host = address[at : at + size]
    meant = MAPPED + UNSPECIFIED[bytes(4)] if host == MAPPED + bytes(4) else UNSPECIFIED.get(host, host)
    return address[:at] + meant + address[at + size :]


def address_of(host: bytes, port: int, domain: int, scope: int = 0) -> bytes:
    """Return the struct sockaddr for an IP address and a port, for a socket of the family `domain`.  `scope`: the index of the
    interface by which a link-local IPv6 address is reached."""
    if domain == AF_INET:
        return AF_INET.to_bytes(2, "little") + port.to_bytes(2, "big") + host + bytes(8)
    return AF_INET6.to_bytes(2, "little") + port.to_bytes(2, "big") + bytes(4) + mapped(host) + scope.to_bytes(4, "little")


def mapped(host: bytes) -> bytes:
    """Return an IP address of 4 or 16 bytes as one of 16."""
    return MAPPED + host if len(host) == 4 else host
