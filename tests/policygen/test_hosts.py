"""Hosts and unix sockets: one form of each, what contains it, and in which order a policy has them."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from callfence.policygen import hosts
from callfence.policygen.hosts import HostError, canonical, canonical_query, canonical_socket, containing, containing_sockets

LONG = ".".join(["a" * 63] * 3)


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("any", "any"),
        ("ANY", "any"),
        ("192.0.2.7", "192.0.2.7"),
        ("[192.0.2.7]", None),
        ("10.0.0.0/8", "10.0.0.0/8"),
        ("10.0.0.1/32", "10.0.0.1"),
        ("0.0.0.0/0", "0.0.0.0/0"),
        ("2001:DB8::1", "2001:db8::1"),
        ("[2001:db8::1]", "2001:db8::1"),
        ("[2001:db8::]/32", "2001:db8::/32"),
        ("2001:db8::1/128", "2001:db8::1"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
        ("::ffff:0.0.0.0/96", "0.0.0.0/0"),
        ("Example.ORG.", "example.org"),
        ("*.Example.org", "*.example.org"),
        ("a_b.example", "a_b.example"),
        ("b\N{LATIN SMALL LETTER U WITH DIAERESIS}cher.example", "xn--bcher-kva.example"),
        ("*.B\N{LATIN CAPITAL LETTER U WITH DIAERESIS}cher.example", "*.xn--bcher-kva.example"),
        ("stra\N{LATIN SMALL LETTER SHARP S}e.example", None),
        (f"{LONG}.{'a' * 61}", f"{LONG}.{'a' * 61}"),  # 253 characters
        (f"{LONG}.{'a' * 62}", None),
        ("a" * 63, "a" * 63),
        ("a" * 64, None),
        ("-a.example", None),
        ("a-.example", None),
        ("a-b.example", "a-b.example"),
        ("any.", None),
        ("a..b", None),
        ("a.7", None),
        ("7.a", "7.a"),
        ("", None),
        ("a.*.b", None),
        ("*", None),
    ],
)
def test_a_host_has_one_form(text: str, host: str | None) -> None:
    """None: it is no host."""
    if host is None:
        with pytest.raises(HostError):
            canonical(text)
    else:
        assert canonical(text) == canonical(host) == host
    assert hosts.is_plain_name(text) == (text == host and hosts.is_name(host) and not host.startswith("*"))


NO_ADDRESS = "such as 192.0.2.7, 10.0.0.0/8 or 2001:db8::/32"
NO_NAME = "such as example.org, *.example.org, 192.0.2.7 or 10.0.0.0/8"


@pytest.mark.parametrize(
    ("read", "text", "message", "hint"),
    [
        (canonical, "fe80::1%eth0", "an address has no scope id here", "write the address alone: it holds on every interface"),
        (canonical, "1.2.3", "1.2.3 is no IP address or network", NO_ADDRESS),
        (canonical, "10.0.0.0/255.0.0.0", "10.0.0.0/255.0.0.0 is no IP address or network", NO_ADDRESS),
        (canonical, "10.0.0.0/33", "10.0.0.0/33 is no IP address or network", NO_ADDRESS),
        (canonical, "10.0.0.0/", "10.0.0.0/ is no IP address or network", NO_ADDRESS),
        (canonical, "::ffff:10.0.0.0/95", "::ffff:10.0.0.0/95 has IPv4 addresses and others",
         "write the network of the IPv4 addresses"),
        (canonical, "10.0.0.1/8", "10.0.0.1/8 has bits after the network's prefix", "write 10.0.0.0/8, or the address alone"),
        (canonical, "a.*", "a.*: `*` can only be the whole first label", "such as *.example.org; `any` is every host"),
        (canonical, "a b", "a b is no host name", NO_NAME),
        (canonical, "", "this is no host name", NO_NAME),
        (canonical, "\N{LATIN SMALL LETTER SHARP S}", "\N{LATIN SMALL LETTER SHARP S} is no host name",
         "write letters, digits and hyphens, or the name's xn-- form"),
        (canonical_query, "10.0.0.1", "10.0.0.1 is an address, and only names are looked up",
         "write a name; the names of addresses are looked up below in-addr.arpa and ip6.arpa"),
        (canonical_socket, f"@{'a' * 108}", "the name of an abstract socket has at most 107 bytes", ""),
        (canonical_socket, "@a*b", "@a*b: `*` can only be at the end", "such as @/tmp/.X11-unix/*"),
    ],
)  # fmt: skip
def test_what_is_no_host_or_socket(read: Callable[[str], str], text: str, message: str, hint: str) -> None:
    with pytest.raises(HostError) as caught:
        read(text)
    assert (caught.value.message, caught.value.hint or "") == (message, hint)


@pytest.mark.parametrize(
    ("text", "socket"),
    [("any", "any"), ("@a", "@a"), ("@a*", "@a*"), ("@*", "@*"), (f"@{'a' * 107}", f"@{'a' * 107}"), ("/run//x/", "/run/x")],
)
def test_a_socket_has_one_form(text: str, socket: str) -> None:
    assert canonical_socket(text) == socket


def test_names_and_any_can_be_looked_up() -> None:
    assert [canonical_query(text) for text in ("any", "A.org.", "*.org")] == ["any", "a.org", "*.org"]


def test_what_contains_a_host() -> None:
    assert [*containing("any")] == ["any"]
    assert [*containing("a.b.org")] == ["a.b.org", "*.b.org", "*.org", "any"]
    assert [*containing("*.b.org")] == ["*.b.org", "*.org", "any"]
    networks = [*containing("10.1.0.0/16")]
    assert networks == [
        "10.1.0.0/16", "10.0.0.0/15", "10.0.0.0/14", "10.0.0.0/13", "10.0.0.0/12", "10.0.0.0/11", "10.0.0.0/10", "10.0.0.0/9",
        "10.0.0.0/8", "10.0.0.0/7", "8.0.0.0/6", "8.0.0.0/5", "0.0.0.0/4", "0.0.0.0/3", "0.0.0.0/2", "0.0.0.0/1", "0.0.0.0/0",
        "any",
    ]  # fmt: skip
    assert len([*containing("2001:db8::1")]) == 130
    assert [*containing("0.0.0.0/0")] == ["0.0.0.0/0", "any"]


def test_what_contains_a_socket() -> None:
    assert [*containing_sockets("any")] == ["any"]
    assert [*containing_sockets("/run/a/b")] == ["/run/a/b", "/run/a", "/run", "/", "any"]
    assert [*containing_sockets("@ab")] == ["@ab", "@ab*", "@a*", "@*", "any"]
    assert [*containing_sockets("@ab*")] == ["@ab*", "@a*", "@*", "any"]


HOSTS = [
    "any", "0.0.0.0/0", "10.0.0.0/8", "10.0.0.0/16", "10.0.0.0", "192.0.2.7", "::/0", "2001:db8::", "*.example", "*.a.example",
    "a.example", "b.a.example", "org", "*.b.org", "b.org",
]  # fmt: skip
SOCKETS = ["any", "./s", "$HOME/s", "/run/a", "/run/b", "@*", "@a*", "@a", "@ab*", "@ab", "@b"]


@pytest.mark.parametrize(("order", "places"), [(hosts.order, HOSTS), (hosts.socket_order, SOCKETS)], ids=["hosts", "sockets"])
def test_the_order_in_a_policy(order: Callable[[str], tuple[object, ...]], places: list[str]) -> None:
    for seed in range(5):
        mixed = random.Random(seed).sample(places, len(places))
        assert sorted(mixed, key=order) == places  # type: ignore[arg-type]
