"""Messages of hostile name servers and programs: what enforcer/hosts/names/dns.py reads is what dnspython reads."""

from __future__ import annotations

import contextlib
import gc
import ipaddress
import os
import resource
import socket
import time

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.rrset
import pytest
from hypothesis import given, strategies as st

from callfence.enforcer.hosts.names.dns import (
    MAX_RECORDS,
    DnsError,
    answer_of,
    payload_size,
    query,
    question_of,
    reduced,
    refusal,
    restored,
    truncated,
)
from callfence.enforcer.hosts.names.known import Names
from callfence.enforcer.hosts.names.resolver import _MAX_OPEN, Judge, Resolver, _Conversation
from callfence.enforcer.hosts.rules import Rules
from callfence.enforcer.hub import Hub

NAMES = ("a.example", "b.example", "c.b.example", "x--y.example", "_s._tcp.example", "very" * 15 + ".example")
names = st.sampled_from(NAMES)
addresses = st.binary(min_size=4, max_size=4) | st.binary(min_size=16, max_size=16)


@st.composite
def records(draw):
    """A record as text: its name, type and data."""
    kind = draw(st.sampled_from(("A", "AAAA", "CNAME", "SRV", "HTTPS", "TXT", "NS")))
    target = draw(names)
    data = {
        "A": str(ipaddress.IPv4Address(draw(st.integers(0, 2**32 - 1)))),
        "AAAA": str(ipaddress.IPv6Address(draw(st.integers(0, 2**128 - 1)))),
        "CNAME": f"{target}.",
        "SRV": f"1 2 443 {target}.",
        "HTTPS": f"1 {target}. alpn=h2 ipv4hint=192.0.2.{draw(st.integers(0, 9))} ipv6hint=2001:db8::{draw(st.integers(0, 9))}",
        "TXT": '"text"',
        "NS": f"{target}.",
    }[kind]
    return draw(names), kind, data


@st.composite
def answers(draw):
    """A question's name, its records, and the message as dnspython writes it."""
    name, rows = draw(names), draw(st.lists(records(), max_size=8))
    message = dns.message.make_response(dns.message.make_query(f"{name}.", "A", id=draw(st.integers(0, 65535))))
    for row, kind, data in rows:
        section = draw(st.sampled_from((message.answer, message.authority, message.additional)))
        section.append(dns.rrset.from_text(f"{row}.", 60, "IN", kind, data))
    return name, rows, message.to_wire()


def expected(name, rows):
    """The names and the addresses that an answer gives for the name that was asked for."""
    known, found = {name}, set()
    for _ in rows:
        for row, kind, data in rows:
            if row in known and kind in ("CNAME", "SRV", "HTTPS"):
                known.add(data.split()[{"CNAME": 0, "SRV": 3, "HTTPS": 1}[kind]].rstrip("."))
    for row, kind, data in rows:
        if row in known and kind in ("A", "AAAA"):
            found.add(ipaddress.ip_address(data).packed)
        elif row in known and kind == "HTTPS":
            found |= {ipaddress.ip_address(part.partition("=")[2]).packed for part in data.split() if "hint=" in part}
    return known, found


@given(answers())
def test_an_answer_gives_the_addresses_of_the_name_alone(made):
    name, rows, wire = made
    answer = answer_of(wire)
    assert ({*answer.names}, {*answer.addresses}) == expected(name, rows)


@given(answers(), st.lists(st.tuples(st.integers(0, 600), st.integers(0, 255)), max_size=6), st.integers(0, 600))
def test_whatever_is_changed_nothing_else_is_raised(made, changes, cut):
    """And what is passed on is one question, as another reader reads it."""
    whole = bytearray(made[2])
    for at, byte in changes:
        if at < len(whole):
            whole[at] = byte
    check(bytes(whole[: cut or None]))
    whole[2:3] = bytes([whole[2] & 0x7F])
    check(bytes(whole))


@given(st.binary(max_size=300))
def test_nor_of_any_bytes(content):
    check(content)
    check(b"\0\7\1\0\0\1\0\0\0\0\0\0" + content)
    check(b"\0\7\x81\x80\0\1\0\3\0\0\0\0\1a\0\0\1\0\1" + content)


def check(content):
    asked = query("a.example", 1, 7)
    for work in (
        answer_of, question_of, payload_size, truncated, lambda message: refusal(message, 2),
        lambda message: restored(message, asked), lambda message: restored(asked, message),
        lambda message: question_of(message, is_answer=True),
    ):  # fmt: skip
        with contextlib.suppress(DnsError):
            work(content)
    with contextlib.suppress(DnsError):
        passed_on(content, reduced(content, 4711, 1232))


def passed_on(content, wire):
    asked, theirs = question_of(content), dns.message.from_wire(wire)
    (question,) = theirs.question
    assert (theirs.id, question.rdtype, question.rdclass) == (4711, asked.type, dns.rdataclass.IN)
    assert (theirs.answer, theirs.authority, theirs.additional, theirs.payload, [*theirs.options]) == ([], [], [], 1232, [])
    assert not theirs.flags & ~dns.flags.RD
    plain = all(33 <= byte <= 126 and byte not in b".\\" for label in question.name.labels for byte in label)
    if plain:
        assert b".".join(question.name.labels[:-1]).decode() == asked.name


def behind_pointers(count: int) -> bytes:
    """An answer with an address, whose name is so many pointers, each to the one before, the first one to the question."""
    asked = b"\0\7\x81\x80\0\1\0\2\0\0\0\0" + b"\1a\0\0\1\0\1"
    first = len(asked) + 11  # where the data of the first record begins
    pointers = [0xC000 | 12, *(0xC000 | first + 2 * number for number in range(count - 1))]
    data = b"".join(pointer.to_bytes(2, "big") for pointer in pointers)
    text = b"\0\0\x10\0\1" + bytes(4) + len(data).to_bytes(2, "big") + data
    return asked + text + pointers[-1].to_bytes(2, "big") + b"\0\1\0\1" + bytes(4) + b"\0\4\x0a\0\0\1"


def test_names_that_lead_back_again_and_again():
    """Each name of 1,024 could otherwise take 8,000 steps."""
    assert answer_of(behind_pointers(100)).addresses == (b"\x0a\0\0\1",)
    with pytest.raises(DnsError):
        answer_of(behind_pointers(200))


def test_records_of_a_query_are_not_all_read():
    """The program chooses them, 5,000 in a query by TCP: to find its OPT among those took 0.5 s for each answer."""
    option = b"\0\0\x29\x10\0" + bytes(6)
    for before, size in ((3, 4096), (4, 512)):
        records = (b"\xc0\x0c\0\x10\0\1" + bytes(6)) * before + option
        asked = query("a.example", 1, 7)
        asked = asked[:10] + (before + 1).to_bytes(2, "big") + asked[12:] + records
        assert payload_size(asked) == size
        answer = reduced(asked, 9, 1232)
        answer = answer[:2] + b"\x81\x80" + answer[4:]
        assert len(restored(answer, asked)) == len(query("a.example", 1, 7)) + 11 * (size == 4096)


def hinted(count: int) -> bytes:
    """An answer with one HTTPS record, which has so many addresses."""
    hints = b"".join(number.to_bytes(4, "big") for number in range(count))
    data = b"\0\1\0" + b"\0\4" + len(hints).to_bytes(2, "big") + hints
    head = b"\0\7\x81\x80\0\1\0\1\0\0\0\0" + b"\1a\0\0\x41\0\1"
    return head + b"\xc0\x0c\0\x41\0\1" + bytes(4) + len(data).to_bytes(2, "big") + data


def test_an_answer_gives_no_more_addresses_than_records():
    """One record may have 16,000."""
    assert len(answer_of(hinted(MAX_RECORDS)).addresses) == MAX_RECORDS
    with pytest.raises(DnsError):
        answer_of(hinted(MAX_RECORDS + 1))


def resolving(server=("127.0.0.1", 53), deny=lambda *_: False):
    """A resolver that asks a name server, and what it waits for."""
    hub, names_ = Hub(), Names([Rules(b"tcp connect a.example: 443")])
    resolver = Resolver(b"\x7f\0\0\1", 0, hub, names_, Judge(names_, deny, is_audit=False), bool)
    resolver._server = server
    return resolver, hub


def connected(resolver):
    return socket.create_connection(("127.0.0.1", resolver.ports[socket.AF_INET, socket.SOCK_STREAM]))


def framed(message):
    return len(message).to_bytes(2, "big") + message


def run(hub):
    """Until nothing more is due: on a busy machine a packet takes a moment."""
    for _ in range(20):
        hub.run()
        time.sleep(0.005)


def test_what_follows_an_answer_by_tcp_is_not_passed_on():
    """With a longest answer before it, its length would not fit into two bytes, and the helper would end."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        resolver, hub = resolving(server.getsockname())
        with connected(resolver) as client:
            client.sendall(framed(query("a.example", 1, 7)))
            run(hub)
            upstream = server.accept()[0]
            with upstream:
                asked = upstream.recv(4096)[2:]
                answer = refusal(asked, 0)
                whole = framed(answer + bytes(65535 - len(answer)))
                upstream.sendall(whole + b"x" * 100_000)
                run(hub)
            client.settimeout(5)
            assert client.recv(2) == b"\xff\xff"


def test_a_question_by_tcp_may_come_in_parts():
    with socket.create_server(("127.0.0.1", 0)) as server:
        resolver, hub = resolving(server.getsockname())
        with connected(resolver) as client:
            whole = framed(query("a.example", 1, 7))
            for part in (whole[:1], whole[1:3], whole[3:-1], whole[-1:] + whole[:9]):
                client.sendall(part)
                run(hub)
            with server.accept()[0] as upstream:
                asked = upstream.recv(4096)
                assert asked[14:].startswith(whole[14:])  # made anew, with an option
                upstream.sendall(framed(refusal(asked[2:], 0)))
                run(hub)
            client.settimeout(5)
            assert client.recv(4096)[2:4] == whole[2:4]


def test_a_question_with_many_wrong_answers_is_given_up():
    """Each may take as long as the worst one, and other calls of the program wait meanwhile."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        server.bind(("127.0.0.1", 0))
        resolver, hub = resolving(server.getsockname())
        client.connect(("127.0.0.1", resolver.ports[socket.AF_INET, socket.SOCK_DGRAM]))
        for wrong, is_open in ((15, 1), (16, 0)):
            client.send(query("a.example", 1, 7))
            run(hub)
            asked, asker = server.recvfrom(4096)
            for _ in range(wrong):
                server.sendto(asked[:2] + b"\xff\xff", asker)
            server.sendto(b"\0\0" + asked[2:] if asked[:2] != b"\0\0" else b"\1", asker)  # another's
            run(hub)
            assert resolver._open == is_open
            if is_open:
                server.sendto(refusal(asked, 0), asker)
                run(hub)
                client.settimeout(5)
                assert client.recv(4096)[:2] == b"\0\7"


def test_without_descriptors_a_question_fails():
    """And the helper, which has as many as the program was given, goes on."""
    resolver, hub = resolving()
    gc.collect()  # else sockets of earlier tests may be closed meanwhile, and their numbers be free
    former = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client, contextlib.ExitStack() as kept:
        client.connect(("127.0.0.1", resolver.ports[socket.AF_INET, socket.SOCK_DGRAM]))
        client.settimeout(5)
        client.send(query("a.example", 1, 7))
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, former[1]))
        try:
            with contextlib.suppress(OSError):
                while True:
                    kept.enter_context(open(os.devnull))
            run(hub)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, former)
        assert client.recv(4096) == refusal(query("a.example", 1, 7), 2)


def test_many_questions_of_a_connection_have_their_turns():
    """A connection can have 64 KiB of them: the program's other calls waited for a minute until those of 400 were refused."""
    denied = []
    resolver, hub = resolving(deny=lambda question, *_: denied.append(question))
    with connected(resolver) as client:
        for number in range(300):
            client.sendall(framed(query("x.example", 1, number)) + bytes(2))
        client.settimeout(5)
        while len(denied) < 300:
            before = len(denied)
            hub.run(waits=True)
            assert len(denied) - before <= 2  # one that has come meanwhile
        answers = b"".join(framed(refusal(query("x.example", 1, number), 5)) for number in range(300))
        with client.makefile("rb") as received:
            assert received.read(len(answers)) == answers


@pytest.mark.long
def test_connections_are_counted_and_keep_nothing():
    """A program sends what is no whole question, and closes; what it has sent would be kept for 30 seconds."""
    resolver, hub = resolving()
    with contextlib.ExitStack() as kept:
        clients = [kept.enter_context(connected(resolver)) for _ in range(16)]
        for client in clients:
            client.sendall(b"\xff\xff" + bytes(60_000))
            run(hub)
        assert resolver._open == 16
        resolver._open = _MAX_OPEN
        further = kept.enter_context(connected(resolver))
        run(hub)
        assert further.recv(1) == b""
        resolver._open = 16
    run(hub)
    assert resolver._open == 0
    gc.collect()
    assert [each for each in gc.get_objects() if isinstance(each, _Conversation) and each._resolver is resolver] == []


def test_a_connection_that_has_ended_asks_nothing_more(monkeypatch):
    """The program closes it before the first refusal arrives: the last question would be asked by a socket that stays open."""
    resolver, hub = resolving()
    monkeypatch.setattr(resolver, "upstream", lambda _: pytest.fail("it asks the name server"))
    with connected(resolver) as client:
        asked = [query(name, 1, 7) for name in ("x.example", "x.example", "x.example", "a.example")]
        client.send(b"".join(map(framed, asked)))
    before = len(hub.descriptors())
    for number in (1, 0):  # it is accepted; it is read, and has ended
        hub.run(waits=True)
        assert len(hub.descriptors()) == before + number


@given(names, st.integers(0, 255))
def test_case_and_bytes_that_are_no_text(name, byte):
    """They name no other name of a policy: an unusual byte is written out."""
    wire = query(name, 1, 7).replace(b"example", bytes([byte]) + b"XAMPLE")
    found = question_of(wire).name
    assert (found == name) == (byte in b"eE")
    assert found.isascii() and found.isprintable() and found == found.lower()
