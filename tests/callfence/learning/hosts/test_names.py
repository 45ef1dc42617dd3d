"""Names that were only looked up, by the answers that a program received and what it connected to."""

from __future__ import annotations

import os
from ipaddress import ip_address
from types import SimpleNamespace
from typing import Any

import pytest

from callfence.enforcer.hosts.names.dns import A, query, refusal
from callfence.learning.hosts import names
from callfence.learning.hosts.names import Names
from callfence.learning.hosts.watcher import HostWatcher


def answer(name: str, address: str = "") -> bytes:
    """The answer to a question for a name: one address, or that there is no such name."""
    message = refusal(query(name, A, 1), 0 if address else 3)
    record = b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4" + ip_address(address).packed if address else b""
    return message[:6] + bytes([0, bool(address)]) + message[8:] + record


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> Names:
    monkeypatch.setattr(os, "uname", lambda: os.uname_result(("Linux", "Box.corp.example", "6", "", "x86_64")))
    monkeypatch.setattr(Names, "_lines", lambda *_: [["search", "corp.example", "."], ["nameserver", "192.0.2.53"]])
    return Names()


def asked(found: Names, *questions: tuple[str, str], used: tuple[str, ...] = ()) -> list[str]:
    for name, address in questions:
        assert found.answered(answer(name, address), 1, "/bin/it") == 1
    return [name for name, executable in found.asked({*used}) if executable == "/bin/it"]


def test_what_is_not_used_is_looked_up_whatever_the_answer_is(found: Names) -> None:
    questions = ("a.org", "192.0.2.1"), ("b.org", "192.0.2.2"), ("_sip._udp.c.org", ""), ("nothing.d.org", "")
    assert asked(found, *questions, used=("a.org",)) == ["b.org", "_sip._udp.c.org", "nothing.d.org"]


def test_what_c_libraries_ask_below_search_domains_needs_nothing(found: Names) -> None:
    questions = ("b.org", ""), ("b.org.corp.example", ""), ("a.org.corp.example", ""), ("db.corp.example", "192.0.2.3")
    assert asked(found, *questions, used=("a.org",)) == ["b.org", "db.corp.example"]


def test_the_name_of_this_machine_needs_nothing(found: Names) -> None:
    names_ = ("box", "box.corp.example", "box.corp.example.corp.example", "box.org")
    assert asked(found, *((name, "") for name in names_)) == ["box.org"]


def test_the_names_of_addresses_that_were_found_need_nothing(found: Names) -> None:
    questions = ("a.org", "192.0.2.1"), ("1.2.0.192.in-addr.arpa", ""), ("2.2.0.192.in-addr.arpa", "")
    assert asked(found, *questions) == ["a.org", "2.2.0.192.in-addr.arpa"]


def test_no_more_than_so_many_are_recorded(found: Names, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "MOST_NAMES", 2)
    assert asked(found, ("a.org", ""), ("b.org", ""), ("a.org", "")) == ["a.org", "b.org"]
    assert not found.is_full
    assert asked(found, ("c.org", "")) == ["a.org", "b.org"]
    assert found.is_full


@pytest.mark.parametrize("name", ["*.com", "*", "any"])
def test_a_name_that_a_policy_reads_as_others_is_none(found: Names, name: str) -> None:
    assert asked(found, (name, "192.0.2.7")) == []
    assert not found.name_of(ip_address("192.0.2.7").packed, 1)


def test_an_abstract_socket_that_a_policy_reads_as_others_is_not_recorded() -> None:
    gaps: list[str] = []
    watcher: Any = HostWatcher((), gaps.append)
    for name in (b"*", b"it*", b"a*b", b"it"):
        watcher._unix(SimpleNamespace(executable="/bin/it"), b"\0" + name)
    assert [(what, who) for what, _, who in watcher.uses() if what.startswith("unix")] == [("unix connect @it", "/bin/it")]
    assert gaps == ["/bin/it connects to an abstract socket with `*` in its name, which no line is about"] * 3
