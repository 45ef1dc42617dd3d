"""Mixtures of two peers of a datagram socket, which a thread may send to while another thread connects the socket.

The kernel copies the address of the peer word by word, and its port, without a lock (net/ipv4/udp.c, net/ipv6/udp.c), so a
datagram may go to the address of one and the port of the other.
"""

from __future__ import annotations

from itertools import islice, product

from callfence.enforcer.hosts.addresses import mapped, peer_of
from callfence.enforcer.hosts.rules import plain
from callfence.tracer import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from callfence.enforcer.hosts.sockets import Socket

_MAX_PEERS = 1 << 14
"""The most peers that are remembered, of all sockets.  No thread that sends is held up, between two words, for as long as so
many connects take."""
_MAX_MIXTURES = 256
"""The most mixtures that are looked at: more are taken for ones that are denied."""
_WORDS = range(0, 16, 4)


class Mixtures:
    """Remembers the peers that each datagram socket had before, and decides whether a datagram could go to a mixture of two of
    them that policies deny: the address of one, the port of the other."""

    def __init__(self, is_granted: Callable[[bytes, int], bool], is_granted_everywhere: Callable[[int], bool]) -> None:
        """`is_granted` returns whether policies let the program send datagrams to a host and a port, `is_granted_everywhere`
        whether to that port of any host."""
        self._is_granted = is_granted
        self._is_granted_everywhere = is_granted_everywhere
        self._earlier: dict[int, set[tuple[bytes, int]]] = {}
        """By the inode of a socket that was connected, then to another peer or none: its peers, of 16 bytes, and ports."""
        self._count = 0
        """How many peers these are."""

    def are_denied(self, socket: Socket, address: bytes) -> bool:
        """Return whether a thread that sends while a socket is connected to a struct sockaddr could reach a mixture of this and
        its earlier peers that policies deny; and remember these."""
        present = self._whom(socket, socket.peer())
        if not present and not self._earlier:  # as nearly always
            return False
        inode = socket.inode
        peers = self._earlier.pop(inode, set())
        self._count -= len(peers)
        if present and len(peers) <= _MAX_MIXTURES:
            peers.add(present)
        new = self._whom(socket, address)
        if not peers or peers == {new}:
            return False
        self._earlier[inode] = peers
        self._count += len(peers)
        while self._count > _MAX_PEERS:
            self._count -= len(self._earlier.pop(next(iter(self._earlier))))
        return new is not None and self._any_denied({*peers, new})

    def _any_denied(self, peers: set[tuple[bytes, int]]) -> bool:
        ports = {port for _, port in peers if not self._is_granted_everywhere(port)}
        words = [{host[at : at + 4] for host, _ in peers} for at in _WORDS]
        hosts = islice(map(b"".join, product(*words)), _MAX_MIXTURES + 1)
        others = {*islice(product(hosts, ports), _MAX_MIXTURES + 1)}
        if ports and max(len(others), len(peers)) > _MAX_MIXTURES:
            return True
        return not all(self._is_granted(plain(host), port) for host, port in others - peers)

    def _whom(self, socket: Socket, address: bytes) -> tuple[bytes, int] | None:
        """Return the address of 16 bytes and the port in a struct sockaddr; None if it has none."""
        peer = peer_of(address, socket.domain, sends=False)
        return (mapped(peer.host), peer.port if socket.has_ports else 0) if peer and peer.host else None
