"""Attempts to reach a peer without a line: hosts/attack.c, one row an attack, in the network of hosts/network.py.

The program may make every call, of i386 as well.  Each attack runs twice: without `enforce`, where it has to reach a peer that
is forbidden, so that the test can fail, and confined, where no such peer may receive anything from anybody, and where the
allowed peer has to be reached afterwards.  Races, and what needs a module of the kernel, only have to run without.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

import pytest

from callfence.policygen.formats import FormatOptions
from callfence.policygen.formats.logs.denials import violations
from callfence.policygen.grants import is_grant_line
from callfence.policygen.language.document import newest_table
from callfence.tracer.abi import COMPAT, NATIVE, Arch, table
from tests.enforcer.conftest import Workplace

HERE = Path(__file__).parent / "hosts"
pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="a network of its own takes root")
LINES = """tcp connect 10.77.0.1: 7000, 7009
tcp connect 10.77.0.3: 443
tcp connect fd00:77::1: 7000
tcp connect name.example.org: 7000
tcp connect rebind.example.org: 7000
tcp connect extra.example.org: 7000
tcp connect other.example.org: 7000
tcp connect loop.example.org: 7000
tcp connect *.wild.example.org: 7000
udp send 10.77.0.1: 7000
tcp connect 127.0.0.1: 7001
udp send 127.0.0.1: 7001
tcp connect ::1: 7002
udp send ::1: 7002
udp send fd00:77::1: 7000
udp send rebind.example.org: 7000
udp send extra.example.org: 7000
udp send other.example.org: 7000
udp send loop.example.org: 7000
unix connect {0}/allowed/stream
unix connect {0}/allowed/datagram
unix connect {0}/allowed/group
unix connect {0}/full
unix connect @allowed.stream
unix connect $HOME/stream
"""


def policy(lines, settings=""):
    """Every call but those by which the program would have a listener of its own, and these lines."""
    text = f"{newest_table()}default errno EACCES\n{settings}{lines}"
    for arch in (NATIVE, COMPAT):
        text += f"arch {arch}\nprctl: option != PR_SET_SECCOMP\n"
        text += "".join(f"{name}: allow\n" for name in sorted(table(arch).by_name) if name not in {"seccomp", "prctl"})
    return text


class Network:
    """A network, and commands in it."""

    def __init__(self, folder, cache, build, programs):
        self.place = Workplace(folder, cache, build)
        self.place.environment.pop("HOME", None)  # a line that means no socket
        self.folder = folder
        for program in programs:
            shutil.copy(program, folder)
        self.server = subprocess.Popen(
            [sys.executable, HERE / "network.py", folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.server.stdout.readline() == "ready\n"
        self.under = ("nsenter", f"--target={self.server.pid}", "--net", "--mount", f"--wdns={folder}")
        self.place.policy(policy(LINES.format(folder)), "attack.policy")

    def arrivals(self):
        """What has arrived since the last call: by the attack's name, or another word, a list of `KIND WHERE`."""
        subprocess.run([*self.under, sys.executable, "-c", END], check=True)
        path = self.folder / "arrivals"
        while not re.search(SEEN, text := path.read_text()) or not self._sleeps() or path.read_text() != text:
            time.sleep(0.05)
        path.write_text("")
        found = defaultdict(list)
        for line in text.splitlines():
            where, _, word = line.rpartition(" ")
            if word != "<end>":
                found[word.strip("<>")].append(where)
        return found

    def _sleeps(self):
        """Whether all servers wait, each a thread, and none of them has started another meanwhile."""
        tasks = Path(f"/proc/{self.server.pid}/task")
        threads = {*os.listdir(tasks)}
        try:
            stats = [(tasks / thread / "stat").read_text() for thread in threads]
        except OSError:  # a thread has ended
            return False
        return all(stat.rpartition(")")[2].split()[0] == "S" for stat in stats) and threads == {*os.listdir(tasks)}

    def plain(self, *arguments, program="./attack", under=(), **options):
        settings = self.place.options({"stdin": subprocess.DEVNULL, "timeout": 100} | options)
        return subprocess.run([*self.under, *under, program, *arguments], check=False, **settings)

    def enforce(self, *arguments, program="./attack", under=(), policy="attack.policy", **options):
        settings = {"timeout": 100} | options
        return self.place.enforce("-p", policy, program, *arguments, under=(*self.under, *under), **settings)

    def end(self):
        self.server.communicate()


END = """
import socket
for address in ("10.77.0.1", "10.77.0.2"):
    socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"<end>", (address, 7000))
"""
SEEN = r"(?m)^packet\d+ 10\.77\.0\.2 <end>$"
"""Packets to forbidden addresses are seen one after the other."""


@pytest.fixture(scope="module")
def network(tmp_path_factory, compile_c, cache, build):
    programs = [compile_c(HERE / f"{name}.c", "-w", "-pthread") for name in ("attack", "disturb")]
    made = Network(tmp_path_factory.mktemp("hosts"), cache, build, programs)
    yield made
    made.place.wait_for_helpers()
    made.end()


def outcomes(output):
    return {name: rest.strip() for name, _, rest in (line.partition(":") for line in output.splitlines())}


def is_forbidden(where):
    return not where.startswith("dns ") and where.split()[1] not in ("10.77.0.1", "fd00:77::1", "allowed")


OF_X86 = {"i386", "i386_upper", "socketcall", "socketcall_race", "socketcall_fast_open", "x32"}
DOORS = OF_X86 if NATIVE is not Arch.X86_64 else set()
"""Attacks that another machine has no way to make."""
ATTACKS = [name for name in re.findall(r"ROW\((\w+)\)[,}]", (HERE / "attack.c").read_text()) if name not in DOORS]
RUNS = {
    "address_form": "a race", "channel": "questions", "dccp": "no module", "families": "no modules",
    "flow_label": "CONFIG_IPV6_MIP6", "forbidden_names": "questions", "l2tp": "no module", "malformed": "questions",
    "netlink": "no kernel sends there", "other_port": "nobody listens there", "pairs": "no module",
    "repair": "the peer knows nothing", "rthdr_control": "CONFIG_IPV6_MIP6", "sctp": "no module", "smc": "no module",
    "wildcard": "questions", "x32": "CONFIG_X86_X32_ABI",
}  # fmt: skip
"""Attacks that reach nobody without `enforce` here, and why."""
NAMES = ("name", "rebind", "extra", "other", "loop")
TYPES = {1, 2, 5, 6, 12, 15, 16, 28, 33, 35, 43, 48, 52, 64, 65, 257}


@pytest.fixture(scope="module")
def runs(network):
    """Twice, without `enforce` and with it: what the attacks said, what arrived, and the errors."""
    found = []
    for run in (network.plain, network.enforce):
        done = run(*ATTACKS)
        assert done.returncode == 0, done.stderr
        found.append((outcomes(done.stdout), network.arrivals(), done.stderr))
    return found


@pytest.mark.long
@pytest.mark.parametrize("attack", ATTACKS)
def test_it_reaches_no_peer_without_a_line(runs, attack):
    (plain, reached, _), (confined, arrived, _) = runs
    assert "status" not in plain[attack] + confined[attack]
    if attack not in RUNS and not re.search("race|clone", attack):
        assert any(is_forbidden(where) for where in reached[attack]), plain[attack]
    assert [where for where in arrived[attack] if is_forbidden(where)] == [], confined[attack]
    assert sorted(arrived[f"{attack}.ok"]) == ["tcp 10.77.0.1", "udp 10.77.0.1"]


@pytest.mark.only_on("x86_64")
def test_a_call_of_i386_has_32_bits_of_each_register(runs):
    """Code of 64 bits may leave others there (int 0x80): such a call failed with EFAULT, and was in no report."""
    for said, _, _ in runs:
        assert said["i386_upper"] == said["i386"]


def test_nor_does_anything_else(runs):
    """Connections, and the first packets of those, and what bears another name."""
    assert [(word, where) for word, places in runs[1][1].items() for where in places if is_forbidden(where)] == []
    assert "could not be" not in runs[1][2]
    assert "replaced" not in runs[1][2]


def test_questions_tell_nothing_but_permitted_names(runs):
    """Each is made anew: flags, case, options and what follows are not the program's; and names below `*.` are counted."""
    questions = {word for word, places in runs[1][1].items() if any(where.startswith("dns ") for where in places)}
    assert {"forbidden.example.net-1-256-0", "malformed"} <= {*runs[0][1]}
    below = set()
    for question in questions:
        name, kind, flags, rest = question.rsplit("-", 3)
        assert int(kind) in TYPES, question
        assert (flags in ("0", "256"), rest) == (True, "00002904d0000000000000"), question
        if name not in [f"{start}.example.org" for start in NAMES]:
            assert re.fullmatch(r"secret\d+\.wild\.example\.org", name), question
            below.add(name)
    assert 150 < len(below) < 260  # NEW, and REFILL each second


def test_a_name_opens_its_address_and_port(network):
    done = network.enforce("named")
    expected = "connect=EACCES server=done code0=done connect=done send=done connect=EACCES"
    assert outcomes(done.stdout) == {"named": expected}, done.stderr
    assert network.arrivals()["named.ok2"] == ["tcp 10.77.0.4"]


WITHOUT_MOUNTS = ("setpriv", "--bounding-set=-sys_admin")


def test_mounts_of_a_user_namespace_rename_no_socket(network):
    """Without CAP_SYS_ADMIN, mounting is not refused."""
    done = network.plain("unix_user_namespace", under=WITHOUT_MOUNTS)
    assert "unix forbidden" in reached(network, done, "unix_user_namespace")
    done = network.enforce("unix_user_namespace", under=WITHOUT_MOUNTS)
    assert "mount=done connect=EACCES connect=EACCES" in done.stdout, done.stderr
    assert reached(network, done, "unix_user_namespace") == set()


def test_what_a_sandbox_in_the_program_hides_stays_hidden(network):
    """The helper, which connects, is outside of it."""
    for run in (network.plain, network.enforce):
        done = run("unix_hidden", under=WITHOUT_MOUNTS)
        seen = "unshare=done connect=done send=done mount=done connect=ENOENT"
        assert outcomes(done.stdout) == {"unix_hidden": seen}, done.stderr
        assert reached(network, done, "unix_hidden") == {"unix allowed"}


def reached(network, done, attack):
    assert done.returncode == 0, done.stderr
    return {*network.arrivals()[attack]}


PACKETS = (
    sys.executable, "-c",
    "import os, socket, sys; made = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0); "
    "os.dup2(made.fileno(), 9); os.execvp(sys.argv[1], sys.argv[1:])",
)  # fmt: skip


def test_an_inherited_packet_socket_sends_nothing(network):
    assert "packet17 10.77.0.2" in reached(network, network.plain("inherited", under=PACKETS), "inherited")
    done = network.enforce("inherited", under=PACKETS)
    assert "sendto=EACCES sendmsg=EACCES" in done.stdout, done.stderr
    assert reached(network, done, "inherited") == set()


def test_services_that_look_up_names_are_not_there(network):
    """Where unix sockets are not confined, but names are; whatever the path."""
    network.place.policy(policy("tcp connect name.example.org: 7000\ntcp connect 10.77.0.1: 7000\n"), "names.policy")
    assert reached(network, network.plain("name_services"), "name_services") == {"unix forbidden"}
    done = network.enforce("name_services", policy="names.policy")
    assert outcomes(done.stdout) == {"name_services": "connect=ENOENT " * 3 + "connect=ENOENT"}, done.stderr
    assert reached(network, done, "name_services") == set()


def test_groups_that_the_program_has_left_open_no_socket(network):
    under = ("setpriv", "--groups=4711", "--bounding-set=-dac_override,-dac_read_search")
    for run in (network.plain, network.enforce):
        done = run("other_groups", under=under)
        assert outcomes(done.stdout) == {"other_groups": "connect=EACCES"}, done.stderr
        assert reached(network, done, "other_groups") == set()


def test_capabilities_in_a_namespace_of_its_own_open_no_socket(network):
    """The helper, which connects, has that capability where it counts."""
    for run in (network.plain, network.enforce):
        done = run("own_capabilities")
        assert outcomes(done.stdout) == {"own_capabilities": "become=done unshare=done connect=EACCES"}, done.stderr
        assert reached(network, done, "own_capabilities") == set()


def test_a_name_service_is_not_there_by_another_path(network):
    network.place.policy(policy("tcp connect name.example.org: 7000\ntcp connect 10.77.0.1: 7000\n"), "names.policy")
    done = network.plain("name_service_elsewhere", under=("unshare", "--mount"))
    assert reached(network, done, "name_service_elsewhere") == {"unix forbidden"}
    done = network.enforce("name_service_elsewhere", under=("unshare", "--mount"), policy="names.policy")
    assert outcomes(done.stdout) == {"name_service_elsewhere": "mount=done connect=ENOENT"}, done.stderr
    assert reached(network, done, "name_service_elsewhere") == set()


OWN_VAR = ("unshare", "--mount", "sh", "-c", """
    mount -t tmpfs var /var
    for service in nscd avahi-daemon; do
        mkdir -p /var/run/$service && touch /var/run/$service/socket && mount --bind forbidden/stream /var/run/$service/socket
    done
    exec "$@"
""", "sh")  # fmt: skip


def test_name_services_are_not_there_where_var_run_is_a_folder(network):
    """As in Guix; C libraries ask nscd at `/var/run/nscd/socket`."""
    network.place.policy(policy("tcp connect name.example.org: 7000\ntcp connect 10.77.0.1: 7000\n"), "names.policy")
    done = network.plain("name_services_of_var", under=OWN_VAR)
    assert reached(network, done, "name_services_of_var") == {"unix forbidden"}
    done = network.enforce("name_services_of_var", under=OWN_VAR, policy="names.policy")
    assert outcomes(done.stdout) == {"name_services_of_var": "connect=ENOENT connect=ENOENT"}, done.stderr
    assert reached(network, done, "name_services_of_var") == set()


@pytest.mark.parametrize("attack", ["links_in_chroot", "links_in_namespace"])
def test_links_lead_out_of_no_other_root(network, attack):
    """Where unix sockets are not confined, the helper connects in the program's place, but from its own root."""
    network.place.policy(policy("tcp connect 10.77.0.1: 7000\n"), "plain.policy")
    for run in (network.plain, lambda name: network.enforce(name, policy="plain.policy")):
        done = run(attack)
        assert outcomes(done.stdout) == {attack: "enter=done" + " connect=ENOENT" * 4}, done.stderr
        assert reached(network, done, attack) == set()


def test_a_message_has_the_credentials_of_who_sends_it(network):
    network.place.policy(policy("udp send: any\n"), "sends.policy")
    for run in (network.plain, lambda name: network.enforce(name, policy="sends.policy")):
        done = run("credentials")
        assert outcomes(done.stdout) == {"credentials": "become=done" + " 12345:12345" * 4}, done.stderr


@pytest.mark.only_on("x86_64")
def test_a_socket_that_the_helper_makes_is_its_callers(network):
    for run in (network.plain, network.enforce):
        done = run("socketcall_owner")
        assert outcomes(done.stdout) == {"socketcall_owner": "become=done socket=done 12345"}, done.stderr


@pytest.mark.only_on("x86_64")
def test_the_helper_makes_no_socket_in_a_network_that_its_caller_has_left(network):
    for run, outcome in ((network.plain, "done"), (network.enforce, "EAFNOSUPPORT")):
        done = run("socketcall_network")
        assert outcomes(done.stdout) == {"socketcall_network": f"unshare=done socket={outcome}"}, done.stderr


@pytest.mark.only_on("x86_64")
def test_the_helper_takes_no_pointers_of_others(network):
    """The kernel would take them for the helper's own: by the counters of a table of packets, root wrote to its memory."""
    done = network.enforce("socketcall_pointers")
    assert outcomes(done.stdout) == {"socketcall_pointers": " ".join(["replace=ENOPROTOOPT"] * 5)}, done.stderr


def test_nobody_has_the_address_of_the_name_server(network):
    permitted = "ip=done ip6=done free=done free6=done bind=done answers=done"
    refused = "ip=EPERM ip6=EPERM free=EPERM free6=EPERM bind=EADDRNOTAVAIL answers=EAGAIN"
    for run, outcome in ((network.plain, permitted), (network.enforce, refused)):
        done = run("transparent")
        assert outcomes(done.stdout) == {"transparent": outcome}, done.stderr


def test_no_line_is_proposed_that_means_more_than_what_was_denied(network):
    """A name that is looked up may be `any`, and an abstract socket's may end with `*`."""
    done = network.enforce("wide_names")
    assert "10.0.0.0/8 is no name that a line can have" in done.stderr
    assert not re.search(r"callfence allow .*(any|\*|/8|10\.0\.0\.1|65535)", done.stderr), done.stderr
    network.arrivals()


def test_what_no_line_would_grant_hides_no_denials(network):
    """Else a program would choose what of it is reviewed: one such record made the whole log unreadable."""
    network.place.enforce(
        "--log", "wide.log", "-p", "attack.policy", "./attack", "wide_names", "plain_tcp", under=network.under, timeout=100
    )
    denied = network.place.denials("wide.log")
    assert {*map(len, (record["ungrantable"] for record in denied))} == {0, 1}
    assert all(is_grant_line(line) for record in denied for line in record["ungranted"])
    with (network.folder / "wide.log").open("rb") as log:
        (run,) = violations(log, "wide.log", FormatOptions(policy="attack.policy")).runs
    assert ("tcp connect 10.77.0.2", "7000") in {use[:2] for use in run.files}
    assert [gap.partition(":")[0] for gap in run.gaps] == ["denials of what no line would grant"]
    network.arrivals()


@pytest.mark.parametrize("lines", ["unix connect any\n", "udp send: any\n", "tcp connect 10.77.0.1: 7000\nunix connect @own\n"])
def test_a_scope_holds_for_calls_that_the_helper_makes(network, lines):
    """Landlock judges who connects."""
    network.place.policy(policy(lines, "scope abstract sockets\n"), "scope.policy")
    assert "unix forbidden" in reached(network, network.plain("own_abstract"), "own_abstract")
    done = network.enforce("own_abstract", policy="scope.policy")
    assert re.search(r"connect=done send=done connect=E(PERM|ACCES)$", done.stdout, re.M), (done.stdout, done.stderr)
    assert reached(network, done, "own_abstract") == set()


def test_ports_of_another_policy_hold(network):
    """Landlock does not judge what the helper makes."""
    network.place.policy(policy("tcp connect 10.77.0.0/24: 7000\nudp send 10.77.0.1: 7000\n"), "hosts.policy")
    network.place.policy(policy("tcp connect: 443\n"), "ports.policy")
    done = network.enforce("plain_tcp", under=(), policy="hosts.policy")
    assert "tcp 10.77.0.2" in reached(network, done, "plain_tcp")
    done = network.place.enforce("-p", "hosts.policy", "-p", "ports.policy", "./attack", "plain_tcp", under=network.under)
    assert outcomes(done.stdout) == {"plain_tcp": "connect=EACCES"}, done.stderr
    assert reached(network, done, "plain_tcp") == set()


# Calls that are disturbed


@pytest.mark.parametrize("mode", ["storm", "restart"])
def test_signals_repeat_no_call(network, mode):
    """SIGALRM and SIGURG all the time: each datagram arrives once, and each call has its own result."""
    done = network.enforce(mode, "1000", program="./disturb")
    assert (done.returncode, done.stdout) == (0, "wrong 0 disturbed 1\n"), done.stderr
    arrived = network.arrivals()
    assert {len(arrived[f"storm-{number}"]) for number in range(1000)} == {1}
    assert len(arrived["accepted"]) == 100


def test_a_thousand_calls_that_wait_hold_no_other_up(network):
    done = network.enforce("pending", "1000", program="./disturb")
    assert (done.returncode, done.stdout) == (-signal.SIGKILL, "most wait 1\n"), done.stderr
    assert len(network.arrivals()["pending"]) == 100
    network.place.wait_for_helpers()


STEADY = 2000
"""Calls one after the other, which take longer than it takes to find the helper."""


@pytest.mark.long
@pytest.mark.parametrize(
    ("scope", "number", "status", "count"),
    [("none", signal.SIGKILL, -signal.SIGKILL, 0), ("signals", signal.SIGKILL, 0, 1), ("none", signal.SIGSTOP, 0, 1)],
)
def test_a_helper_that_is_killed_or_stopped(network, scope, number, status, count):
    """Nothing is sent without it, and nothing twice."""
    network.place.policy(policy(LINES.format(network.folder), f"scope {scope}\n"), "steady.policy")
    command = [*network.under, *network.place.command, "-p", "steady.policy", "./disturb", "steady", str(STEADY)]
    process = subprocess.Popen(command, **network.place.options({"stdin": subprocess.DEVNULL}))
    assert process.stdout.readline() == "begun\n"
    helper = network.place.helper()
    os.kill(helper, number)
    if number == signal.SIGSTOP:
        time.sleep(0.3)
        os.kill(helper, signal.SIGCONT)
    output, errors = process.communicate(timeout=60)
    assert (process.returncode, output) == (status, "ended\n" * count), errors
    arrived = network.arrivals()
    sent = [len(arrived[f"steady-{at}"]) for at in range(STEADY)]
    assert sum(times != 1 for times in sent) <= (1 if number == signal.SIGKILL else 0) or not count
    assert sum(sent) >= STEADY * count
    network.place.wait_for_helpers()


@pytest.mark.parametrize("mode", ["interrupted", "unix", "limited"])
def test_a_signal_ends_a_call_that_waits(network, mode):
    """With EINTR where its handler has no SA_RESTART, or its socket a limit; the limit itself would end it late."""
    for run in (network.plain, network.enforce):
        done = run(mode, program="./disturb", timeout=90)
        assert {*done.stdout.splitlines()} == {"EINTR at once"}, done.stderr


@pytest.mark.parametrize("mode", ["hold", "holdunix"])
def test_changing_the_flags_of_a_socket_holds_nothing_up(network, mode):
    """The helper connects without waiting: by a flag of the socket, which is the program's as well."""
    done = network.enforce(mode, program="./disturb", timeout=90)
    assert (done.returncode, done.stdout) == (0, "held up 0\n"), done.stderr
