"""Whom a program reaches under `enforce`: the hosts and unix sockets that its policy names, and no others."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from calls import allowing_all

from callfence.enforcer.kernel import landlock_abi
from callfence.tracer.abi import NATIVE, table
from tests.enforcer.conftest import parent, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from conftest import Commands, Network

HERE = Path(__file__).parent
ALL = ("tcp connect 0.0.0.0/0: any", "tcp connect ::/0: any", "udp send 0.0.0.0/0: any", "udp send ::/0: any")


@pytest.mark.long
def test_calls_return_what_they_return_plainly(network: Network) -> None:
    program = [sys.executable, HERE / "compared"]
    for name in ("plain", "enforced"):
        (network.folder / name).mkdir()
    plain = network.plain(*program, network.folder / "plain").stdout.decode().splitlines()
    lines = [*ALL, f"unix connect {network.folder}", "unix connect @*"]
    ran = network.enforced(lines, *program, network.folder / "enforced")
    assert len(plain) > 70
    assert ran.stdout.splitlines() == plain
    assert ran.violations == []


GRANTED = (
    "tcp connect api.example.org: 8080", "tcp connect alias.www.example.org: 8080", "tcp connect big.example.org: 8000-8100",
    "tcp connect *.pool.example.org: any", "tcp connect printer: 8080", "tcp connect localhost: 8080",
    "tcp connect near.example.org: 8080", "tcp connect 198.51.100.0/24: 8080",
    "udp send api.example.org: 9000", "udp send 192.0.2.4: 9000",
)  # fmt: skip
REACHED = (
    "tcp api.example.org 8080", "tcp alias.www.example.org 8080", "tcp big.example.org 8080", "tcp a.pool.example.org 8080",
    "tcp printer 8080", "tcp localhost 8080", "tcp 198.51.100.7 8080", "udp api.example.org 9000",
    "send sendto 192.0.2.4 9000", "send sendmsg 192.0.2.4 9000", "send sendmmsg 192.0.2.4 9000 9000",
)  # fmt: skip
DENIED = {
    "tcp www.example.org 8080": "tcp connect www.example.org: 443",
    "tcp example.net 8080": "tcp connect example.net: 443",
    "tcp pool.example.org 8080": "tcp connect pool.example.org: 443",
    "tcp api.example.org 9000": "tcp connect api.example.org: 9000",
    "tcp 192.0.2.4 8080": "tcp connect 192.0.2.4: 8080",
    "tcp near.example.org 8080": "tcp connect 127.1.2.3: 8080",
    "udp 192.0.2.77 9000": "udp send 192.0.2.77: 9000",
    "send sendto 192.0.2.4 9001": "udp send 192.0.2.4: 9001",
    "send sendmsg 192.0.2.78 9000": "udp send 192.0.2.78: 9000",
    "send sendmmsg 192.0.2.4 9000 9002": "udp send 192.0.2.4: 9002",
}
"""What is not reached -> the line that is lacking."""


def each(program: Path, commands: Iterable[str]) -> list[str]:
    """A shell command that prints the exit status of the program with each of these words."""
    return ["sh", "-c", "\n".join(f"{program} {words}; echo $?" for words in commands)]


def test_what_has_a_line_is_reached(any_talks: Path, network: Network) -> None:
    ran = network.enforced(GRANTED, *each(any_talks, REACHED), compat=True)
    assert (ran.stdout.split(), ran.violations) == (["0"] * len(REACHED), []), ran.stderr


@pytest.mark.long
def test_what_has_no_line_is_denied_and_explained(any_talks: Path, network: Network) -> None:
    ran = network.enforced(GRANTED, *each(any_talks, DENIED), compat=True)
    assert "0" not in ran.stdout.split()
    assert {*DENIED.values()} <= {*ran.ungranted}
    assert all(violation["allow"][0]["line"] in violation["ungranted"] for violation in ran.violations)


def test_the_report_says_what_to_do(talks: Path, network: Network) -> None:
    file = network.folder / "talks.policy"
    file.write_text(allowing_all("tcp connect www.example.org: 8080"))
    enforce = Path(sys.executable).with_name("enforce")
    text = network.plain(enforce, "-p", file, talks, "tcp", "www.example.org", "9000").stderr.decode()
    assert "tcp connect www.example.org: 9000: not granted: 192.0.2.4 is an address of www.example.org" in text
    assert f"callfence allow {file} 'tcp connect www.example.org: 9000'" in text
    text = network.plain(enforce, "-p", file, talks, "tcp", "api.example.org", "8080").stderr.decode()
    assert "the look-up is refused" in text
    assert f"callfence allow {file} 'tcp connect api.example.org: 8080'" in text
    file.write_text(allowing_all("tcp connect localhost: 8080"))
    text = network.plain(enforce, "-p", file, talks, "tcp", "localhost", "9000").stderr.decode()
    assert "tcp connect localhost: 9000: not granted: ::1 is an address of localhost\n" in text
    assert f"callfence allow {file} 'tcp connect localhost: 9000'" in text


def test_under_audit_everything_runs(talks: Path, network: Network) -> None:
    lines = ["tcp connect api.example.org: 8080", "udp send: none"]
    for what, lacking in (
        (["tcp", "www.example.org", "8080"], {"tcp connect www.example.org: 8080"}),
        (["udp", "192.0.2.4", "9000"], {"udp send 192.0.2.4: 9000"}),
    ):
        ran = network.enforced(lines, talks, *what, flags=["--audit"])
        assert ran.status == 0
        assert set(ran.ungranted) == lacking


def test_in_every_phase(talks: Path, network: Network) -> None:
    text = allowing_all("phase serving after clock_nanosleep", "tcp connect api.example.org: 8080")
    file = network.folder / "phases.policy"
    file.write_text(text.replace("\nmkdirat: allow\n", "\nmkdirat: allow until serving\n"))
    enforce = Path(sys.executable).with_name("enforce")
    script = (
        "import socket, time\n"
        "def one(name):\n"
        "    try: socket.create_connection((name, 8080), 5).close(); return 'ok'\n"
        "    except OSError as error: return type(error).__name__\n"
        "for _ in range(2): print(one('api.example.org'), one('www.example.org'), one('192.0.2.4')); time.sleep(0.01)\n"
    )
    ran = network.plain(enforce, "-p", file, sys.executable, "-c", script)
    assert ran.stdout.decode().splitlines() == ["ok gaierror PermissionError"] * 2, ran.stderr.decode()


def test_what_a_phase_denies_is_denied_whatever_lines_grant(network: Network) -> None:
    text = allowing_all("phase serving after clock_nanosleep", "tcp connect 192.0.2.4: 8080")
    file = network.folder / "phases.policy"
    file.write_text(text.replace("\nconnect: allow\n", "\nconnect: allow until serving\n"))
    script = (
        "import errno, socket, time\n"
        "def one():\n"
        "    try: socket.create_connection(('192.0.2.4', 8080), 5).close(); return 'ok'\n"
        "    except OSError as error: return errno.errorcode[error.errno]\n"
        "print(one()); time.sleep(0.01); print(one())\n"
    )
    ran = network.plain(Path(sys.executable).with_name("enforce"), "-p", file, sys.executable, "-c", script)
    assert ran.stdout.decode().split() == ["ok", "EPERM"]
    assert "denied connect(" in ran.stderr.decode() and "in serving: it fails with EPERM" in ran.stderr.decode()


@pytest.mark.parametrize(
    ("call", "work"),
    [
        ("setsockopt", "socket.socket().setsockopt(0, 4, b'')"),  # IP_OPTIONS
        ("sendto", "socket.socket().sendto(b'', 0x20000000, ('127.0.0.1', 9))"),  # MSG_FASTOPEN
        ("socket", "socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262)"),  # IPPROTO_MPTCP
        ("mount", "libc.mount(b'/', b'/', b'', 1, None)"),
    ],
)
def test_the_policy_answers_what_it_denies(call: str, work: str, network: Network) -> None:
    """Calls that lines about hosts fail with other errnos, whatever the policy allows."""
    file = network.folder / "denies.policy"
    text = allowing_all("udp send: none", "unix connect /none").replace("default errno EPERM", "default errno ENOMSG")
    file.write_text(text.replace(f"\n{call}: allow\n", "\n"))
    enforce = Path(sys.executable).with_name("enforce")
    script = (
        "import ctypes, errno, socket\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        f"try: print({work} and errno.errorcode[ctypes.get_errno()])\n"
        "except OSError as error: print(errno.errorcode[error.errno])\n"
    )
    ran = network.plain(enforce, "-p", file, sys.executable, "-c", script)
    assert ran.stdout == b"ENOMSG\n" and f"denied {call}(" in ran.stderr.decode()


@pytest.mark.parametrize(
    ("flags", "answers"), [((), ["1", "EACCES", "1", "EACCES", "EACCES"]), (("--audit",), ["1", "1", "1", "EINVAL", "EINVAL"])]
)
def test_no_message_is_led_over_other_hosts(flags: tuple[str, ...], answers: list[str], network: Network) -> None:
    """By control data that makes a source route: IP_RETOPTS, IPV6_RTHDR and its older form.  Under --audit it only is reported:
    the kernel does not know these routes."""
    script = (
        "import errno, socket\n"
        "of4 = [(0, 1, bytes(4)), (0, 7, bytes((1, 1, 1, 0)))]\n"
        "of6 = [(41, 67, bytes(4)), (41, 57, bytes(24)), (41, 5, bytes(24))]\n"
        "for family, host, data in ((2, '192.0.2.4', of4), (10, '::1', of6)):\n"
        "    for each in data:\n"
        "        try: print(socket.socket(family, 2).sendmsg([b'x'], [each], 0, (host, 9000)))\n"
        "        except OSError as error: print(errno.errorcode[error.errno])\n"
    )
    ran = network.enforced(["udp send 192.0.2.4: 9000", "udp send ::1: 9000"], sys.executable, "-c", script, flags=flags)
    assert ran.stdout.split() == answers, ran.stderr
    assert {*ran.ungranted} == {"its control data leads it over other hosts"}
    assert "fails with" not in ran.stderr


def test_options_by_which_packets_go_over_other_hosts_are_refused_and_those_beside_them_are_not(network: Network) -> None:
    script = (
        "import errno, socket\n"
        "def of(family, kind, level, name):\n"
        "    try: socket.socket(family, kind).setsockopt(level, name, bytes(4))\n"
        "    except OSError as error: return errno.errorcode[error.errno]\n"
        "for first, *each in ((0, 2, 2, 0), (0, 10, 2, 41), (30, 2, 1, 6)):\n"  # those before are for TCP_REPAIR
        "    print(*(name for name in range(first, 80) if of(*each, name) == 'EPERM'))\n"
    )
    ran = network.enforced(["udp send 192.0.2.4: 9000"], sys.executable, "-c", script)
    assert ran.stdout.splitlines() == ["4 15 19", "5 6 32 57 75 78", "31"], ran.stderr


def test_sending_no_messages_asks_for_a_socket_all_the_same(network: Network) -> None:
    script = (
        "import ctypes, errno, os, socket\n"
        "made, libc = socket.socket(2, 2), ctypes.CDLL(None, use_errno=True)\n"
        "for number in (made.fileno(), os.open('/dev/null', 0), -1):\n"
        "    print(libc.sendmmsg(number, None, 0, 0), errno.errorcode.get(ctypes.get_errno()))\n"
    )
    ran = network.enforced(["udp send 192.0.2.4: 9000"], sys.executable, "-c", script)
    assert ran.stdout.splitlines() == ["0 None", "-1 ENOTSOCK", "-1 EBADF"], ran.stderr


def test_what_lines_refuse_is_refused_in_each_phase_and_reported_where_it_is_denied(network: Network) -> None:
    script = (
        "import errno, os, socket, time\n"
        "def of(call):\n"
        "    try: call(); return 'ok'\n"
        "    except OSError as error: return errno.errorcode[error.errno]\n"
        "own = socket.socket()\n"
        "calls = [lambda: socket.socket(40, 1), lambda: own.setsockopt(0, 4, b''), lambda: os.open('/dev/null', 3)]\n"
        "for _ in range(2): print(*map(of, calls)); time.sleep(0.01)\n"
    )
    file = network.folder / "phases.policy"
    words = (Path(sys.executable).with_name("enforce"), "-p", file, sys.executable, "-c", script)
    refused = "EAFNOSUPPORT EPERM EACCES"
    text = allowing_all("phase serving after clock_nanosleep", "tcp connect 192.0.2.4: 8080", "path /: read, write, execute")
    text = text.replace("\nacct: allow\n", "\nacct: allow until serving\n").replace("\nseccomp: allow\n", "\n")
    text = text.replace("\nprctl: allow\n", "\nprctl: option != PR_SET_SECCOMP\n")  # no filters of its own
    file.write_text(text)
    ran = network.plain(*words)
    assert ran.stdout.decode().splitlines() == [refused, refused], ran.stderr.decode()
    assert ran.stderr.decode().count("in serving") == 1  # the socket of a kind that has no lines
    for name in ("socket", "setsockopt", "openat"):
        text = text.replace(f"\n{name}: allow\n", f"\n{name}: allow until serving\n")
    file.write_text(text)
    ran = network.plain(*words)
    assert ran.stdout.decode().splitlines() == [refused, "EPERM EPERM EPERM"], ran.stderr.decode()
    assert ran.stderr.decode().count("in serving") == 3
    ran = network.plain(*words[:1], "--quiet-kernel", *words[1:])
    assert b"needs the helper" in ran.stderr


def test_a_process_that_the_helper_cannot_answer_connects_nowhere_in_the_last_phase(network: Network) -> None:
    file = network.folder / "phases.policy"
    script = (
        "import os, socket, sys, time\n"
        "from resource import RLIMIT_NOFILE, setrlimit\n"
        "setrlimit(RLIMIT_NOFILE, (16, 16))\n"
        "own, server = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)\n"
        "server.bind('socket'), server.listen()\n"
        "try:\n"
        "    while True: os.dup(0)\n"
        "except OSError: time.sleep(0.01)\n"
        "try: own.connect('socket'); print('connected')\n"
        "except OSError as error: print(error.strerror)\n"
    )
    enforce = Path(sys.executable).with_name("enforce")

    def run(*lines: str, options: tuple[str, ...] = ()) -> tuple[str, str]:
        (network.folder / "socket").unlink(missing_ok=True)
        text = allowing_all(*lines, "phase serving after clock_nanosleep", "unix connect /none")
        ended = "connect" if options else "acct"
        file.write_text(text.replace(f"\n{ended}: allow\n", f"\n{ended}: allow until serving\n"))
        ran = network.plain(enforce, *options, "-p", file, sys.executable, "-c", script)
        return ran.stdout.decode(), ran.stderr.decode()

    printed, said = run()
    assert printed == ""
    assert "cannot enter its phase and is killed, because it cannot open another descriptor" in said
    printed, said = run("phases optional")
    assert printed == "Permission denied\n", said
    assert "keeps its start-up permissions" in said
    printed, said = run(options=("--audit",))
    assert printed == "connected\n", said


@pytest.mark.parametrize("flags", [["--quiet-kernel"]])
def test_without_a_helper_nothing_runs(flags: Sequence[str], network: Network) -> None:
    file = network.folder / "it.policy"
    file.write_text(allowing_all("udp send: none"))
    enforce = Path(sys.executable).with_name("enforce")
    ran = network.plain(enforce, *flags, "-p", file, "echo", "ran")
    assert (ran.returncode, ran.stdout) == (125, b"")
    assert b"needs the helper process" in ran.stderr


@pytest.mark.skipif(landlock_abi() < 6, reason="needs Linux 6.12: without scopes the program ends with its helper")
@pytest.mark.parametrize("stand_in", ["older", "younger"])
def test_waiting_calls_end_when_the_helper_is_killed(stand_in: str, network: Network) -> None:
    """A connection that is not answered, and a helper that is killed by root: the stand-in, which is older than the connection
    or younger, answers as if a signal had come, and goes on with other connections that wait."""
    script = (
        "import ctypes, socket, struct, threading, time\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        "full = socket.socket(); full.bind(('127.0.0.1', 0)); full.listen(0)\n"
        "queue = [socket.socket() for _ in range(3)]\n"
        "[(s.setblocking(False), s.connect_ex(full.getsockname())) for s in queue]\n"
        "s = socket.socket(); print('waits', flush=True)\n"
        "port = struct.pack('!H', full.getsockname()[1])\n"
        "address = b'\\2\\0' + port + b'\\x7f\\0\\0\\1' + bytes(8)\n"
        "libc.connect(s.fileno(), address, 16); print(ctypes.get_errno(), flush=True)\n"
        "accept_all = lambda: [full.accept() for _ in iter(int, 1)]\n"  # which SYNs come first, the kernel's timers decide
        "timer = threading.Timer(0.2, accept_all); timer.daemon = True; timer.start()\n"
        "last = socket.socket(); print(libc.connect(last.fileno(), address, 16))\n"
    )
    with _killed(script, "connect", network, "tcp connect 127.0.0.1: any", "udp send: none", stand_in=stand_in) as program:
        assert program.stdout
        assert program.stdout.read() == b"4\n0\n"  # EINTR, then success
    assert program.returncode == 0


@pytest.mark.skipif(landlock_abi() < 6, reason="needs Linux 6.12: without scopes the program ends with its helper")
def test_a_call_that_waited_for_a_killed_helper_is_not_made(network: Network) -> None:
    name = f"killed-{os.getpid()}"
    script = (
        f"name = chr(0) + {name!r}\n"
        "import ctypes, socket, time\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        "at, to = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\n"
        "at.bind(name); at.settimeout(0.3); to.setblocking(False)\n"
        "try:\n"
        "    while True: to.sendto(b'earlier', name)\n"
        "except BlockingIOError: to.setblocking(True)\n"
        "print('waits', flush=True)\n"
        "print(libc.sendto(to.fileno(), b'last', 4, 0, b'\\1\\0' + name.encode(), 2 + len(name)), ctypes.get_errno())\n"
        "try:\n"
        "    while at.recv(9) == b'earlier': pass\n"
        "except TimeoutError: print('not sent')\n"
    )
    with _killed(script, "sendto", network, f"unix connect @{name}") as program:
        assert program.stdout
        assert program.stdout.read() == b"-1 4\nnot sent\n"
    assert program.returncode == 0


@contextmanager
def _killed(
    script: str, call: str, network: Network, *lines: str, stand_in: str = "older"
) -> Iterator[subprocess.Popen[bytes]]:
    """Run Python code under these lines, and kill its helper when it has said that it waits and makes such a call."""
    file = network.folder / "it.policy"
    file.write_text(allowing_all(*lines))
    enforce = Path(sys.executable).with_name("enforce")
    with subprocess.Popen([enforce, "-p", file, sys.executable, "-c", script], stdout=subprocess.PIPE) as program:
        assert program.stdout
        assert program.stdout.readline() == b"waits\n"
        number = str(table(NATIVE).by_name[call].number)
        wait_until(lambda: Path(f"/proc/{program.pid}/syscall").read_text().split()[0] == number)
        time.sleep(0.5)
        helper, other = _helper_and_stand_in(file)
        if stand_in == "younger":
            os.kill(other, signal.SIGKILL)
            wait_until(lambda: _helper_and_stand_in(file)[1] not in (other, 0))
        os.kill(helper, signal.SIGKILL)
        yield program


def _helper_and_stand_in(policy_: Path) -> tuple[int, int]:
    """The ids of the helper and the stand-in of this test's program; 0 for none."""
    parents = {}
    for process in (int(name) for name in os.listdir("/proc") if name.isdigit()):
        with suppress(FileNotFoundError, ProcessLookupError):  # it ends just now, as a stand-in may that was killed
            if _answers_for(process, policy_):
                parents[process] = parent(process)
    (helper,) = (process for process, its in parents.items() if its not in parents)
    return helper, next((process for process in parents if process != helper), 0)


def _answers_for(process: int, policy_: Path) -> bool:
    """Whether a process is the helper or the stand-in of this test's program: it has `enforce`'s command line."""
    try:
        words = Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return os.fsencode(policy_) in words and any(word.endswith(b"/enforce") for word in words)


def test_a_datagram_socket_that_is_connected_to_no_port_sends_nothing(network: Network) -> None:
    """getaddrinfo(3) connects so, for addresses of this host too: Apache asks it where it may listen."""
    script = (
        "import socket\n"
        "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); print(s.connect_ex(('0.0.0.0', 0)))\n"
        "for sends in (lambda: s.send(b'x'), lambda: s.sendto(b'x', ('127.0.0.1', 9))):\n"
        "    try: print(sends())\n"
        "    except OSError as error: print(error.errno)\n"
    )
    ran = network.enforced(["tcp connect: none", "udp send: none"], sys.executable, "-c", script)
    assert (ran.stdout.split(), ran.ungranted) == (["0", "32", "13"], ["udp send 127.0.0.1: 9"])


def test_so_does_one_that_is_connected_where_the_program_may_listen(network: Network) -> None:
    """getaddrinfo(3) sorts this host's addresses so, with the port that it was given; other ports are reported."""
    script = (
        "import socket\n"
        "for port, host in (5001, '0.0.0.0'), (5001, '127.0.0.1'), (5002, '127.0.0.1'), (5001, '192.0.2.1'):\n"
        "    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); print(s.connect_ex((host, port)))\n"
        "    try: print(s.send(b'x'))\n"
        "    except OSError as error: print(error.errno)\n"
    )
    lines = ["tcp connect: none", "udp send: none"]
    ran = network.enforced([*lines, "tcp bind: 5001"], sys.executable, "-c", script)
    assert ran.stdout.split() == ["0", "32", "0", "32", "13", "89", "13", "89"]
    assert ran.ungranted == ["udp send 127.0.0.1: 5002", "udp send 192.0.2.1: 5001"]
    ran = network.enforced(lines, sys.executable, "-c", script)
    assert ran.stdout.split() == ["13", "89"] * 4


@pytest.mark.parametrize(
    ("flags", "results", "effect"),
    [((), "13 32 32 13", "nothing could be sent there"), (["--audit"], "1 1 1 1", "what was sent there was not judged")],
)
def test_datagrams_to_another_port_of_a_host_are_in_the_log(
    network: Network, flags: Sequence[str], results: str, effect: str
) -> None:
    """send(2) is not seen, so the note at the end has the port; not that of TCP, which only shows who looks addresses up."""
    script = (
        "import socket\n"
        "def to(port):\n"
        "    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.connect(('127.0.0.1', port)); return s\n"
        "again = to(9005); again.connect(('127.0.0.1', 9001))\n"
        "for send in (lambda: to(9001).sendmsg([b'x']), lambda: to(9002).send(b'x'), lambda: to(8080).send(b'x'),\n"
        "             lambda: again.sendmsg([b'x'])):\n"
        "    try: print(send())\n"
        "    except OSError as error: print(error.errno)\n"
        "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).connect(('127.0.0.1', 9003))\n"
        "print(socket.socket().connect_ex(('127.0.0.1', 9003)) == 111)\n"
    )
    lines = ["tcp connect 127.0.0.1: 8080", "udp send 127.0.0.1: 53"]
    ran = network.enforced(lines, sys.executable, "-c", script, flags=flags)
    assert ran.stdout.split() == [*results.split(), str(bool(flags))], ran.stderr
    assert [*dict.fromkeys(ran.ungranted)] == ["udp send 127.0.0.1: 9001", "tcp connect 127.0.0.1: 9003"]
    messages = [json.loads(line) for line in network.log.read_text().splitlines() if '"message"' in line]
    peers = "127.0.0.1: 9005, 127.0.0.1: 9002"
    text = f"UDP sockets were connected to {peers}; no line grants `udp send` to that, so {effect}"
    assert [(message["level"], message["message"]) for message in messages] == [("note", text)]


@pytest.mark.parametrize(
    ("lines", "peers", "results"),
    [
        (["127.0.0.1: 5001", "127.0.0.2: 5002"], "127.0.0.1:5001 127.0.0.2:5002 127.0.0.1:5001", "1 32 32"),
        (["127.0.0.1: 5001", "127.0.0.2: 5002"], "127.0.0.1:5001 - 127.0.0.2:5002", "1 89 32"),
        (["127.0.0.1: 5001, 5002", "127.0.0.2: 5002"], "127.0.0.1:5001 127.0.0.2:5002", "1 32"),
        (["127.0.0.1: 5001, 5002"], "127.0.0.1:5001 127.0.0.1:5002 - 127.0.0.1:5001", "1 1 89 1"),
        (["127.0.0.1: 5001", "127.0.0.2: 5001"], "127.0.0.1:5001 127.0.0.2:5001 - 127.0.0.1:5001", "1 1 89 1"),
        (["127.0.0.0/30: 5001-5002"], "127.0.0.1:5001 127.0.0.2:5002 127.0.0.1:5001", "1 1 1"),
        (["127.0.0.1: 5001", "127.0.0.2: 5002"], "127.0.0.1:5001 + 127.0.0.2:5002", "1 89 1"),
    ],
)
def test_a_datagram_socket_sends_to_no_mixture_of_its_peers(
    network: Network, lines: list[str], peers: str, results: str
) -> None:
    """A thread that sends while another one connects may send to the address of one and the port of the other.

    `-` ends the connection, `+` takes another socket."""
    script = (
        "import ctypes, socket, sys\n"
        "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        "for peer in sys.argv[1:]:\n"
        "    if peer == '+': s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        "    elif peer == '-': ctypes.CDLL(None).connect(s.fileno(), bytes(16), 16)\n"
        "    else: s.connect((peer.partition(':')[0], int(peer.partition(':')[2])))\n"
        "    s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)\n"
        "    try: print(s.send(b'x'))\n"
        "    except OSError as error: print(error.errno)\n"
    )
    granted = [f"udp send {line}" for line in lines]
    ran = network.enforced(granted, sys.executable, "-c", script, *peers.split())
    assert ran.stdout == results.replace(" ", "\n") + "\n", ran.stderr


def test_addresses_are_sorted_as_plainly(network: Network) -> None:
    """getaddrinfo(3) connects one socket to each of them in turn."""
    script = (
        "import ctypes, socket\n"
        "s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)\n"
        "for host in '::1', '::ffff:127.0.0.1', '::ffff:127.0.0.2':\n"
        "    ctypes.CDLL(None).connect(s.fileno(), bytes(16), 16)\n"
        "    s.connect((host, 5001)); print(s.getsockname()[0])\n"
    )
    lines = ["udp send ::1: 5001", "udp send 127.0.0.0/8: 5001"]
    ran = network.enforced(lines, sys.executable, "-c", script)
    assert ran.stdout.split() == ["::1", "::ffff:127.0.0.1", "::ffff:127.0.0.1"], ran.stderr


def test_unix_sockets_are_reached_as_who_connects(network: Network) -> None:
    script = network.folder / "peers.py"
    script.write_text(
        "import os, socket, struct, sys, threading\n"
        "folder = sys.argv[1]\n"
        "def serve(name):\n"
        "    s = socket.socket(socket.AF_UNIX); s.bind(name); s.listen()\n"
        "    if name[0] != chr(0): os.chmod(name, 0o777)\n"
        "    return s\n"
        "served = {name: serve(name) for name in (f'{folder}/yes', f'{folder}/no', chr(0) + 'yes', chr(0) + 'no')}\n"
        "def one(name):\n"
        "    s = socket.socket(socket.AF_UNIX)\n"
        "    if error := s.connect_ex(name): return error\n"
        "    there = served[name].accept()[0]\n"
        "    return struct.unpack('3i', there.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[1:]\n"
        "def every(): print([one(name) for name in served], flush=True)\n"
        "every()\n"
        "if not os.fork():\n"
        "    os.setgroups([]); os.setgid(65534); os.setuid(65534); every()\n"
        "    os._exit(0)\n"
        "os.wait()\n"
        "os.chmod(f'{folder}/yes', 0o700)\n"
        "if not os.fork():\n"
        "    os.setgroups([]); os.setgid(65534); os.setuid(65534); print(one(f'{folder}/yes'), flush=True)\n"
        "    os._exit(0)\n"
        "os.wait()\n"
    )
    folder = network.folder / "sockets"
    folder.mkdir()
    for place in (folder, *folder.parents):
        if place.is_relative_to("/tmp") and place != Path("/tmp"):
            place.chmod(0o755)
    lines = [f"unix connect {folder}/yes", "unix connect @yes"]
    ran = network.enforced(lines, sys.executable, script, folder)
    assert [line for line in ran.stdout.splitlines() if line[0] in "[0123456789"] == [
        "[(0, 0), 13, (0, 0), 13]",
        "[(65534, 65534), 13, (65534, 65534), 13]",
        "13",
    ], ran.stdout
    assert set(ran.ungranted) == {f"unix connect {folder}/no", "unix connect @no"}


def test_a_link_that_an_earlier_run_has_made_opens_no_other_socket(network: Network) -> None:
    name = network.folder / "data" / "socket"
    name.parent.mkdir()
    lines = ["path /: read, execute", f"path {name.parent}: create, remove, symlink", f"unix connect {name}"]
    script = (
        "import os, socket, sys\n"
        "name, *target = sys.argv[1:]\n"
        "if target: os.symlink(target[0], name)\n"
        "print(socket.socket(socket.AF_UNIX).connect_ex(name))\n"
    )
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(network.folder / "other"))
        other.listen()
        first = network.enforced(lines, sys.executable, "-c", script, name, network.folder / "other")
        second = network.enforced(lines, sys.executable, "-c", script, name)
    assert (first.stdout, second.stdout) == ("13\n", "13\n")
    assert f"unix connect {name} grants nothing: it is reached by a symbolic link" in second.stderr


def test_modes_of_sockets_are_judged_by_the_ids_of_files(network: Network) -> None:
    """File servers have those of their clients (setfsuid(2)), and their own otherwise."""
    script = network.folder / "files.py"
    script.write_text(
        "import ctypes, os, socket, sys\n"
        "libc, folder = ctypes.CDLL(None), sys.argv[1]\n"
        "def serve(name, user, mode):\n"
        "    s = socket.socket(socket.AF_UNIX); s.bind(f'{folder}/{name}'); s.listen()\n"
        "    os.chown(f'{folder}/{name}', user, user); os.chmod(f'{folder}/{name}', mode)\n"
        "    return s\n"
        "served = [serve('root', 0, 0o600), serve('user', 4242, 0o600), serve('group', 4242, 0o060)]\n"
        "def one(name): return socket.socket(socket.AF_UNIX).connect_ex(f'{folder}/{name}')\n"
        "def every(): print([one(name) for name in ('root', 'user', 'group')], flush=True)\n"
        "for user, file_user, group, file_group in (\n"
        "    (0, 0, 0, 0), (0, 4242, 0, 0), (0, 65534, 0, 4242), (65534, 4242, 65534, 0), (4242, 0, 0, 0),\n"
        "    (65534, 65534, 65534, 4242), (65534, 0, 4242, 65534),\n"
        "):\n"
        "    if not os.fork():\n"
        "        os.setgroups([])\n"
        "        os.setresgid(-1, group, -1); libc.setfsgid(file_group)\n"
        "        os.setresuid(-1, user, -1); libc.setfsuid(file_user); every()\n"
        "        os._exit(0)\n"
        "    os.wait()\n"
        "every()\n"
    )
    folders = [network.folder / name for name in ("plain", "confined")]
    for folder in folders:
        folder.mkdir()
        for place in (folder, *folder.parents):
            if place.is_relative_to("/tmp") and place != Path("/tmp"):
                place.chmod(0o755)
    plain = subprocess.run([sys.executable, script, folders[0]], capture_output=True, text=True, check=True, timeout=60)
    ran = network.enforced([f"unix connect {folders[1]}"], sys.executable, script, folders[1])
    assert [line for line in ran.stdout.splitlines() if line[0] == "["] == plain.stdout.splitlines()
    assert "13" in plain.stdout.splitlines()[1]


@pytest.mark.skipif(os.geteuid() != 0, reason="chroot takes root")
def test_a_process_in_a_root_of_its_own_connects_to_the_sockets_that_lines_grant(network: Network) -> None:
    """Services connect to each other after chroot(2): by names that mean files in that root, which lines name from outside."""
    script = network.folder / "roots.py"
    script.write_text(
        "import os, socket, sys\n"
        "folder = sys.argv[1]\n"
        "root = f'{folder}/root'; os.makedirs(f'{root}/in')\n"
        "os.symlink('/in/yes', f'{root}/link'); os.symlink('/no', f'{root}/out')\n"
        "def serve(name): s = socket.socket(socket.AF_UNIX); s.bind(f'{folder}/{name}'); s.listen(); return s\n"
        "served = [serve(name) for name in ('root/in/yes', 'root/in/no', 'no')]\n"
        "def one(name): return socket.socket(socket.AF_UNIX).connect_ex(name)\n"
        "os.chroot(root); os.chdir('/in')\n"
        "names = '/in/yes', 'yes', '../../in/yes', '/link', '/in/no', 'no', '/out', f'{root}/in/yes'\n"
        "print([one(name) for name in names])\n"
    )
    folder = network.folder / "services"
    ran = network.enforced([f"unix connect {folder}/root/in/yes"], sys.executable, script, folder)
    assert ran.stdout == "[0, 0, 0, 0, 13, 13, 2, 2]\n", ran.stderr
    assert set(ran.ungranted) == {f"unix connect {folder}/root/in/no"}


@pytest.mark.long
def test_many_messages_of_a_call_do_not_hold_up_others(network: Network) -> None:
    """To read 1,024 with as many parts each took 5 s and more, in which no other call was answered."""
    script = (
        "import ctypes, socket\n"
        "class Part(ctypes.Structure):\n"
        "    _fields_ = [('base', ctypes.c_char_p), ('length', ctypes.c_size_t)]\n"
        "class Head(ctypes.Structure):\n"
        "    _fields_ = [('name', ctypes.c_char_p), ('size', ctypes.c_uint), ('parts', ctypes.POINTER(Part)),\n"
        "        ('count', ctypes.c_size_t), ('rest', ctypes.c_size_t * 3), ('sent', ctypes.c_uint)]\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        "sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        "sender.connect(('192.0.2.4', 9000))\n"
        "parts = (Part * 1024)(*[(b'x', 1)] * 1024)\n"
        "heads = (Head * 1024)(*[Head(None, 0, parts, 1024)] * 1024)\n"
        "sent = libc.sendmmsg(sender.fileno(), heads, 1024, 0)\n"
        "print(0 < sent < 1024, [head.sent for head in heads] == [1024] * sent + [0] * (1024 - sent))\n"
    )
    ran = network.enforced(["udp send 192.0.2.4: 9000"], "/usr/bin/python3", "-c", script)
    assert ran.stdout == "True True\n", ran.stderr


def test_apply_refuses_such_a_policy(commands: Commands, tmp_path: Path) -> None:
    file = tmp_path / "it.policy"
    file.write_text(allowing_all("udp send: none"))
    program = f"import callfence; callfence.confine({str(file)!r})"
    ran = commands.plain([sys.executable, "-c", program], tmp_path)
    assert b"needs the helper that `enforce` starts" in ran.stderr


def test_without_landlock_ports_the_helper_judges_them(network: Network) -> None:
    """As on a kernel before Linux 6.7: the outer policy fails Landlock's calls."""
    outer, inner = network.folder / "outer.policy", network.folder / "inner.policy"
    text = allowing_all()
    for name in ("landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self"):
        text = text.replace(f"\n{name}: allow", f"\n{name}: errno ENOSYS")
    text = text.replace("\nioctl: allow", "\nioctl: cmd == SECCOMP_IOCTL_NOTIF_RECV || cmd != 0")
    outer.write_text(text.replace(f"\narch {NATIVE}", f"\narch {NATIVE}\nscope none"))
    inner.write_text(allowing_all("scope none", "tcp connect: 8080"))
    enforce = Path(sys.executable).with_name("enforce")
    script = (
        "import socket\n"
        "for port in (8080, 8081):\n"
        "    print(socket.socket().connect_ex(('192.0.2.4', port)))\n"
    )
    ran = network.plain(enforce, "--quiet-kernel", "-p", outer, enforce, "-p", inner, sys.executable, "-c", script)
    assert ran.stdout.split() == [b"0", b"13"], ran.stderr.decode()
    assert b"tcp connect 192.0.2.4: 8081: not granted" in ran.stderr
