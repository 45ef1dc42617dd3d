"""What programs ask of name servers under `enforce`, besides the names of their policies, in a network of its own."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Commands

NETWORK = Path(__file__).parents[2] / "support" / "networks" / "network.py"
NAMES = {"www.example.org": ["192.0.2.4"]}
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="a network of its own takes root")
BEGIN = """
import errno, os, signal, socket, struct, time
def query(name="www.example.org", kind=1):
    labels = b"".join(bytes([len(part)]) + part.encode() for part in name.split("."))
    return b"\\0\\7\\1\\0\\0\\1" + bytes(6) + labels + b"\\0" + kind.to_bytes(2, "big") + b"\\0\\1"
def ask(server, family=socket.AF_INET, name="www.example.org", kind=1):
    asks = socket.socket(family, socket.SOCK_DGRAM)
    asks.settimeout(5)
    asks.connect((server, 53))
    asks.send(query(name, kind))
    return asks.recv(4096)
def configure(text):
    # Another process changes /etc/resolv.conf, since the program itself would not be believed.
    with open("new", "w") as file:
        file.write(text)
    os.rename("new", "go")
    while os.path.exists("go"):
        time.sleep(0.01)
socket.create_connection(("www.example.org", 8080)).close()
"""


CHANGES = """
while kill -0 $$; do
    if [ -e go ]; then cat go > /etc/resolv.conf; rm go; fi
    sleep 0.02
done 2> /dev/null &
exec "$@"
"""
"""Runs a command, and changes /etc/resolv.conf when it asks for that, as long as it runs."""
KEEPING = "path /: read, execute\npath /proc: read, write\npath /dev: read, write\npath .: any\n"


def said(commands: Commands, folder: Path, program: str, names: dict[str, list[str]] = NAMES) -> tuple[bytes, str]:
    """Learn a program that connects to www.example.org, enforce one that does more; return its output and what was denied."""
    policy, log = folder / "it.policy", folder / "log"
    own = [sys.executable, NETWORK, json.dumps(names)]
    # What it needs besides hosts is learned where nothing is at these addresses.
    learns = f"{BEGIN}\nask('127.0.0.53'); configure(''); configure('nameserver 127.0.0.53\\n'); print(os.uname().nodename)"
    changes = ["sh", "-c", CHANGES, "sh"]
    ran = commands.plain([*own, *changes, *commands.learning(policy, "--hosts"), "/usr/bin/python3", "-c", learns], folder)
    assert ran.returncode == 0, ran.stderr
    lines = [line for line in policy.read_text().splitlines() if line.startswith(("tcp connect", "udp send"))]
    assert lines == ["tcp connect www.example.org: 8080", "udp send: none"]
    policy.write_text(policy.read_text() + KEEPING)
    words = ["sh", "-c", CHANGES, "sh", *commands.enforcing(policy, log), "/usr/bin/python3", "-c", BEGIN + program]
    ran = commands.plain([*own, *words], folder)
    assert ran.returncode == 0, ran.stderr.decode() + log.read_text()
    lines = [line for line in log.read_text().splitlines(keepends=True) if line.endswith("\n")]
    return ran.stdout, "".join(line for line in lines if json.loads(line)["event"] not in ("start", "end"))


def test_errors_of_datagrams_may_be_asked_for_by_either_version_of_ip(commands: Commands, tmp_path: Path) -> None:
    program = """
for family, level, option in ((socket.AF_INET, 0, 11), (socket.AF_INET6, 41, 25)):
    socket.socket(family, socket.SOCK_DGRAM).setsockopt(level, option, 1)
"""
    assert said(commands, tmp_path, program) == (b"", "")


def test_the_name_of_this_host_may_be_looked_up(commands: Commands, tmp_path: Path) -> None:
    program = """
for name in (os.uname().nodename.upper(), os.uname().nodename + "x"):
    print(ask("127.0.0.53", name=name)[3] & 15)
"""
    stdout, log = said(commands, tmp_path, program)
    assert stdout.split() == [b"3", b"5"]  # the name server knows none: NXDOMAIN, REFUSED
    assert f"tcp connect {os.uname().nodename.lower()}x: " in log
    assert f"tcp connect {os.uname().nodename.lower()}: " not in log


def test_a_look_up_of_other_records_is_reported_with_the_line_that_permits_it_alone(commands: Commands, tmp_path: Path) -> None:
    """As apt asks for `_http._tcp.` of a host: nobody connects to who has that name."""
    program = 'print(ask("127.0.0.53", name="_http._tcp.example.org", kind=33)[3] & 15)'
    stdout, log = said(commands, tmp_path, program)
    assert stdout.split() == [b"5"]
    records = [json.loads(line) for line in log.splitlines()]
    assert [record["ungranted"] for record in records] == [["dns query _http._tcp.example.org"]]


def test_a_name_server_out_of_reach_fails_as_it_does_without_enforce(commands: Commands, tmp_path: Path) -> None:
    program = """
configure("nameserver 203.0.113.1\\nnameserver 127.0.0.53\\n")
try:
    ask("203.0.113.1")
except OSError as error:
    print(errno.errorcode[error.errno])
print(len(ask("127.0.0.53")))
"""
    assert said(commands, tmp_path, program) == (b"ENETUNREACH\n64\n", "")


def test_a_receiver_waits_as_long_as_its_socket_says(commands: Commands, tmp_path: Path) -> None:
    """On a socket that is led to a resolver, by SO_RCVTIMEO, which is no timeout of Python's."""
    program = """
signal.alarm(30)
asks = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
asks.connect(("127.0.0.53", 53))
asks.send(query())
print(len(asks.recvfrom(4096)[0]))
asks.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 0, 300_000))
try:
    asks.recvfrom(4096)
except BlockingIOError:
    print("nothing")
asks.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 0, 0))
asks.send(query())
print(len(asks.recvfrom(4096)[0]))
"""
    assert said(commands, tmp_path, program) == (b"64\nnothing\n64\n", "")


def test_a_name_server_that_refuses_does_so_at_once(commands: Commands, tmp_path: Path) -> None:
    """Otherwise programs wait for seconds before they ask the next one.  The socket stays as it was: one that is asked again
    refuses again, by either version of IP, also if the question is sent as a message (sendmsg)."""
    program = """
configure("nameserver 127.0.0.77\\nnameserver 127.0.0.53\\n")
for family, server in ((socket.AF_INET, "127.0.0.77"), (socket.AF_INET6, "::ffff:127.0.0.77")):
    asks = socket.socket(family, socket.SOCK_DGRAM)
    asks.settimeout(5)
    asks.connect((server, 53))
    for send in (lambda content: asks.sendmsg([content]), asks.send):
        send(query())
        try:
            asks.recv(4096)
        except OSError as error:
            print(errno.errorcode[error.errno])
    print(asks.getpeername()[:2])
print(len(ask("127.0.0.53")))
"""
    refused = "ECONNREFUSED\nECONNREFUSED\n"
    told = f"{refused}('127.0.0.77', 53)\n{refused}('::ffff:127.0.0.77', 53)\n64\n"
    assert said(commands, tmp_path, program) == (told.encode(), "")


def test_the_peer_of_a_led_socket_is_told_as_the_kernel_tells_it(commands: Commands, tmp_path: Path) -> None:
    """Also with an address that cannot be written, and a length that is too small, or that cannot be read."""
    program = """
import ctypes
kernel = ctypes.CDLL(None, use_errno=True)
asks = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
asks.connect(("127.0.0.53", 53))
def told(where, size, length):
    at = None if size is None else ctypes.byref(size)
    failed = kernel.getpeername(asks.fileno(), where, at)
    print(errno.errorcode[ctypes.get_errno()] if failed else (where.raw[:length] if where else b"", size.value))
for where, size, length in ((16, 16, 8), (16, 4, 8), (0, 16, 0), (0, 0, 0), (16, None, 0), (16, -1, 0)):
    told(ctypes.create_string_buffer(where) if where else None, None if size is None else ctypes.c_int(size), length)
asks.send(query())
where = ctypes.create_string_buffer(16)
print(kernel.recvfrom(asks.fileno(), where, 4, 0, where, None), errno.errorcode[ctypes.get_errno()])
"""
    whole, part = b"\2\0\0\x35\x7f\0\0\x35", b"\2\0\0\x35\0\0\0\0"
    expected = f"{(whole, 16)}\n{(part, 16)}\nEFAULT\n{(b'', 16)}\nEFAULT\nEINVAL\n-1 EFAULT\n"
    assert said(commands, tmp_path, program) == (expected.encode(), "")


@pytest.mark.parametrize(
    ("line", "fails"), [("", "ENETUNREACH"), ("rename: allow\n", "EACCES"), ("chroot: allow\n", "ENETUNREACH")]
)
def test_a_new_name_server_counts_if_the_policy_lets_the_program_change_no_file(
    commands: Commands, tmp_path: Path, line: str, fails: str
) -> None:
    policy, log = tmp_path / "it.policy", tmp_path / "log"
    program = f"""{BEGIN}
connection = socket.create_connection(("192.0.2.4", 8080))
while "203.0.113.1" not in open("/etc/resolv.conf").read():
    time.sleep(0.02)
try:
    ask("203.0.113.1")
except OSError as error:
    print(errno.errorcode[error.errno])
"""
    words = [sys.executable, NETWORK, json.dumps(NAMES), "sh", "-c"]
    changes = 'until grep -q " 0[18] " /proc/net/tcp; do sleep 0.05; done; echo nameserver 203.0.113.1 > /etc/resolv.conf'
    words += [f'({changes}) & exec "$@"', "sh"]  # when it has connected (ESTABLISHED, CLOSE_WAIT)
    run = ("/usr/bin/python3", "-c", program)
    ran = commands.plain([*words, *commands.learning(policy, "--hosts"), *run], tmp_path)
    assert ran.stdout == b"ENETUNREACH\n", ran.stderr
    policy.write_text(policy.read_text() + line)
    ran = commands.plain([*words, *commands.enforcing(policy, log), *run], tmp_path)
    assert ran.stdout.decode() == f"{fails}\n", ran.stderr.decode()
    assert ("203.0.113.1" in log.read_text()) == (fails == "EACCES"), log.read_text()


def test_a_former_name_server_may_still_be_asked(commands: Commands, tmp_path: Path) -> None:
    program = """
configure("nameserver 192.0.2.53\\n")
print(len(ask("127.0.0.53")))
"""
    assert said(commands, tmp_path, program) == (b"64\n", "")


def test_asking_by_tcp_takes_no_option_that_was_not_learned(commands: Commands, tmp_path: Path) -> None:
    """c-ares asks so after a truncated answer, and does without TCP_FASTOPEN_CONNECT where there is none."""
    program = """
asks = socket.socket()
try:
    asks.setsockopt(socket.IPPROTO_TCP, 30, 1)
except OSError as error:
    print(errno.errorcode[error.errno])
asks.connect(("127.0.0.53", 53))
"""
    stdout, log = said(commands, tmp_path, program)
    assert stdout == b"ENOPROTOOPT\n"
    assert '"level": "note"' in log
    assert log.count("\n") == 1


def test_a_name_server_of_a_link_is_asked_by_the_interface_that_its_scope_names(commands: Commands, tmp_path: Path) -> None:
    """As routers advertise themselves.  What the program is told of its peer has the scope, too: musl compares all of it."""
    program = """
for text in ("fe80::53%lo", "fe80::53%1"):
    configure(f"nameserver {text}\\n")
    asks = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    asks.settimeout(5)
    asks.sendto(query(), ("fe80::53", 53, 0, 1))
    content, server = asks.recvfrom(4096)
    asks.connect(("fe80::53", 53, 0, 1))
    print(len(content), server, asks.getpeername())
"""
    server = "('fe80::53', 53, 0, 1)"
    assert said(commands, tmp_path, program, {**NAMES, "LINK": []}) == (f"64 {server} {server}\n".encode() * 2, "")
