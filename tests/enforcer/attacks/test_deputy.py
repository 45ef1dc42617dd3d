"""The program cannot reach its helper, nor have it do what the kernel would deny the program."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from callfence.enforcer.confinement import SINCE
from callfence.enforcer.kernel import landlock_abi

pytestmark = pytest.mark.skipif(landlock_abi() < SINCE, reason="needs Landlock's ABI 6 (Linux 6.12)")
RUNS = (
    "implied 1\nmmap: prot == PROT_READ|PROT_EXEC && flags == MAP_PRIVATE|MAP_FIXED|MAP_DENYWRITE\n"
    "openat: flags in O_RDONLY|O_CLOEXEC|O_DIRECTORY\n"
)
HELPER = f"{RUNS}clone: clone_flags == CLONE_CHILD_CLEARTID|CLONE_CHILD_SETTID|SIGCHLD\npidfd_send_signal: sig == SIGKILL\n"


def test_descriptors_of_proc_do_not_reach_the_helper(place, attacker):
    """helper.c: what it was learned with signals its own child so."""
    program = attacker("deputy/helper")
    place.policy(HELPER, "helper.policy")
    done = place.enforce("-p", "helper.policy", program, "x")
    assert done.returncode == -signal.SIGSYS
    assert "denied socket(" in done.stderr, "the helper is there to say so"
    assert ": 0" not in done.stdout


def test_a_folder_of_proc_is_no_way_to_the_helper(place, attacker):
    """known1.c"""
    program = attacker("deputy/known1")
    done = place.enforce("-p", "known1.policy", program)
    assert done.returncode == -signal.SIGSYS
    assert "denied mkdir(" in done.stderr
    assert not (place.folder / "nope").exists()


BEFORE = """
import os, subprocess, sys
pid = subprocess.Popen(["sleep", "300"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).pid
os.execvp(sys.argv[1], [*sys.argv[1:], str(pid)])
"""


@pytest.mark.parametrize("kill", ["", "kill: allow\n"], ids=["denied", "allowed"])
def test_what_was_started_before_is_not_signalled(place, attacker, kill):
    """killit.c: a child of the program, which `exec enforce` has made of its parent."""
    program = attacker("deputy/killit")
    place.policy(RUNS + kill, "killit.policy")
    done = place.enforce("-p", "killit.policy", program, under=(sys.executable, "-c", BEFORE))
    victim = int(done.stdout.partition("(")[2].partition(")")[0])
    assert done.stdout == f"kill({victim}): Operation not permitted\n", done.stderr
    os.kill(victim, signal.SIGKILL)  # it lives, and is nobody's child here


def test_a_child_that_gave_signals_up_has_none_sent_for_it(place, attacker):
    """own.c: in a Landlock domain of its own."""
    program = attacker("deputy/own")
    place.policy(HELPER, "own.policy")
    done = place.enforce("-p", "own.policy", program)
    assert "got SIGUSR2" not in done.stdout
    assert "denied kill(" in done.stderr


def test_a_child_does_not_signal_its_parent(place, attacker):
    """upward.c"""
    program = attacker("deputy/upward")
    place.policy(HELPER + "alarm: allow\npause: allow\n", "upward.policy")
    process = place.start("-p", "upward.policy", program)
    try:
        assert process.stderr.readline().startswith("enforce: denied kill(")
        assert process.poll() is None
    finally:
        process.kill()
        process.communicate()


@pytest.mark.long
def test_a_socket_without_a_port_does_not_listen(place, attacker):
    """listen.c: `tcp bind: none`, before and after a phase too."""
    program = attacker("deputy/listen")
    text = (place.folder / "listen.policy").read_text()
    for phase in ("", "phase serving after accept\n", "phase serving after getsockname\n"):
        entries = "getppid: allow until serving\n" if phase else ""
        place.policy(text.replace("implied 1\n", f"implied 1\n{phase}") + entries, "l.policy")
        done = place.enforce("-p", "l.policy", program)
        assert done.stdout.splitlines()[1].startswith("listen: Permission denied port 0"), done.stderr
        assert "tcp bind: 0: not granted: listen(2) on a socket without a port takes any" in done.stderr


def test_of_several_policies_those_are_named_that_grant_no_port(place, attacker):
    program = attacker("deputy/listen")
    for name, bind in (("some", "1-65535"), ("zero", "0"), ("every", "any")):
        place.policy(f"callfence 1\ndefault allow\nunknown allow\nscope none\ntcp bind: {bind}\n", f"{name}.policy")
    several = [word for name in ("every", "listen", "zero", "some") for word in ("-p", f"{name}.policy")]
    place.enforce(*several, "--log", "log", program)
    (denial,) = [record for record in place.denials() if record["call"].startswith("listen(")]
    assert denial["ungranted"] == ["tcp bind: 0"]
    assert [Path(each["file"]).name for each in denial["allow"]] == ["listen.policy", "some.policy"]


FORMER = """
import ctypes, socket, sys
made = socket.socket()
made.connect(("127.0.0.1", int(sys.argv[1])))
former = made.getsockname()[1]
assert ctypes.CDLL(None).connect(made.fileno(), bytes(16), 16) == 0  # AF_UNSPEC
try:
    made.listen()
    print("another port", made.getsockname()[1] != former)
except OSError as error:
    print(error.strerror)
"""


@pytest.mark.parametrize("bind", ["none", "1-65535"])
def test_the_port_of_a_former_connection_is_no_port(place, bind):
    """It takes any, which is denied unless it is granted.  Some kernels, 6.18.44 for instance, let it listen no more."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        place.policy(f"default allow\ntcp bind: {bind}\n", "p.policy")
        words = [sys.executable, "-c", FORMER, str(port)]
        plain = subprocess.run(words, capture_output=True, text=True, check=True).stdout
        assert plain in ("another port True\n", "Invalid argument\n")
        done = place.enforce("-p", "p.policy", *words)
    assert done.stdout == ("Permission denied\n" if bind == "none" else plain), done.stderr


LISTENS = """
import socket, sys, threading
if len(sys.argv) > 1:
    threading.Thread(target=threading.Event().wait, daemon=True).start()
tcp, unix = socket.socket(), socket.socket(socket.AF_UNIX)
tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
tcp.bind(("127.0.0.1", 0))
unix.bind("there")
for made in (tcp, unix):
    made.listen(3)
    client = socket.socket(made.family)
    client.connect(made.getsockname())
    made.accept()
try:
    socket.socket(socket.AF_INET, socket.SOCK_DGRAM).listen()
except OSError as error:
    print(error.errno)
try:
    tcp.detach()
    tcp.listen()
except OSError as error:
    print(error.errno)
"""


@pytest.mark.parametrize("more", [(), ("thread",)])
@pytest.mark.parametrize("options", [(), ("--arm", "now"), ("--explain",)])
def test_other_sockets_listen_as_ever(place, more, options):
    place.policy("default allow\ntcp bind: 1-65535\n", "p.policy")  # so that listening is looked at
    (place.folder / "s.py").write_text(LISTENS.replace('("127.0.0.1", 0)', '("127.0.0.1", int(open("port").read()))'))
    (place.folder / "port").write_text(str(20000 + os.getpid() % 10000))
    done = place.enforce("-p", "p.policy", *options, sys.executable, "s.py", *more)
    assert (done.returncode, done.stdout) == (0, "95\n9\n"), done.stderr


AS_65536 = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(8, 1, 0, 0, 0) == 0  # PR_SET_KEEPCAPS
os.setresuid(65536, 65536, 65536)
header, data = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
assert libc.capget(header, data) == 0
low, high = data[1], data[4]
assert libc.capset(header, (ctypes.c_uint32 * 6)(low, low, low, high, high, high)) == 0
for cap in range(64):
    if (low | high << 32) >> cap & 1:
        libc.prctl(47, 2, cap, 0, 0)  # PR_CAP_AMBIENT_RAISE
os.execv(sys.argv[1], sys.argv[1:])
"""


@pytest.mark.only_on("x86_64")
def test_a_16_bit_id_is_no_id_that_it_has(place, attacker):
    """su16.c: 65536 becomes 0."""
    if os.getuid() != 0:
        pytest.skip("becoming user 65536 takes root")
    program = attacker("deputy/su16")
    place.policy(f"{RUNS}arch i386\n", "su16.policy")
    for folder in (place.folder, *place.folder.parents[:-1]):
        if folder != Path("/tmp"):
            folder.chmod(folder.stat().st_mode | 0o755)
    done = place.enforce("-p", "su16.policy", "--no-cache", program, under=(sys.executable, "-c", AS_65536))
    assert done.returncode == -signal.SIGSYS, done.stdout
    assert "denied setuid(" in done.stderr
    assert "euid 0" not in done.stdout


def test_a_false_proc_is_not_believed(place, attacker):
    """spoof.c: the program mounts another file system there, in which its task is the victim's."""
    if os.getuid() != 0:
        pytest.skip("mounting takes root")
    program = attacker("deputy/spoof")
    victim = subprocess.Popen(["sleep", "300"])
    try:
        under = ("unshare", "-m", "--propagation", "private")
        done = place.enforce("-p", "spoof.policy", program, str(victim.pid), under=under)
        assert "helper 0" not in done.stderr and "denied kill(" in done.stderr, done.stderr
        assert victim.poll() is None
    finally:
        victim.kill()
        victim.wait()
