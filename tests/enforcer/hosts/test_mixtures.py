"""Mixtures of the peers of a datagram socket."""

from __future__ import annotations

from _socket import AF_INET6, inet_pton
from types import SimpleNamespace
from typing import Any

import pytest

from callfence.enforcer.hosts.addresses import address_of
from callfence.enforcer.hosts.mixtures import Mixtures

A, B = inet_pton(AF_INET6, "2001:db8::1:0:0:1"), inet_pton(AF_INET6, "2001:db8::2:0:0:1")
FAR = inet_pton(AF_INET6, "fd00:77::9")


class Made:
    """A socket, and what was looked at since."""

    def __init__(self, granted: set[tuple[bytes, int]], everywhere: int = 0) -> None:
        self._mixtures = Mixtures(lambda host, port: (host, port) in granted, lambda port: port == everywhere)
        self._peer = b""
        self.inode = 1

    def connect(self, host: bytes, port: int = 53) -> bool:
        """Whether a mixture is denied."""
        address = address_of(host, port, AF_INET6) if host else bytes(16)
        peer = self._peer
        socket: Any = SimpleNamespace(peer=lambda: peer, inode=self.inode, domain=AF_INET6, has_ports=True)
        self._peer = address if host else b""
        return self._mixtures.are_denied(socket, address)


def test_addresses_that_differ_in_one_word_have_no_mixture() -> None:
    made = Made({(A, 53), (B, 53)})
    assert not made.connect(A)
    assert not made.connect(B)
    assert not made.connect(A)


@pytest.mark.parametrize("between", [(), (b"",), (B,), (B, b"")])
def test_earlier_peers_count(between: tuple[bytes, ...]) -> None:
    made = Made({(A, 53), (B, 53), (FAR, 53)})
    for host in (A, *between):
        assert not made.connect(host)
    assert made.connect(FAR)


def test_other_sockets_do_not() -> None:
    made = Made({(A, 53), (FAR, 53)})
    made.connect(A)
    made.connect(b"")
    made.inode = 2
    assert not made.connect(FAR)


def test_too_many_are_denied() -> None:
    made = Made({(bytes([host, *bytes(15)]), port) for host in range(1, 20) for port in range(1, 20)})
    denied = [made.connect(bytes([number, *bytes(15)]), number) for number in range(1, 20)]
    assert denied.index(True) == 16  # 17 hosts and ports: 289 mixtures


def test_ports_that_are_granted_everywhere_have_no_mixtures() -> None:
    made = Made({(FAR, 123)}, everywhere=53)
    assert not any(made.connect(bytes([number % 256, number // 256, *bytes(14)])) for number in range(600))
    assert len(made._mixtures._earlier[1]) < 300  # a program takes no memory without end
    assert made.connect(FAR, 123)


def test_many_sockets_take_no_memory_without_end() -> None:
    made = Made({(A, 53)})
    for made.inode in range(40_000):
        made.connect(A)
        made.connect(b"")
    assert made._mixtures._count == sum(map(len, made._mixtures._earlier.values())) == 1 << 14
    made.inode = 0
    made.connect(A)
    made.connect(FAR)
    assert made.connect(A)
