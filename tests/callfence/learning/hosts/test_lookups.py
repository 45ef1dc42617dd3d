"""Questions and answers on sockets, and the names that answers and /etc/hosts give to addresses; without a kernel."""

from __future__ import annotations

import os
import socket
import struct
from pathlib import Path

import pytest

from callfence.enforcer.hosts.addresses import Peer, peer_of
from callfence.enforcer.hosts.names.dns import A, query
from callfence.enforcer.hosts.names.files import packed
from callfence.enforcer.hosts.rules import plain
from callfence.learning.hosts import names as module
from callfence.learning.hosts.lookups import Lookup, Lookups
from callfence.learning.hosts.names import Names, text_of


def answer(name: str, *addresses: str, id_: int = 7) -> bytes:
    """The answer of a name server that the name has these addresses of IPv4."""
    asked = query(name, A, id_)
    records = [b"\xc0\x0c" + struct.pack("!HHIH", A, 1, 60, 4) + packed(address) for address in addresses]
    return asked[:2] + struct.pack("!HHHHH", 0x8180, 1, len(records), 0, 0) + asked[12:] + b"".join(records)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_messages_of_a_stream_come_in_parts(size: int) -> None:
    messages = [answer("a.example.org", "192.0.2.1"), answer("b.example.org", "192.0.2.2")]
    stream = b"".join(len(message).to_bytes(2, "big") + message for message in messages)
    lookup, received = Lookup(is_stream=True), []
    for at in range(0, len(stream), size):
        received += lookup.received([stream[at : at + size]])
    assert received == messages


def test_a_process_waits_for_its_own_sockets() -> None:
    lookups = Lookups()
    lookups.begin("socket:[1]", 7, 3, is_stream=False)
    assert (lookups.is_waiting(7), lookups.is_waiting(8)) == (True, False)
    lookups.closed(8, 3, "")
    assert lookups.get("socket:[1]")
    lookups.closed(7, 3, "")
    assert lookups.get("socket:[1]") is None
    assert not lookups.is_waiting(7)


def test_the_name_that_was_answered_last_counts_and_a_process_own_first() -> None:
    names, address = Names(), packed("192.0.2.1")
    assert names.answered(answer("a.example.org", "192.0.2.1", id_=9), 7, "/bin/it")
    names.answered(answer("b.example.org", "192.0.2.1"), 7, "/bin/it")
    names.answered(answer("c.example.org", "192.0.2.1"), 8, "/bin/it")
    assert [names.name_of(address, process) for process in (7, 8, os.getpid())] == [
        "b.example.org",
        "c.example.org",
        "c.example.org",
    ]
    assert ("name a.example.org", "192.0.2.1", "/bin/it") in names.uses()


@pytest.mark.parametrize("message", [b"", b"x", query("a.example.org", A, 1), answer("a.example.org", "192.0.2.1")[:-1]])
def test_what_is_no_answer_gives_no_name(message: bytes) -> None:
    names = Names()
    assert not names.answered(message, 7, "/bin/it")
    assert not names.uses()


def test_addresses_of_a_name_are_bounded() -> None:
    names = Names()
    for last in range(100):
        names.answered(answer("a.example.org", f"192.0.2.{last}"), 7, "/bin/it")
    assert len(names.uses()) == module.MAX_ADDRESSES
    assert names.name_of(packed("192.0.2.99"), 7) == "a.example.org"


def test_names_of_etc_hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "127.0.0.1 here localhost\n192.0.2.1 one # and\n192.0.2.2 a\n192.0.2.2 b\nfe80::1%lo x\n192.0.2.3\nwrong line\n"
    monkeypatch.setattr(Names, "_text", lambda self, process, name: text)
    names = Names()
    every = ("127.0.0.1", "::1", "192.0.2.1", "192.0.2.2", "192.0.2.3")
    found = {address: names.name_of(packed(address), 1) for address in every}
    assert found == {"127.0.0.1": "localhost", "::1": "localhost", "192.0.2.1": "one", "192.0.2.2": "", "192.0.2.3": ""}


def test_name_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "; nameserver 192.0.2.1\n# nameserver 192.0.2.1\nnameserver 192.0.2.53 # x\nnameserver fe80::1%2\nsearch\n"
    monkeypatch.setattr(Names, "_text", lambda self, process, name: text)
    assert Names().servers(1) == {packed("192.0.2.53"), packed("fe80::1")}
    monkeypatch.setattr(Names, "_text", lambda self, process, name: "")
    assert Names().servers(1) == {packed("127.0.0.1")}


def test_addresses_as_they_are_used() -> None:
    assert text_of(plain(packed("::ffff:192.0.2.1"))) == "192.0.2.1"
    assert [text_of(plain(bytes(size))) for size in (4, 16)] == ["127.0.0.1", "::1"]
    assert text_of(plain(bytes(10) + b"\xff\xff" + bytes(4))) == "127.0.0.1"


def test_addresses_of_sockets() -> None:
    four = struct.pack("=H", 2) + struct.pack("!H", 443) + packed("192.0.2.1") + bytes(8)
    six = struct.pack("=H", 10) + struct.pack("!H", 443) + bytes(4) + packed("2001:db8::1") + bytes(4)
    unspecified = bytes(2) + four[2:]
    reached = Peer(socket.AF_INET, packed("192.0.2.1"), 443)
    assert [peer_of(four, socket.AF_INET, sends=sends) for sends in (False, True)] == [reached, reached]
    assert peer_of(six, socket.AF_INET6, sends=False) == Peer(socket.AF_INET6, packed("2001:db8::1"), 443)
    assert [peer_of(unspecified, socket.AF_INET, sends=sends) for sends in (False, True)] == [Peer(socket.AF_UNSPEC), reached]
    assert [peer_of(data, socket.AF_INET, sends=False) for data in (b"", four[:15], six[:23])] == [None] * 3
    assert peer_of(b"\x10\0" + bytes(10), socket.AF_INET, sends=False) == Peer(socket.AF_NETLINK)
