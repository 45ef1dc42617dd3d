"""What the helper grants by the lines of a policy, against the exact sets of the policy's language."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import example, given, strategies as st

from callfence.enforcer.hosts import rules as rules_
from callfence.enforcer.hosts.addresses import Peer, address_of, peer_of
from callfence.enforcer.hosts.granted import Hosts
from callfence.enforcer.hosts.names.dns import Answer
from callfence.enforcer.hosts.names.known import Names
from callfence.enforcer.hosts.rules import Rules, encode, is_local, is_near
from callfence.enforcer.hosts.unix import is_granted
from callfence.policygen.files.algebra import TREES
from callfence.policygen.files.places import Linking
from callfence.policygen.grants import Files, ranges
from callfence.policygen.hosts import carried, containing, is_name

INET, INET6, UNIX = 2, 10, 1  # AF_*
HOSTS = (
    "192.0.2.7", "192.0.2.0/24", "192.0.0.0/16", "2001:db8::7", "2001:db8::/32", "::/0", "api.example.org", "*.example.org"
)  # fmt: skip
PORTS = st.sets(st.integers(0, 20)).map(lambda ports: ranges((port, port) for port in ports))


def rules(**fields: object) -> Rules:
    return Rules(encode(Files(**fields)))  # type: ignore[arg-type]


def test_a_line_that_is_granted_later_permits_a_look_up() -> None:
    content = encode(Files(connect=(), connect_to={"example.org": ((443, 443),)}))
    hosts = Hosts([("it.policy", content)], {}, (), is_audit=False, keeps=lambda: True, linking=Linking)
    (_, granted), name = hosts.policies[0], "_http._tcp.example.org"
    assert granted.spare(name) is None
    hosts.grant("it.policy", f"dns query {name}")
    assert (granted.spare(name), granted.reaches("connect", b"\x0a\0\0\1", [name])) == (0, False)


@pytest.mark.parametrize(("line", "socket"), [("/run/db", b"/run/db"), ('"/run/a b\\xff"', b"/run/a b\xff"), ("@it", b"@it")])
def test_a_socket_that_is_granted_later_is_that_policys(line: str, socket: bytes) -> None:
    confining = [(file, encode(Files(unix=()))) for file in ("it.policy", "other.policy")]
    hosts = Hosts(confining, {}, (), is_audit=False, keeps=lambda: True, linking=Linking)
    hosts.grant("it.policy", f"unix connect {line}")
    assert hosts.sockets == {"it.policy": [socket], "other.policy": []}


@given(
    st.dictionaries(st.sampled_from(HOSTS), PORTS, max_size=5),
    PORTS,
    st.sampled_from(("192.0.2.7", "192.0.2.8", "192.0.3.1", "10.0.0.1", "2001:db8::7", "2001:db8::8", "2001:db9::1")),
    st.sets(st.sampled_from(("api.example.org", "www.example.org", "example.org", "other.net"))),
    st.integers(0, 20),
)
def test_what_is_granted_is_what_the_lines_say(hosts, anywhere, address, names, port):
    """A port at an address: by a line about the address, a network that has it, or a name that the address was given for."""
    files = Files(connect=anywhere, connect_to=hosts, send=())
    tree = TREES["connect"].grants(files)
    places = {above for host in (address, *names) for above in containing(host)}
    expected = any(tree.get(place, 0) >> port & 1 for place in places)
    assert Rules(encode(files)).grants("connect", ip_address(address).packed, port, names) is expected


def test_what_is_not_confined_is_granted():
    assert rules(unix=()).grants("connect", bytes(4), 1, ())
    assert rules(unix=()).grants("send", bytes(4), 1, ())
    assert not rules(send=()).grants("send", b"\x01\x02\x03\x04", 1, ())


def test_the_ports_that_a_program_binds_go_with_lines_about_hosts():
    assert rules(send=(), bind=((0, 0), (80, 90))).binds(85)
    assert not rules(send=(), bind=((80, 90),)).binds(91)
    assert not rules(send=()).binds(80)
    assert encode(Files(bind=((80, 90),))) == b""


NEAR = "127.0.0.1 127.9.9.9 169.254.169.254 0.1.2.3 224.0.0.1 255.255.255.255 ::1 :: fe80::1 febf::1 ff02::1"
NEAR += " ::127.0.0.1 ::2 ::ffff:0:127.0.0.1 64:ff9b::7f00:1 64:ff9b::a9fe:a9fe 2002:7f00:1::1 2002:a9fe:a9fe:1::"
NEAR += " 64:ff9b:1::7f00:1 64:ff9b:1:fffe::a9fe:a9fe"
FAR = "128.0.0.1 126.255.255.255 169.253.255.255 10.0.0.1 223.255.255.255 fec0::1 2001:db8::1"
FAR += " ::10.0.0.1 64:ff9b::10.0.0.1 2002:a00:1::127.0.0.1 64:ff9b:1::10.0.0.1"


@pytest.mark.parametrize("address", NEAR.split())
def test_a_name_opens_no_near_address(address):
    packed = ip_address(address).packed
    assert is_near(packed)
    named = rules(connect_to={"api.example.org": ((0, 65535),), "localhost": ((0, 65535),)})
    assert not named.grants("connect", packed, 80, ["api.example.org"])
    assert named.grants("connect", packed, 80, ["localhost"]) == ip_address(address).is_loopback
    assert rules(connect_to={address: ((80, 80),)}).grants("connect", packed, 80, [])


@pytest.mark.parametrize("address", FAR.split())
def test_other_addresses_are_not_near(address):
    assert not is_near(ip_address(address).packed)


def test_localhost_is_no_other_host():
    """Whatever a name server says."""
    named = rules(connect_to={"localhost": ((0, 65535),)})
    assert not any(named.grants("connect", ip_address(address).packed, 80, ["localhost"]) for address in FAR.split())


@pytest.mark.parametrize("label", ["04", "0_4", "+4", "4_", "-0"])
def test_a_question_for_the_name_of_an_address_has_one_form(label):
    """Others could tell its name server something."""
    names = Names([])
    names.learn("name.example.org", Answer(0, False, (), (b"\x0a\x4d\0\4",), 60))
    assert names.is_reverse_wanted("4.0.77.10.in-addr.arpa")
    assert not names.is_reverse_wanted(f"{label}.0.77.10.in-addr.arpa")


def test_how_much_a_name_has_that_the_policy_does_not():
    some = rules(connect_to={"api.example.org": ((1, 1),), "*.example.org": ((1, 1),), "*.deep.example.org": ((1, 1),)})
    assert some.spare("api.example.org") == 0
    assert some.spare("www.example.org") == len("www")
    assert some.spare("a.b.example.org") == len("a.b")
    assert some.spare("a.deep.example.org") == len("a")
    assert some.spare("example.org") is None
    assert some.spare("notexample.org") is None
    assert some.has_names
    assert not rules(connect_to={"192.0.2.7": ((1, 1),)}).has_names


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"connect_to": {"a.example": ((8080, 8080),), "*.b.example": ((8080, 8080),)}}, ("tcp connect x.example", "8080")),
        ({"connect_to": {"a.example": ((80, 80), (8000, 8099))}}, ("tcp connect x.example", "80, 8000-8099")),
        ({"connect_to": {"a.example": ((80, 80),), "b.example": ((25, 25),)}}, ("tcp connect x.example", "443")),
        ({"connect_to": {"a.example": ((0, 65535),)}}, ("tcp connect x.example", "443")),
        ({"connect_to": {"localhost": ((80, 80),)}}, ("tcp connect x.example", "443")),
        ({"connect_to": {"192.0.2.7": ((80, 80),)}, "query": ("a.example",)}, ("dns query x.example", "")),
        ({"send_to": {"localhost": ((32768, 65535),)}, "query": ("*.example",)}, ("dns query x.example", "")),
        ({"send_to": {"a.example": ((123, 123),)}}, ("udp send x.example", "123")),
        ({"connect_to": {"a.example": ((80, 80),)}, "send_to": {"b.example": ((123, 123),)}}, ("tcp connect x.example", "80")),
    ],
)
def test_a_refused_look_up_proposes_what_other_names_have(fields, line):
    assert rules(**fields).line_for("x.example") == line


def test_the_names_of_this_machine():
    assert is_local("localhost")
    assert is_local("a.localhost")
    assert not is_local("localhost.example.org")


@pytest.mark.parametrize(
    ("socket", "granted", "expected"),
    [
        (b"/run/a", b"/run/a", True),
        (b"/run/a", b"/run", True),
        (b"/run/a", b"/", True),
        (b"/run/ab", b"/run/a", False),
        (b"/run/a", b"any", True),
        (b"@a", b"@a", True),
        (b"@ab", b"@a", False),
        (b"@ab", b"@a*", True),
        (b"@ab", b"@*", True),
        (b"@ab", b"/", False),
        (b"/run/a", b"@*", False),
    ],
)
def test_sockets(socket, granted, expected):
    assert is_granted(socket, [granted]) is expected


@given(st.integers(0, 2**32 - 1), st.integers(0, 65535))
def test_addresses_are_read_as_they_are_written(number, port):
    host = number.to_bytes(4, "big")
    read = host if number else b"\x7f\0\0\1"
    assert peer_of(address_of(host, port, INET), INET, sends=False) == Peer(INET, read, port)
    assert peer_of(address_of(host, port, INET6), INET6, sends=False) == Peer(INET6, read, port)


def test_what_the_kernel_takes_for_another_family():
    address = bytes(2) + address_of(b"\x01\x02\x03\x04", 53, INET)[2:]
    sent, connected = (peer_of(address, INET, sends=sends) for sends in (True, False))
    assert sent == Peer(INET, b"\x01\x02\x03\x04", 53)
    assert connected == Peer(0)


@pytest.mark.parametrize("length", [0, 1, 2, 15])
def test_short_addresses_mean_nobody(length):
    peer = peer_of(address_of(b"\x01\x02\x03\x04", 53, INET)[:length], INET, sends=False)
    assert peer is None


@given(st.sampled_from([host for host in HOSTS if is_name(host)]))
def test_names_are_no_networks(host):
    assert not rules(connect_to={host: ((1, 1),)}).networks["connect"]


@given(st.lists(st.text("\\\0@:0ab* ").map("@{}".format), max_size=3, unique=True))
@example(["@x: \0unix connect any", "@\\0", "@\\\0"])
def test_the_name_of_an_abstract_socket_is_no_other_line(sockets):
    made = rules(unix=tuple(sorted(sockets)))
    assert sorted(made.sockets) == sorted(sockets)
    assert made.confines == {"unix"}


@given(st.sampled_from(rules_._INNER), st.ip_addresses(v=4), st.randoms())
def test_what_gateways_take_for_ipv4_is_judged_as_that_by_lint_too(inner, address, random):
    """`is_near` and `carried` have the same gateways."""
    start, at = inner
    whole = start + random.randbytes(at - len(start)) + address.packed + random.randbytes(12 - at)
    assert str(address) in carried(str(ip_address(whole)))
    assert is_near(whole) or not is_near(address.packed)
