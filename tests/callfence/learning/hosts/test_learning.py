"""`learn --hosts` in a network of its own: whom programs talk to, by the names that they looked up."""

from __future__ import annotations

import json
import os
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from needed import require

from callfence.policygen.recording import recording_file

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Sequence

    from conftest import Commands

ROOT = Path(__file__).parents[4]
NETWORK = ROOT / "tests" / "support" / "networks" / "network.py"
TALKS = Path(__file__).with_name("talks.c")
NAMES = {
    "api.example.org": ["192.0.2.3"],
    "www.example.org": ["192.0.2.4", "2001:db8::4"],
    "big.example.org": ["192.0.2.5"],
    "near.example.org": ["127.1.2.3"],
    "printer.example.org": ["192.0.2.99"],
    "other.example.org": ["192.0.2.88"],
    "HOSTS": "127.0.0.1 localhost\n192.0.2.99 printer printer.lan\n192.0.2.88 one\n192.0.2.88 two\n",
}
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="a network of its own takes root")


class Network:
    """Learns programs in the network."""

    def __init__(self, commands: Commands, folder: Path) -> None:
        self._commands = commands
        self.folder = folder
        self.policy = folder / "it.policy"

    def learn(
        self, *command: str | Path, flags: Sequence[str] = ("--hosts",), status: int = 0
    ) -> subprocess.CompletedProcess[bytes]:
        network = [sys.executable, NETWORK, json.dumps(NAMES)]
        ran = self._commands.plain([*network, *self._commands.learning(self.policy, *flags), *command], self.folder)
        assert ran.returncode == status, ran.stderr.decode() + ran.stdout.decode()
        return ran

    def lines(self) -> list[str]:
        """The lines of the policy about ports, hosts and sockets, without those that grant nothing."""
        starts = ("tcp ", "udp ", "unix ", "dns ")
        return [line for line in self.policy.read_text().splitlines() if line.startswith(starts) and not line.endswith("none")]

    def rows(self, run: int = -1) -> list[tuple[str, str]]:
        recording = recording_file.load(self.folder / ".callfence" / "it.rec")
        return [(what, value) for what, value, _ in recording.runs[run].files]


@pytest.fixture
def network(commands: Commands, tmp_path: Path) -> Network:
    return Network(commands, tmp_path)


@pytest.fixture(params=["glibc", "musl", "i386"])
def talks(request: pytest.FixtureRequest, compile_c: Callable[..., Path]) -> Path:
    options: dict[str, Any] = {"glibc": {}, "musl": {"compiler": "musl-gcc"}, "i386": {}}[request.param]
    flags = {"glibc": ["-pthread"], "musl": ["-static"], "i386": ["-m32", "-pthread"]}[request.param]
    return compile_c(TALKS, *flags, **options)


@pytest.fixture
def plain(compile_c: Callable[..., Path]) -> Path:
    return compile_c(TALKS, "-pthread")


@pytest.mark.long
def test_names(talks: Path, network: Network) -> None:
    network.learn(talks, "tcp", "api.example.org", "8080")
    network.learn(talks, "tcp", "alias.api.example.org", "8080")
    network.learn(talks, "tcp", "www.example.org", "8080")
    network.learn(talks, "udp", "api.example.org", "9000")
    assert network.lines() == [
        "tcp connect api.example.org: 8080",
        "tcp connect alias.api.example.org: 8080",
        "tcp connect www.example.org: 8080",
        "udp send api.example.org: 9000",
    ]
    assert ("name api.example.org", "192.0.2.3") in network.rows(0)


def test_an_answer_that_comes_by_tcp_in_parts(talks: Path, network: Network) -> None:
    network.learn(talks, "tcp", "big.example.org", "8080")
    assert network.lines() == ["tcp connect big.example.org: 8080"]


@pytest.mark.long
@pytest.mark.parametrize("flags", [("--late-after=8",), ("--every-call",), ("--arm=entry",)])
def test_however_calls_stop(plain: Path, network: Network, flags: tuple[str, ...]) -> None:
    network.learn(plain, "twice", "40", "tcp", "www.example.org", "8080", flags=("--hosts", *flags))
    assert network.lines() == ["tcp connect www.example.org: 8080"]


@pytest.mark.long
@pytest.mark.parametrize("flags", [("--late-after=8",), ("--every-call",)])
def test_another_thread_receives_the_answer(plain: Path, network: Network, flags: tuple[str, ...]) -> None:
    network.learn(plain, "twice", "5", "threads", "api.example.org", "8080", flags=("--hosts", *flags))
    assert network.lines() == ["tcp connect api.example.org: 8080"]
    network.learn(plain, "twice", "5", "threads", "api.example.org", "8080", flags=())  # the policy's filter
    assert network.lines() == ["tcp connect api.example.org: 8080"]


@pytest.mark.long
def test_later_runs_add_what_is_new(plain: Path, network: Network) -> None:
    network.learn(plain, "tcp", "api.example.org", "8080")
    before = network.policy.read_text()
    assert network.learn(plain, "tcp", "api.example.org", "8080", flags=("-q",)).stderr == b""
    assert network.policy.read_text() == before
    checked = network.learn(plain, "tcp", "big.example.org", "8080", flags=("--check",), status=1)
    assert b"  + tcp connect big.example.org: 8080\n" in checked.stderr
    assert network.policy.read_text() == before
    network.learn(plain, "tcp", "big.example.org", "8080", flags=("-q",))
    assert network.lines() == ["tcp connect api.example.org: 8080", "tcp connect big.example.org: 8080"]
    network.learn(plain, "send", "sendto", "127.0.0.1", "9000", flags=("-q",))
    assert network.lines()[2:] == ["udp send localhost: 9000"]


@pytest.mark.long
@pytest.mark.parametrize("call", ["sendto", "sendmsg", "sendmmsg", "socketcall"])
@pytest.mark.parametrize("flags", [(), ("-m32",)])
def test_datagrams(call: str, flags: tuple[str, ...], compile_c: Callable[..., Path], network: Network) -> None:
    if call == "socketcall" and not flags:
        return
    talks = compile_c(TALKS, "-pthread", *flags)
    network.learn(talks, "send", call, "0.0.0.0", "9000")
    network.learn(talks, "send", call, "192.0.2.4", "9000", "9001", "9002", flags=())
    assert network.lines() == ["udp send 192.0.2.4: 9000-9002", "udp send localhost: 9000"]
    assert ("tcp connect", "none") in network.rows()
    assert ("unix connect", "none") in network.rows()


def test_names_of_etc_hosts(plain: Path, network: Network) -> None:
    network.learn(plain, "send", "sendto", "192.0.2.99", "1")
    network.learn(plain, "send", "sendto", "192.0.2.88", "1")  # which has two names
    assert network.lines() == ["udp send 192.0.2.88: 1", "udp send printer: 1"]


LOOKS_UP = "import socket; print(socket.getaddrinfo('api.example.org', 1))"


def test_who_only_looks_names_up_may_ask_the_name_server(network: Network) -> None:
    network.learn("/usr/bin/python3", "-c", LOOKS_UP)
    assert network.lines() == ["dns query api.example.org"]


def test_what_is_learned_is_enforced(network: Network, commands: Commands) -> None:
    program = ("/usr/bin/python3", "-c", f"{LOOKS_UP}; socket.create_connection(('www.example.org', 8080))")
    network.learn(*program[:2], program[2].replace("api", "www"))
    for command, status in ((program[2].replace("api", "www"), 0), (program[2].replace("www", "big"), 1)):
        words = [*commands.enforcing(network.policy, network.folder / "log"), *program[:2], command]
        ran = commands.plain([sys.executable, NETWORK, json.dumps(NAMES), *words], network.folder)
        assert ran.returncode == status, ran.stderr


def test_files_and_hosts_together(network: Network, commands: Commands) -> None:
    require("curl")
    command = ("curl", "-sS", "http://www.example.org:8080/")
    network.learn(*command, flags=("--files", "--hosts"))
    assert network.lines() == ["tcp connect www.example.org: 8080"]
    words = [sys.executable, NETWORK, json.dumps(NAMES), *commands.enforcing(network.policy, network.folder / "log"), *command]
    ran = commands.plain(words, network.folder)
    assert (ran.returncode, ran.stdout) == (0, b"hello\n"), ran.stderr


def test_a_bound_holds_for_hosts(plain: Path, network: Network) -> None:
    network.learn(plain, "tcp", "api.example.org", "8080")
    base = network.policy.rename(network.folder / "base.policy")
    (network.folder / ".callfence" / "it.rec").unlink()
    ran = network.learn(plain, "tcp", "big.example.org", "8080", flags=("--hosts", "--within", str(base)))
    assert b"tcp connect big.example.org: 8080 was not added to the policy" in ran.stderr
    assert network.lines() == []


def test_a_name_opens_no_address_of_this_host(plain: Path, network: Network) -> None:
    network.learn(plain, "tcp", "near.example.org", "8080")
    network.learn(plain, "tcp", "localhost", "8080")
    assert network.lines() == ["tcp connect 127.1.2.3: 8080", "tcp connect localhost: 8080", "dns query near.example.org"]


@pytest.mark.long
def test_unix_sockets(plain: Path, network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    (network.folder / "run").mkdir()
    (network.folder / "link").symlink_to("run")
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        monkeypatch.chdir(network.folder)
        server.bind("run/db")
        server.listen(4)
        other.bind("grams")
        network.learn(plain, "unix", "link/db")
        network.learn(plain, "unix", "@it")
        network.learn(plain, "unix", "missing", flags=())
        network.learn(plain, "unix", str(network.folder / "run" / "db"), flags=())
        network.learn(plain, "gram", "grams", flags=())
    assert network.lines() == ["unix connect ./grams", "unix connect ./run/db", "unix connect @it"]


ALONE = """
import os, socket, sys
try:
    socket.socket(socket.AF_UNIX).connect("link/control")
    sys.exit("another one runs")
except (FileNotFoundError, ConnectionRefusedError):
    pass
try:
    os.unlink("run/control")
except FileNotFoundError:
    pass
server = socket.socket(socket.AF_UNIX)
server.bind(os.path.abspath("run/control"))
try:
    socket.socket(socket.AF_UNIX).connect("run/never")
except FileNotFoundError:
    pass
"""


def test_a_server_may_see_whether_its_socket_is_another_ones(network: Network, commands: Commands) -> None:
    """bird and smtpd connect to their control socket, which is there after a kill, before they make it."""
    (network.folder / "run").mkdir()
    (network.folder / "link").symlink_to("run")
    network.learn("/usr/bin/python3", "-c", ALONE)
    assert network.lines() == ["unix connect ./run/control"]
    done = commands.enforce(network.policy, ["/usr/bin/python3", "-c", ALONE], network.folder)
    assert done.ran.returncode == 0, done.ran.stderr


EMPTY = r"""
import socket
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as it, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
    it.bind("\0")
    other.sendto(b"x", "\0")
"""


def test_an_abstract_socket_may_have_an_empty_name(network: Network, commands: Commands) -> None:
    network.learn("/usr/bin/python3", "-c", EMPTY)
    assert network.lines() == ["unix connect @"]
    done = commands.enforce(network.policy, ["/usr/bin/python3", "-c", EMPTY], network.folder)
    assert done.ran.returncode == 0, done.ran.stderr


HIDES = """
import os, socket, sys
for path in (
    "/run/nscd/socket", "/var/run/nscd/socket", "/run/systemd/resolve/io.systemd.Resolve", "/run/avahi-daemon/socket"
):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    if not os.path.exists(path):
        server = socket.socket(socket.AF_UNIX)
        server.bind(path)
        server.listen(1)
    try:
        socket.socket(socket.AF_UNIX).connect(path)
        sys.exit("it is there")
    except FileNotFoundError:
        pass
"""


def test_services_that_would_hide_names_are_not_there(network: Network) -> None:
    network.learn("/usr/bin/python3", "-c", HIDES)
    assert network.lines() == []
    network.learn("/usr/bin/python3", "-c", HIDES, flags=())
    assert network.lines() == []


@pytest.mark.long
def test_ports_become_hosts_when_all_runs_have_them(plain: Path, network: Network) -> None:
    network.learn(plain, "tcp", "api.example.org", "8080", flags=())
    assert network.lines() == ["tcp connect: 53, 8080"]
    text = network.learn(plain, "tcp", "api.example.org", "8080").stderr.decode()
    assert network.lines() == ["tcp connect: 53, 8080", "dns query api.example.org"]
    assert "`tcp connect: 53, 8080` stays, since hosts were not recorded in run 1" in text
    (network.folder / ".callfence" / "it.rec").unlink()
    network.learn(plain, "tcp", "api.example.org", "8080")
    assert network.lines() == ["tcp connect api.example.org: 8080"]


def test_without_the_option_no_host_is_recorded(plain: Path, network: Network) -> None:
    network.learn(plain, "tcp", "api.example.org", "8080", flags=())
    assert {what for what, _ in network.rows()} == {"tcp bind", "tcp connect", "udp connect"}


def test_why_and_the_report(plain: Path, network: Network, commands: Commands) -> None:
    network.learn(plain, "tcp", "api.example.org", "8080")
    callfence = Path(sys.executable).parent / "callfence"
    ran = commands.plain([callfence, "why", "it.policy", "tcp connect api.example.org"], network.folder)
    assert b"8080 at api.example.org in run 1 by" in ran.stdout
    assert b"it had 1 address: 192.0.2.3" in ran.stdout
    page = network.folder / "it.html"
    assert commands.plain([callfence, "report", "it.policy", "-o", page], network.folder).returncode == 0
    assert "it had 1 address: 192.0.2.3" in page.read_text()


def test_recordings_have_hosts(plain: Path, network: Network, commands: Commands) -> None:
    network.learn(plain, "tcp", "api.example.org", "8080")
    callfence = Path(sys.executable).parent / "callfence"
    words = [callfence, "import", "--from", "recording", ".callfence/it.rec", "-o", "other.policy"]
    ran = commands.plain(words, network.folder)
    assert ran.returncode == 0, ran.stderr
    assert "tcp connect api.example.org: 8080\ntcp bind: none\nudp send: none\nunix connect: none\n" in (
        network.folder / "other.policy"
    ).read_text()


ATTACHED = """
import socket, subprocess, sys, time
name = sys.argv[1]
program = subprocess.Popen(["/usr/bin/python3", "-c",
    "import socket, sys; s = socket.create_connection(('api.example.org', 8080)); print('up', flush=True); sys.stdin.read()"],
    stdin=subprocess.PIPE, stdout=subprocess.PIPE)
program.stdout.readline()
learn = subprocess.Popen([name, "-q", "--hosts", "-o", "it.policy", "--pid", str(program.pid)])
while "TracerPid:\\t0\\n" in open(f"/proc/{program.pid}/status").read():
    if learn.poll() is not None:
        sys.exit(f"learn has ended with {learn.returncode}")
    time.sleep(0.02)
time.sleep(0.3)
program.stdin.close()
program.wait()
sys.exit(learn.wait())
"""


def test_a_running_process(network: Network, commands: Commands) -> None:
    learn = Path(sys.executable).parent / "learn"
    words = [sys.executable, NETWORK, json.dumps(NAMES), sys.executable, "-c", ATTACHED, learn]
    ran = commands.plain(words, network.folder)
    assert ran.returncode == 0, ran.stderr
    assert network.lines() == ["tcp connect 192.0.2.3: 8080"]


def test_rehearsed_runs_have_hosts(plain: Path, network: Network) -> None:
    flags = ("--hosts", "--rehearse", "--rehearse-only=faults", "--rehearse-runs=3")
    network.learn(plain, "tcp", "www.example.org", "8080", flags=flags)
    assert network.lines() == ["tcp connect www.example.org: 8080"]
    recorded = recording_file.load(network.folder / ".callfence" / "it.rec")
    assert all(any(what.startswith("unix connect") for what, _, _ in run.files) for run in recorded.runs)


@pytest.mark.long
@pytest.mark.parametrize(
    ("package", "command"),
    [
        ("curl", ["curl", "-sS", "http://api.example.org:8080/"]),
        ("busybox-static", ["busybox", "wget", "-q", "-O", "-", "http://api.example.org:8080/"]),
        ("python3", ["/usr/bin/python3", "-c", "import socket; socket.create_connection(('api.example.org', 8080))"]),
    ],
)
def test_a_real_program(package: str, command: list[str], network: Network) -> None:
    require(package)
    network.learn(*command)
    assert network.lines() == ["tcp connect api.example.org: 8080"]


KEEPS = """
import socket
asks = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
asks.connect(("127.0.0.53", 53))
for number in range(40):
    for name, address in (("www", "192.0.2.4"), ("api", "192.0.2.3"), ("big", "192.0.2.5")):
        asks.send(bytes([number, 7, 1, 0, 0, 1]) + bytes(6) + b"\\3%s\\7example\\3org\\0\\0\\1\\0\\1" % name.encode())
        asks.recv(4096)
        if name != "big":
            socket.create_connection((address, 8080)).close()
"""


@pytest.mark.long
@pytest.mark.parametrize("flags", [(), ("--late-after=8",)])
def test_a_socket_to_the_name_server_that_is_kept_open(network: Network, flags: tuple[str, ...]) -> None:
    network.learn("/usr/bin/python3", "-c", KEEPS, flags=("--hosts", *flags))
    assert network.lines() == [
        "tcp connect api.example.org: 8080",
        "tcp connect www.example.org: 8080",
        "dns query big.example.org",
    ]


AT_ONCE = """
import socket
from concurrent.futures import ThreadPoolExecutor
def ask(number):
    socket.create_connection((("www", "api")[number % 2] + ".example.org", 8080)).close()
with ThreadPoolExecutor(8) as pool:
    list(pool.map(ask, range(100)))
"""


@pytest.mark.long
def test_threads_that_look_names_up_at_once(network: Network) -> None:
    network.learn("/usr/bin/python3", "-c", AT_ONCE)
    assert network.lines() == ["tcp connect api.example.org: 8080", "tcp connect www.example.org: 8080"]


ECHOES = """
import socket, sys
probe = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
address = socket.getaddrinfo(sys.argv[1], 1025)[0][4]
probe.connect(address)
probe.getsockname()
probe.close()
echo = socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP)
echo.settimeout(5)
echo.sendto(b"\\10\\0" + bytes(6), address)
print(echo.recv(100)[0])
"""


@pytest.mark.long
def test_echo_requests_have_no_port(network: Network, commands: Commands) -> None:
    log, program = network.folder / "log", ("/usr/bin/python3", "-c", ECHOES)
    permits = ["sh", "-c", 'echo 0 0 >/proc/sys/net/ipv4/ping_group_range; exec "$@"', "sh"]
    own = [sys.executable, NETWORK, json.dumps(NAMES), *permits]
    for words in (commands.learning(network.policy, "--hosts"), commands.enforcing(network.policy, log)):
        ran = commands.plain([*own, *words, *program, "api.example.org"], network.folder)
        assert (ran.returncode, ran.stdout) == (0, b"0\n"), ran.stderr
    assert network.lines() == ["udp send api.example.org: 0"]
    assert commands.violations(log) == []
    denied = commands.plain([*own, *commands.enforcing(network.policy, log), *program, "192.0.2.4"], network.folder)
    assert denied.returncode == 1
    assert '"udp send 192.0.2.4: 1025"' in log.read_text()


@pytest.mark.parametrize(
    ("made", "is_said"),
    [
        ("AF_INET, s.SOCK_RAW, s.IPPROTO_ICMP", True),
        ("AF_PACKET, s.SOCK_RAW", True),
        ("AF_INET, s.SOCK_DGRAM", False),
        ("AF_INET, s.SOCK_STREAM, s.IPPROTO_MPTCP", False),
    ],
)
def test_sockets_that_enforce_refuses_are_said(made: str, is_said: bool, network: Network) -> None:
    program = f"import socket as s\ntry: s.socket(s.{made})\nexcept OSError: pass"
    said = network.learn("/usr/bin/python3", "-c", program).stderr.decode()
    assert ("makes sockets of another kind than TCP and UDP" in said) is is_said, said
