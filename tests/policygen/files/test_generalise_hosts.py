"""Rules that make grants of the hosts and unix sockets that runs used, each alone; and what a policy gets of them."""

from __future__ import annotations

import pytest
from calls import parse

from callfence.policygen.files.generalise import added, begun, beside_hosts, learned
from callfence.policygen.files.generalise_hosts import connects_by_host, lacks, learned_sockets, suffixes
from callfence.policygen.grants import NOT_CONFINED, Files, written

NONE = (("udp send", "none", ""), ("unix connect", "none", ""), ("dns query", "none", ""))


def run(*uses):
    """A run with these uses: `tcp connect HOST: PORT`, `udp send HOST: PORT`, `name NAME: ADDRESS`, `unix connect SOCKET` or
    `dns query NAME`."""
    rows = set()
    for use in uses:
        what, _, value = use.rpartition(": ")
        rows.add((what or use, value if what else "", "/bin/it"))
    ports = {("tcp connect", value, executable) for what, value, executable in rows if what.startswith("tcp connect ")}
    kinds = {what.split(" ")[0] for what, _, _ in rows}
    missing = {row for row in NONE if row[0].split(" ")[0] not in kinds}
    return tuple(sorted(rows | (ports or {("tcp connect", "none", "")}) | {("tcp bind", "none", "")} | missing))


def lines(*runs, exact=False):
    granted = learned(runs, exact=exact).files.lines()
    return [written(line, value) for line, value in granted.items() if value != "none"]


def tcp(*hosts):
    return run(*(f"tcp connect {host}: 443" for host in hosts))


def asks(*names):
    return run(*(f"dns query {name}" for name in names))


RULES = (
    ("a name stays", [tcp("api.example.org")], ["tcp connect api.example.org: 443"]),
    ("an address stays", [tcp("192.0.2.7")], ["tcp connect 192.0.2.7: 443"]),
    ("two names of a parent stay", [tcp("a.example.org"), tcp("b.example.org")], 2),
    ("names that vary", [tcp("n1.x.org", "n2.x.org"), tcp("n3.x.org")], ["tcp connect *.x.org: 443"]),
    ("names of several things stay", [tcp("api.x.org", "www.x.org"), tcp("auth.x.org")], 3),
    (
        "names that vary, beside one that does not",
        [tcp("n1.x.org", "n2.x.org", "all.x.org"), tcp("n3.x.org", "all.x.org")],
        ["tcp connect *.x.org: 443"],
    ),
    (
        "many names in one run",
        [tcp(*(f"r{number}---sn-x.googlevideo.com" for number in range(8)))],
        ["tcp connect *.googlevideo.com: 443"],
    ),
    (
        "names that vary in an inner label",
        [tcp("a.b1.x.org", "a.b2.x.org"), tcp("a.b3.x.org")],
        ["tcp connect *.x.org: 443"],
    ),
    ("never below a top-level domain", [tcp("a1.org", "b1.org"), tcp("c1.org")], 3),
    ("never below a public suffix", [tcp("a1.co.uk", "b1.co.uk"), tcp("c1.co.uk")], 3),
    ("below what is below one", [tcp("a1.x.co.uk", "b1.x.co.uk"), tcp("c1.x.co.uk")], ["tcp connect *.x.co.uk: 443"]),
    ("addresses that vary", [tcp("192.0.2.1", "192.0.2.2"), tcp("192.0.2.3")], ["tcp connect 192.0.2.0/24: 443"]),
    ("many addresses", [tcp(*(f"192.0.2.{last}" for last in range(8)))], ["tcp connect 192.0.2.0/24: 443"]),
    ("addresses of networks apart", [tcp("192.0.2.1", "198.51.100.2"), tcp("203.0.113.3")], 3),
    ("of IPv6", [tcp("2001:db8::1", "2001:db8::2"), tcp("2001:db8::3")], ["tcp connect 2001:db8::/64: 443"]),
    ("one loopback address", [tcp("127.0.0.1")], ["tcp connect 127.0.0.1: 443"]),
    ("several loopback addresses", [tcp("127.0.0.1", "127.0.0.2")], ["tcp connect 127.0.0.0/8: 443"]),
    ("link-local ones", [tcp("169.254.1.1", "169.254.1.2"), tcp("169.254.1.3")], 3),
    (
        "ports as ever",
        [run("tcp connect localhost: 40001", "tcp connect x.org: 443")],
        ["tcp connect localhost: 32768-65535", "tcp connect x.org: 443"],
    ),
    ("UDP apart from TCP", [run("udp send x.org: 123")], ["udp send x.org: 123"]),
    ("a socket", [run("unix connect /run/db/.s.PGSQL.5432")], ["unix connect /run/db/.s.PGSQL.5432"]),
    ("an abstract socket", [run("unix connect @it")], ["unix connect @it"]),
    ("a random part", [run("unix connect @/tmp/dbus-Ab3xK9")], ["unix connect @/tmp/dbus-*"]),
    ("a random folder", [run("unix connect $TMPDIR/tmpk3j_9x2a/s")], ["unix connect $TMPDIR"]),
    ("names that vary", [run("unix connect @it/a"), run("unix connect @it/b")], ["unix connect @it/*"]),
    ("paths that vary", [run("unix connect ./run/a"), run("unix connect ./run/b")], ["unix connect ./run"]),
    ("many in one folder", [run(*(f"unix connect ./run/{name}" for name in "abcdefgh"))], ["unix connect ./run"]),
    ("a few in one folder", [run(*(f"unix connect ./run/{name}" for name in "abcdefg"))], 7),
    ("a name that is looked up", [asks("_sip._udp.x.org")], ["dns query _sip._udp.x.org"]),
    ("two of a parent stay", [asks("a.x.org"), asks("b.x.org")], 2),
    ("those that vary", [asks("n1.x.org", "n2.x.org"), asks("n3.x.org")], ["dns query *.x.org"]),
    ("many", [asks(*(f"4.3.2.{last}.zen.x.org" for last in range(8)))], ["dns query *.zen.x.org"]),
    ("never below a public suffix", [asks(*(f"n{number}.co.uk" for number in range(8)))], 8),
    (
        "the name above those that vary",
        [asks("n1.x.org", "n2.x.org", "x.org"), asks("n3.x.org")],
        ["dns query *.x.org", "dns query x.org"],
    ),
    (
        "apart from those that are used",
        [run("tcp connect n1.x.org: 443", "dns query n2.x.org", "dns query n3.x.org", "name n1.x.org: 192.0.2.1")],
        ["tcp connect n1.x.org: 443", "dns query n2.x.org", "dns query n3.x.org"],
    ),
    ("not all of /run", [run("unix connect /run/a"), run("unix connect /run/b")], 2),
)


@pytest.mark.parametrize(("runs", "expected"), [rule[1:] for rule in RULES], ids=[rule[0] for rule in RULES])
def test_a_rule(runs, expected) -> None:
    granted = lines(*runs)
    assert (len(granted) if isinstance(expected, int) else granted) == expected


@pytest.mark.parametrize("runs", [rule[1] for rule in RULES], ids=[rule[0] for rule in RULES])
def test_what_is_granted_is_enough_and_has_a_reason(runs) -> None:
    result = learned(runs)
    assert not any(lacks(result.files, uses) for uses in runs)
    exact = learned(runs, exact=True)
    assert not any(lacks(exact.files, uses) for uses in runs)
    assert set(result.files.lines().items()) - set(exact.files.lines().items()) <= {
        (line, value) for line, value in result.files.lines().items() if line in result.why
    }
    assert not exact.why


@pytest.mark.parametrize("runs", [rule[1] for rule in RULES], ids=[rule[0] for rule in RULES])
def test_the_order_of_runs_does_not_matter(runs) -> None:
    assert learned(runs) == learned(runs[::-1])


@pytest.mark.parametrize("runs", [rule[1] for rule in RULES], ids=[rule[0] for rule in RULES])
def test_a_policy_holds_it(runs) -> None:
    files = learned(runs).files
    text = "\n".join(written(line, value) for line, value in files.lines().items())
    assert parse(f"callfence 1\narch x86_64\n{text}\n").policy.files == files


def test_abstract_sockets_without_a_common_beginning_stay_apart() -> None:
    sockets = [f"unix connect @{name}bus" for name in "abcdefghij"]
    assert learned_sockets([run(*sockets[:5]), run(*sockets[5:])]) == (tuple(f"@{name}bus" for name in "abcdefghij"), {})


def test_sockets_that_are_contained_have_no_line() -> None:
    sockets, _ = learned_sockets([run("unix connect ./run/a", "unix connect ./run"), run("unix connect ./run/b")])
    assert sockets == ("./run",)


def test_suffixes_have_two_labels() -> None:
    assert all(suffix.count(".") == 1 and suffix == suffix.lower() for suffix in suffixes())
    assert {"co.uk", "com.au", "github.io", "amazonaws.com", "cloudfront.net", "azurewebsites.net"} <= suffixes()


# What a policy gets

HOSTS = Files(None, (), (), (), (), query=())
"""A policy that confines hosts and grants none."""


def test_a_policy_gets_what_the_newest_run_needs() -> None:
    runs = [tcp("a.example.org"), tcp("b.example.org")]
    files = added(HOSTS, runs, beside_hosts(runs[-1]))
    assert list(files.connect_to) == ["b.example.org"]
    assert files.connect == ()


def test_what_is_granted_stays_as_it_is() -> None:
    files = Files(None, (), (), (), (), {"*.example.org": ((443, 443),)})
    assert added(files, [tcp("a.example.org")], beside_hosts(tcp("a.example.org"))) == files


def test_a_name_whose_addresses_are_granted_needs_nothing() -> None:
    uses = run("tcp connect db.example.org: 5432", "name db.example.org: 10.1.2.3", "name db.example.org: 10.1.2.4")
    assert not lacks(Files(None, (), (), ((53, 53),), (), {"10.0.0.0/8": ((5432, 5432),)}), uses)
    assert lacks(Files(None, (), (), (), (), {"10.0.0.0/8": ((5432, 5432),)}), uses), "but to be looked up"
    assert lacks(Files(None, (), (), (), (), {"10.1.2.3": ((5432, 5432),)}), uses)
    assert lacks(Files(None, (), (), (), (), {"10.0.0.0/8": ((443, 443),)}), uses)


def test_what_a_policy_leaves_free_stays_free() -> None:
    uses = run("udp send x.org: 1", "unix connect @a")
    assert added(NOT_CONFINED, [uses], uses) == NOT_CONFINED
    only = added(Files(unix=()), [uses], uses)
    assert only.lines() == {"unix connect @a": only.lines()["unix connect @a"]}


def test_a_policy_with_ports_alone_gets_ports() -> None:
    files = Files(None, ((80, 80),), ())
    assert not connects_by_host(files)
    assert added(files, [tcp("x.org")], tcp("x.org")).lines() == {"tcp connect": "80, 443", "tcp bind": "none"}


def test_runs_without_hosts_grant_ports() -> None:
    old = (("tcp bind", "none", ""), ("tcp connect", "80", "/bin/it"))
    files = learned([old, tcp("x.org")]).files
    assert (files.connect, dict(files.connect_to)) == (((80, 80),), {"x.org": ((443, 443),)})
    assert begun([old, tcp("x.org")]) == Files(None, (), ())
    assert begun([tcp("x.org")]) == HOSTS


def test_name_servers_are_no_port_where_hosts_are_known() -> None:
    uses = tuple(sorted((*tcp("x.org"), ("udp connect", "53", "/bin/it"))))
    assert learned([uses]).files.connect == ()
    assert learned([uses], hosts=False).files.connect == ((53, 53), (443, 443))


# Names that are looked up


def test_a_policy_gets_names_that_no_line_has() -> None:
    files = Files(None, (), (), (), (), {"*.x.org": ((443, 443),)}, query=("*.y.org",))
    uses = asks("a.x.org", "a.y.org", "z.org")
    assert lacks(files, uses)
    after = added(files, [uses], uses)
    assert (after.query, after.connect_to) == (("*.y.org", "z.org"), files.connect_to)
    assert not lacks(after, uses)


def test_the_first_name_of_a_host_confines_what_is_looked_up() -> None:
    files = Files(None, (), (), ((53, 53),), (), {"192.0.2.1": ((443, 443),)})
    old, new = asks("old.org"), run("tcp connect a.org: 443", "name a.org: 192.0.2.9", "dns query new.org")
    assert not lacks(files, old), "its UDP lines let it ask"
    assert added(files, [old], beside_hosts(old)) == files
    assert added(files, [old, new], beside_hosts(new)).query == ("new.org", "old.org")


def test_a_policy_that_lets_no_name_server_be_asked_gets_names() -> None:
    files = Files(None, (), (), (), ())
    assert lacks(files, asks("a.org"))
    assert added(files, [asks("a.org")], asks("a.org")).query == ("a.org",)


def test_names_that_are_used_through_other_lines_are_looked_up() -> None:
    """Where ports of any host are granted, or the addresses of a name, no line about ports has the name."""
    uses = run("tcp connect a.org: 443", "name a.org: 192.0.2.9", "tcp connect localhost: 443")
    for files in (
        Files(None, ((443, 443),), (), (), (), query=("b.org",)),
        Files(None, (), (), (), (), {"192.0.2.9": ((443, 443),), "127.0.0.0/8": ((443, 443),), "localhost": ((443, 443),)}),
    ):
        after = added(files, [uses], beside_hosts(uses) if files.connect_to else uses)
        assert "a.org" in after.query and "localhost" not in after.query
        assert not lacks(after, uses)


def test_exact_names_are_looked_up() -> None:
    runs = [asks("n1.x.org", "n2.x.org"), asks("n3.x.org")]
    assert added(HOSTS, runs, runs[1], exact=True).query == ("n3.x.org",)
    assert added(HOSTS, runs, runs[1]).query == ("*.x.org",)
    assert "differ" in learned(runs).why["dns query *.x.org"]


@pytest.mark.parametrize(
    ("line", "granted", "expected"),
    [
        ("path /srv", "read", "path /srv: read"),
        ("tcp connect", "443", "tcp connect: 443"),
        ("unix connect", "none", "unix connect: none"),
        ("unix connect /run/a", "", "unix connect /run/a"),
        ("dns query a.example", "yes", "dns query a.example"),
        ("path /srv", "", "path /srv"),
    ],
)
def test_a_line_has_a_colon_before_what_it_grants(line, granted, expected):
    assert written(line, granted) == expected
