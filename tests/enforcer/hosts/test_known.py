"""The names that addresses have: those of /etc/hosts, for `enforce` and for `learn`, and how many are remembered."""

from __future__ import annotations

import _socket
import errno
import os
import signal
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from callfence.enforcer.hosts.addresses import Peer
from callfence.enforcer.hosts.making import Making
from callfence.enforcer.hosts.names import files as names_files, known, resolver
from callfence.enforcer.hosts.names.dns import MAX_RECORDS, NOERROR, REFUSED, A, Answer, Question
from callfence.enforcer.hosts.names.files import LOOPBACK
from callfence.enforcer.hosts.names.resolver import NEW
from callfence.enforcer.hosts.rules import Rules
from callfence.enforcer.hosts.targets import DeniedError, Led, Target, Targets
from callfence.enforcer.hub import Hub
from callfence.enforcer.pending import Pending
from callfence.enforcing import files
from callfence.learning.hosts.names import names_of
from callfence.policygen.files.landlock import encode
from callfence.policygen.files.places import deciding
from callfence.policygen.files.ruleset import ruleset
from callfence.policygen.language.document import parse

if TYPE_CHECKING:
    from pathlib import Path

V4, V6 = LOOPBACK
FILES = "callfence.enforcer.hosts.names.files"


@pytest.mark.parametrize(
    ("text", "of_v4", "of_v6"),
    [
        ("127.0.0.1 localhost\n127.0.0.1 vm\n", ["localhost", "vm"], ["localhost"]),
        ("::1 ip6-localhost localhost\n", ["localhost"], ["ip6-localhost", "localhost"]),
        ("127.0.0.1 localhost\n::1 localhost\n", ["localhost"], ["localhost"]),
        ("127.0.0.1 vm\n192.0.2.1 localhost\n", ["vm"], []),
        ("0.0.0.0 blocked.example\n:: blocked.example\n127.0.0.1 vm\n", ["vm"], []),
        ("", [], []),
    ],
)
def test_both_loopback_addresses_are_localhost_if_one_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, of_v4: list[str], of_v6: list[str]
) -> None:
    """Otherwise `enforce` denies what `learn` has written `tcp connect localhost` for: curl tries ::1 in any case."""
    file = tmp_path / "hosts"
    file.write_text(text)
    monkeypatch.setattr(f"{FILES}.HOSTS", str(file))
    names = known.Names(())
    assert (names.of(V4), names.of(V6)) == (of_v4, of_v6)
    learned = names_of(text)
    assert all(learned.get(address, "") in (*names.of(address), "") for address in LOOPBACK)


def test_a_long_list_of_blocked_names_is_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "hosts"
    text = "".join(f"0.0.0.0 {number}.ads.example\n" for number in range(60_000)) + "192.0.2.7 own.example\n"
    assert len(text) > 1 << 20
    file.write_text(text)
    monkeypatch.setattr(f"{FILES}.HOSTS", str(file))
    names = known.Names(())
    assert (names.of(bytes((192, 0, 2, 7))), names.of(V4)) == (["own.example"], [])
    assert names_of(text) == {bytes((192, 0, 2, 7)): "own.example"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("search example.org lan\nnameserver 192.0.2.1\n", ["example.org", "lan"]),
        ("domain example.org\n", ["example.org"]),
        ("domain a.example\nsearch b.example # c.example\n", ["b.example"]),
        ("search\n", []),
        ("nameserver 192.0.2.1\n# search example.org\n", []),
    ],
)
def test_the_domains_that_a_name_is_searched_in(text: str, expected: list[str]) -> None:
    """resolv.conf(5): of several lines the last counts."""
    assert names_files.domains(text) == expected


@pytest.mark.parametrize(
    ("scope", "index"), [("", 0), ("%", 0), ("%lo", 1), ("%7", 7), ("%no-such-one", 0), (f"%{'9' * 5000}", 0), ("%l\0o", 0)]
)
def test_a_name_server_has_the_scope_of_an_interface_or_none(scope: str, index: int) -> None:
    assert names_files.servers(f"nameserver fe80::1{scope}\n") == {bytes.fromhex("fe80" + "0" * 27 + "1"): index}


@pytest.mark.parametrize("has_writer", [False, True])
def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *, has_writer: bool
) -> None:
    """Root's program may put it there, and the helper reads that file to say why port 53 of another host is denied."""
    file = tmp_path / "resolv.conf"
    file.write_text("nameserver 192.0.2.53\n")
    monkeypatch.setattr(f"{FILES}.CONFIGURATION", str(file))
    monkeypatch.setattr(known, "_may_be_written", lambda _path: True)
    names = known.Names(())
    file.unlink()
    os.mkfifo(file)
    writer = os.open(file, os.O_RDWR) if has_writer else -1
    former = signal.signal(signal.SIGALRM, lambda *_: pytest.fail("it waits"))
    signal.alarm(5)
    try:
        assert not names.is_not_believed(b"\xc0\0\2\7", known.PORT)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, former)
        if has_writer:
            os.close(writer)
    assert names.is_server(b"\xc0\0\2\x35", known.PORT)


def test_a_file_that_is_read_again_and_again_takes_no_descriptors(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "hosts"
    file.write_text("127.0.0.1 vm0\n")
    monkeypatch.setattr(f"{FILES}.HOSTS", str(file))
    monkeypatch.setattr(known, "_may_be_written", lambda _path: False)
    names = known.Names(())
    before = len(os.listdir("/proc/self/fd"))
    for number in range(10):
        file.write_text(f"127.0.0.1 vm{number}\n")
        os.utime(file, ns=(number, number))
        assert names.of(V4) == [f"vm{number}"]
    assert len(os.listdir("/proc/self/fd")) == before


def test_names_take_no_more_memory_than_they_may(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever answers for a name below a wildcard could otherwise give ever new names ever the same addresses."""
    monkeypatch.setattr(known, "_MAX_NAMES", 100 * MAX_RECORDS)
    monkeypatch.setattr(known, "_MAX_NAMES_OF_ONE", 90)
    names, addresses = known.Names(()), tuple(number.to_bytes(4, "big") for number in range(1 << 30, (1 << 30) + MAX_RECORDS))
    for number in range(150):
        names.learn(f"x{number}.example", Answer(0, False, (), addresses, 60))
    assert names.of(addresses[0]) == [f"x{number}.example" for number in range(60, 150)]
    others = tuple(bytes(12) + address for address in addresses)
    for number in range(11):
        assert names.of(addresses[0])
        names.learn(f"y{number}.example", Answer(0, False, (), others, 60))
    assert not names.of(addresses[0])
    assert names.of(others[0]) == [f"y{number}.example" for number in range(11)]


def reasons(names: known.Names, address: bytes, port: int) -> list[str]:
    """Return why a policy with a host denies the connection to an address, as reports have it."""
    told: list[str] = []
    hosts: Any = SimpleNamespace(names=names, policies=[("a.policy", Rules(b"tcp connect x.example: 443"))], is_audit=False)
    request: Any = None
    targets = Targets(hosts, Making(Pending(Hub())), lambda _, refusal: bool(told.append(refusal.why)), asks=False)  # type: ignore[func-returns-value]
    with pytest.raises(DeniedError):
        targets._judge(request, "connect", Peer(2, address, port))
    return told


def test_more_name_servers_permit_no_more_names_below_a_wildcard() -> None:
    rules = Rules(b"tcp connect *.example: 443")
    hosts: Any = SimpleNamespace(names=known.Names([rules]), policies=[("a.policy", rules)], is_audit=False)
    socket: Any = SimpleNamespace(domain=2, type=2)
    request: Any = None
    targets = Targets(hosts, Making(Pending(Hub())), lambda *_: False, asks=False)
    codes = set()
    for server in (b"\x7f\0\0\1", b"\x7f\0\0\2"):
        targets._lead(request, socket, Peer(2, server, 53))
        judge = targets._resolvers[server, 0]._judge
        codes = {judge.refusal(Question(0, f"x{number}.{server.hex()}.example", A, 0), 0) for number in range(NEW)}
        assert codes == {NOERROR if server.endswith(b"\1") else REFUSED}


def test_of_the_sockets_that_are_led_the_last_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is led again is among the last, and takes the place of no other."""
    monkeypatch.setattr("callfence.enforcer.hosts.targets._MAX_LED", 3)
    hosts: Any = SimpleNamespace(names=known.Names(()), policies=[], is_audit=False)
    targets = Targets(hosts, Making(Pending(Hub())), lambda *_: False, asks=False)
    remembered = []
    for number in (1, 2, 1, 3, 3, 4):
        socket: Any = SimpleNamespace(inode=number, local_port=lambda number=number: 100 * number)
        targets.note(socket, Target(b"address", led=Led(b"server", 0, frozenset(), None)))  # type: ignore[arg-type]
        remembered.append([[*targets.led], [*targets._led_from]])
    assert [led for led, _ in remembered] == [[1], [1, 2], [2, 1], [2, 1, 3], [2, 1, 3], [1, 3, 4]]
    assert all(ports == [100 * inode for inode in led] for led, ports in remembered)


def test_a_report_has_few_names_of_an_address() -> None:
    """A program may have given it thousands, of 255 characters each."""
    names, address = known.Names(()), b"\x0a\0\0\1"
    for number in range(100):
        names.learn(f"x{number}.example", Answer(0, False, (), (address,), 60))
    listed = ", ".join(f"x{number}.example" for number in range(92, 100))
    assert reasons(names, address, 443) == [f"10.0.0.1 is an address of 92 others and {listed}"]


def test_a_report_names_a_name_server_that_the_program_may_have_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise it would only propose a line for an address that everything else on the machine asks."""
    (tmp_path / "resolv.conf").write_text("nameserver 10.0.0.1\n")
    monkeypatch.setattr(f"{FILES}.CONFIGURATION", str(tmp_path / "resolv.conf"))
    names = known.Names(())
    (tmp_path / "resolv.conf").write_text("nameserver 10.0.0.2\n")
    assert names.is_server(b"\x0a\0\0\1", 53)
    assert reasons(names, b"\x0a\0\0\2", 53)[0].startswith("10.0.0.2 is in /etc/resolv.conf now, which the program may have")
    assert reasons(names, b"\x0a\0\0\3", 53) == reasons(names, b"\x0a\0\0\2", 54) == [""]


@pytest.mark.parametrize("server", ["127.0.0.1", "0.0.0.0", "::ffff:127.0.0.1"])
def test_name_servers_are_known_by_the_address_that_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: str
) -> None:
    """The kernel takes the unspecified address for this host, and an address of IPv4 may be written as IPv6."""
    (tmp_path / "resolv.conf").write_text(f"nameserver {server}\n")
    monkeypatch.setattr(f"{FILES}.CONFIGURATION", str(tmp_path / "resolv.conf"))
    assert known.Names(()).is_server(b"\x7f\0\0\1", 53)
    assert not known.Names(()).is_server(V6, 53)


@pytest.mark.parametrize("fails", ["bind", "listen"])
def test_sockets_are_not_led_to_ports_that_the_resolver_does_not_have(monkeypatch: pytest.MonkeyPatch, fails: str) -> None:
    """Any other process may have these."""

    class Socket(_socket.socket):
        def bind(self, address: Any) -> None:
            self._fail("bind")
            super().bind(address)

        def listen(self, backlog: int = 0) -> None:
            self._fail("listen")
            super().listen(backlog)

        def _fail(self, call: str) -> None:
            if call == fails and (self.family, self.type & 0xF) == (_socket.AF_INET6, _socket.SOCK_STREAM):
                raise OSError(errno.EADDRINUSE, call)

    monkeypatch.setattr(resolver, "socket", Socket)
    judge: Any = None
    made = resolver.Resolver(b"\x7f\0\0\1", 0, Hub(), judge, judge, judge)
    assert {family for family, _ in made.ports} == {_socket.AF_INET}


def test_what_decides_which_file_a_path_leads_to(tmp_path: Path) -> None:
    """Who may change any of them may have another file read: NAME -> over/link -> /.../run/conf, where run leads to var."""
    for folder in ("etc", "over", "var"):
        (tmp_path / folder).mkdir()
    (tmp_path / "var/conf").touch()
    links = {"etc/NAME": "./../over/./link", "over/link": f"{tmp_path}/run/conf", "run": "var", "loop": "loop"}
    for link, target in links.items():
        (tmp_path / link).symlink_to(target)
    expected = [os.fsencode(tmp_path / place) for place in ("etc/NAME", "over/link", "run", "var/conf")]
    assert deciding(os.fsencode(f"{tmp_path}/etc/NAME")) == expected
    assert deciding(os.fsencode(f"{tmp_path}//none/../var/conf")) == expected[-1:]
    assert deciding(os.fsencode(f"{tmp_path}/etc/.//../etc/./NAME/")) == expected
    assert len(deciding(os.fsencode(f"{tmp_path}/loop"))) == 41


@pytest.mark.parametrize("writable", ["", "etc", "over", "var", "var/net", "var/net/conf"])
def test_who_may_write_to_any_folder_above_a_file_may_put_another_in_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writable: str
) -> None:
    for folder in ("etc", "over", "var/net"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "var/net/conf").touch()
    (tmp_path / "etc/NAME").symlink_to("../over/link")
    (tmp_path / "over/link").symlink_to("../var/net/conf")

    def stat(place: bytes) -> SimpleNamespace:
        return SimpleNamespace(st_uid=0, st_mode=0o777 if place == os.fsencode(f"{tmp_path}/{writable}") else 0o755)

    monkeypatch.setattr(known, "kernel", SimpleNamespace(capabilities=lambda: (0, 0, 0)))
    monkeypatch.setattr(known, "os", SimpleNamespace(stat=stat, geteuid=lambda: 1000, path=os.path, fsencode=os.fsencode))
    assert known._may_be_written(f"{tmp_path}/etc/NAME") == bool(writable)


@pytest.mark.parametrize(
    ("line", "keeps"),
    [("var: read", True), ("var: write", False), ("over: create", False), ("etc: remove", False), ("other: any", True)],
)
def test_a_policy_keeps_the_files_of_names_if_it_lets_no_place_on_the_way_be_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, keeps: bool
) -> None:
    for folder in ("etc", "over", "var", "other"):
        (tmp_path / folder).mkdir()
    (tmp_path / "var/conf").touch()
    (tmp_path / "etc/NAME").symlink_to("../over/link")
    (tmp_path / "over/link").symlink_to("../var/conf")
    monkeypatch.setattr(names_files, "FILES", (f"{tmp_path}/etc/NAME",))
    rules = encode(ruleset(parse(f"path {tmp_path}/{line}").policy))
    assert files._keeps(rules, []) == keeps


@pytest.mark.parametrize(
    ("is_audit", "is_filtered", "changes_files", "line", "keeps"),
    [
        (True, False, True, "path /etc: write", True),  # nothing is enforced: what is reported is of the files as they are
        (False, True, False, "path /etc: write", True),  # no call that changes a file runs
        (False, True, True, "path /etc: write", False),
        (False, False, False, "path /etc: write", False),
        (False, False, True, "path /etc: read", True),
    ],
)
def test_whether_the_files_of_names_are_kept(
    monkeypatch: pytest.MonkeyPatch, is_audit: bool, is_filtered: bool, changes_files: bool, line: str, keeps: bool
) -> None:
    """Also by a policy that lets no call run by which files change, if no filter is installed that lets one run."""
    granted = "callfence.enforcer.hosts.granted"
    monkeypatch.setattr(f"{granted}.problem", lambda: "")
    monkeypatch.setattr(f"{granted}.Hosts", lambda *_, keeps, **_others: keeps())
    rules, facts = encode(ruleset(parse(line).policy)), {"changes_files": changes_files, "hosts": b"", "stages": []}
    policy: Any = SimpleNamespace(sources=[("it.policy", b"")], files=rules, filter=b"", **facts)
    assert files.hosts([policy], [], is_audit=is_audit, is_filtered=is_filtered) is keeps
