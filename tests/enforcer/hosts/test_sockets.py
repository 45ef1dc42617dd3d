"""Sockets about which there are no lines: where hosts are confined they fail, and what the policy says of them counts first."""

from __future__ import annotations

import errno
import os
import signal
import socket
import sys
from typing import TYPE_CHECKING, Any

import pytest
from calls import allowing_all, number_of

from callfence.enforcer.hosts import unix
from callfence.enforcer.hosts.sockets import Socket

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

    from conftest import Commands

RAW, PACKET, VSOCK, SCTP, MPTCP, SMC = (2, 3, 1), (17, 3, 3), (40, 1, 0), (2, 1, 132), (2, 1, 262), (43, 1, 0)
PROGRAM = """
import socket, sys
for words in sys.argv[1:]:
    try:
        print(socket.socket(*map(int, words.split(","))).fileno())
    except OSError as error:
        print(-error.errno, flush=True)
"""
WHY = "no line can say whom this kind of socket reaches"


def made(
    commands: Commands, folder: Path, text: str, *kinds: tuple[int, int, int]
) -> tuple[subprocess.CompletedProcess[bytes], list[dict[str, Any]]]:
    """Make sockets of these kinds under a policy; return the end of the program, and the violations."""
    (folder / "it.policy").write_text(text)
    words = [",".join(map(str, kind)) for kind in kinds]
    enforce = commands.enforcing(folder / "it.policy", folder / "log")
    return commands.plain([*enforce, sys.executable, "-c", PROGRAM, *words], folder), commands.violations(folder / "log")


def test_one_that_the_policy_allows_fails_and_is_reported(commands: Commands, tmp_path: Path) -> None:
    ran, violations = made(commands, tmp_path, allowing_all("udp send: none"), RAW, PACKET, VSOCK, SCTP, MPTCP, SMC)
    errors = [errno.EPERM, errno.EAFNOSUPPORT, errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT]
    assert [-int(word) for word in ran.stdout.split()] == [*errors, errno.EPROTONOSUPPORT, errno.EAFNOSUPPORT], ran.stderr
    assert [violation["action"] for violation in violations] == [f"errno {errno.errorcode[number]}" for number in errors]
    assert all(violation["ungrantable"] == [WHY] and not violation["allow"] for violation in violations)


@pytest.mark.parametrize("action", ["kill", "errno ENOTUNIQ"])
def test_one_that_the_policy_denies_has_the_policys_action(commands: Commands, tmp_path: Path, action: str) -> None:
    text = allowing_all("udp send: none").replace("default errno EPERM", f"default {action}")
    for name, rest in (("seccomp", ""), ("prctl", "prctl: option != PR_SET_SECCOMP\n")):  # else the kernel kills, unreported
        text = text.replace(f"\n{name}: allow\n", f"\n{rest}")
    ran, (violation,) = made(commands, tmp_path, text.replace("\nsocket: allow\n", "\nsocket: family == AF_UNIX\n"), RAW)
    expected = -signal.SIGSYS if action == "kill" else 0
    assert (ran.returncode, ran.stdout.split()) == (expected, [] if expected else [b"%d" % -errno.ENOTUNIQ])
    assert (violation["action"], violation["ungrantable"], violation["allow"]) == (action, [WHY], [])


def test_one_that_an_entry_fails_is_not_reported(commands: Commands, tmp_path: Path) -> None:
    text = allowing_all("udp send: none").replace("\nsocket: allow\n", "\nsocket: family == AF_UNIX else errno ENOTUNIQ\n")
    ran, violations = made(commands, tmp_path, text, RAW, VSOCK)
    assert (ran.stdout.split(), violations) == ([b"%d" % -errno.ENOTUNIQ] * 2, [])


ASKS = """
import ctypes, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall(int(sys.argv[1]), b"dns_resolver", b"name.invalid", b"", 0)
print(ctypes.get_errno())
"""


def test_the_kernel_is_asked_to_look_up_no_name(commands: Commands, tmp_path: Path) -> None:
    """It would run /sbin/request-key, unconfined."""
    for lines, expected in ((("udp send: none",), True), (("tcp connect a.example: 443",), True), ((), False)):
        (tmp_path / "it.policy").write_text(allowing_all(*lines))
        number = str(number_of("request_key"))
        ran = commands.plain(
            [*commands.enforcing(tmp_path / "it.policy", tmp_path / "log"), sys.executable, "-c", ASKS, number], tmp_path
        )
        assert (int(ran.stdout) == errno.ENOSYS) is expected, ran.stderr


INHERITS = """
import os, socket, sys
with socket.socket(socket.AF_INET, socket.SOCK_STREAM, int(sys.argv[1])) as made:
    os.set_inheritable(made.fileno(), True)
    os.execv(sys.argv[2], [*sys.argv[2:], str(made.fileno()), sys.argv[1]])
"""
CONNECTS = """
import socket, sys
made = socket.socket(socket.AF_INET, socket.SOCK_STREAM, int(sys.argv[2]), int(sys.argv[1]))
print(made.connect_ex(("127.0.0.1", 1)))
"""


def test_one_that_is_inherited_connects_only_if_lines_are_about_it(commands: Commands, tmp_path: Path) -> None:
    """MPTCP connects to further addresses, which the peer names; SCTP by sendto."""
    (tmp_path / "it.policy").write_text(allowing_all("tcp connect 127.0.0.1: any"))
    for protocol, expected in ((MPTCP[2], errno.EACCES), (socket.IPPROTO_TCP, errno.ECONNREFUSED)):
        try:
            socket.socket(socket.AF_INET, socket.SOCK_STREAM, protocol).close()
        except OSError:
            continue
        enforce = commands.enforcing(tmp_path / "it.policy", tmp_path / "log")
        inherits = [sys.executable, "-c", INHERITS, str(protocol)]
        ran = commands.plain([*inherits, *enforce, sys.executable, "-c", CONNECTS], tmp_path)
        assert int(ran.stdout) == expected, ran.stderr


@pytest.mark.parametrize(("fails", "then"), [(0, b"hello"), (-errno.EINVAL, errno.EPIPE)])
def test_one_that_is_told_of_a_failure_reaches_its_peer_again_or_nobody(
    monkeypatch: pytest.MonkeyPatch, fails: int, then: object
) -> None:
    """Its options may change meanwhile (SO_BINDTODEVICE), so that it cannot be connected to its peer again."""
    connect, calls = Socket.connect, []

    def counted(self: Socket, address: bytes, *, waits: bool = False) -> int:
        calls.append(address)
        return fails if fails and len(calls) == 2 else connect(self, address, waits=waits)

    monkeypatch.setattr(Socket, "connect", counted)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asks:
        peer.bind(("127.0.0.1", 0))
        peer.settimeout(5)
        asks.settimeout(5)
        asks.connect(peer.getsockname())
        Socket(asks.fileno(), asks.family, socket.SOCK_DGRAM, socket.IPPROTO_UDP).fail()
        with pytest.raises(ConnectionRefusedError):
            asks.recv(1)
        try:
            asks.send(b"hello")
            assert peer.recv(9) == then
        except OSError as error:
            assert error.errno == then


def test_links_do_not_make_the_way_to_a_socket_longer_without_end(tmp_path: Path) -> None:
    """A process in a root of its own makes them: with 40 links of 4,090 bytes each call took a second, and others waited."""
    (tmp_path / "a").mkdir()
    (tmp_path / "end").touch()
    for name, count in (("short", 400), ("long", 600)):
        (tmp_path / name).symlink_to("a/../" * count + "end")
    root = os.open(tmp_path, os.O_PATH)
    try:
        os.close(unix._walked(root, -1, b"/short"))
        with pytest.raises(OSError) as raised:
            unix._walked(root, -1, b"/long")
        assert raised.value.errno == errno.ELOOP
    finally:
        os.close(root)
