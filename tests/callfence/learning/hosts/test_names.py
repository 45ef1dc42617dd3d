"""Names that were only looked up, by the answers that a program received and what it connected to."""

from __future__ import annotations

import os
from ipaddress import ip_address
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from callfence.enforcer.hosts.addresses import Peer
from callfence.enforcer.hosts.names.dns import A, query, refusal
from callfence.learning.hosts import names, watcher as watching
from callfence.learning.hosts.names import Names
from callfence.learning.hosts.watcher import HostWatcher

if TYPE_CHECKING:
    from pathlib import Path


def answer(name: str, address: str = "") -> bytes:
    """The answer to a question for a name: one address, or that there is no such name."""
    message = refusal(query(name, A, 1), 0 if address else 3)
    record = b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4" + ip_address(address).packed if address else b""
    return message[:6] + bytes([0, bool(address)]) + message[8:] + record


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> Names:
    monkeypatch.setattr(os, "uname", lambda: os.uname_result(("Linux", "Box.corp.example", "6", "", "x86_64")))
    monkeypatch.setattr(Names, "_text", lambda *_: "search corp.example .\nnameserver 192.0.2.53\n")
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
    monkeypatch.setattr(names, "MAX_NAMES", 2)
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


def test_a_pipe_that_takes_the_place_of_a_file_has_no_lines(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "hosts")
    monkeypatch.setattr(names.stat, "S_ISREG", lambda _mode: True)  # it was a file when it was looked at
    writer = os.open(tmp_path / "hosts", os.O_RDWR)
    try:
        assert Names()._text(os.getpid(), f"{tmp_path}/hosts") == ""
    finally:
        os.close(writer)


def test_a_file_that_changes_all_the_time_takes_little_memory(tmp_path: Path) -> None:
    found, file = Names(), tmp_path / "hosts"
    for number in range(100):
        file.write_text(f"192.0.2.1 a{'.' * number}\n")
        assert found._text(os.getpid(), str(file)) == file.read_text()
    assert len(found._texts) <= 16


def test_no_more_sockets_and_servers_than_so_many_are_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "MAX_USES", 3)
    gaps: list[str] = []
    watcher: Any = HostWatcher((), gaps.append)
    task = SimpleNamespace(executable="/bin/it", tid=1, tgid=1)
    watcher._calls = SimpleNamespace(watch=lambda *_, **__: None)
    monkeypatch.setattr(watching.reading, "inode_of", lambda *_: "socket:[1]")
    for number in range(5):
        watcher._unix(task, b"\0it%d" % number)
        call = SimpleNamespace(name="sendto", descriptor=3)
        watcher._meets(task, None, call, "send", Peer(2, bytes([10, 0, 0, number]), 53))
    lines = [what for what, *_ in watcher.uses()]
    assert [line for line in lines if line.startswith("unix connect")] == [f"unix connect @it{number}" for number in range(3)]
    assert [line for line in lines if line.startswith("udp send")] == [f"udp send 10.0.0.{number}" for number in range(3)]
    assert len(gaps) == 4
    assert "not all were recorded" in gaps[0]
