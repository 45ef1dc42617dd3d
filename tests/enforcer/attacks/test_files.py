"""Ways to files and TCP ports that Landlock does not look at."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from callfence.enforcer.kernel import landlock_abi
from callfence.tracer.abi import COMPAT, NATIVE, table

pytestmark = pytest.mark.skipif(landlock_abi() < 4, reason="needs Landlock's ABI 4 (Linux 6.7)")
HERE = Path(__file__).parent
BOTH = f"default allow\narch {NATIVE}\narch {COMPAT}\n"
STATIC32 = ("-static", "-m32")
DEVICES = ("/dev/ptmx", "/dev/zero")


@pytest.mark.parametrize("option", ["--arm=exec", "--arm=now", "--arm=entry", "--quiet-kernel", "--explain"])
def test_the_third_access_mode_opens_nothing(place, attacker, option):
    """acc3.c: open(path, 3) asks Landlock for no right, and what it opens takes ioctl and fchmod."""
    (place.folder / "secret").write_text("x")
    program = attacker("files/acc3")
    free = subprocess.run([program, *DEVICES, "./secret"], cwd=place.folder, capture_output=True, text=True, check=True)
    assert free.stdout.count("opened") == 6, "the kernel opens them, or nothing is tested"
    with (place.folder / "acc3.policy").open("a") as policy:
        policy.write("write: allow\nexecve: allow\n")
    done = place.enforce("-p", "acc3.policy", option, program, *DEVICES, "./secret")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Permission denied") == 6, done.stdout


def test_what_nobody_may_look_at_is_not_silent(nobody, compile_c):
    """unseen.c: its path cannot be read, so the denial is in no report."""
    shutil.copy(compile_c(HERE / "files" / "unseen.c"), nobody.folder)
    shutil.copy("/etc/hostname", nobody.folder / "secret")
    lines = "path ./unseen: read, execute\npath /usr: read\npath /lib: read, execute\npath /lib64: read, execute\n"
    (nobody.folder / "unseen.policy").write_text(f"default allow\n{lines}")
    command = [*nobody.python, "-m", "callfence", "enforce", "--explain", "-p", "unseen.policy", "./unseen", "secret"]
    done = subprocess.run(command, cwd=nobody.folder, capture_output=True, text=True, check=False)
    assert "open: Permission denied" in done.stderr
    assert "enforce: calls that name files or ports: 1 is in no report if it was denied, of processes into which" in done.stderr


GRANTS = "path /usr: read, execute\npath /lib: read, execute\npath ./given: read, execute\n"


@pytest.mark.parametrize("lines", [GRANTS, "unix connect: none\n"])
def test_a_ring_that_the_program_is_given_does_nothing(place, attacker, lines):
    """given.c: who made it has registered credentials, by which the program would open any file, and connect."""
    (place.folder / "secret").write_text("x")
    program = attacker("files/given")
    free = subprocess.run([program, program, "secret"], cwd=place.folder, capture_output=True, text=True, check=False)
    if free.returncode == 77:
        pytest.skip("io_uring is switched off")
    assert free.stdout == "RAN\n"
    place.policy(f"default allow\n{lines}", "it.policy")
    command = [program, sys.executable, "-m", "callfence", "enforce", "-p", "it.policy", program, "secret"]
    done = subprocess.run(command, cwd=place.folder, capture_output=True, text=True, check=False)
    assert done.stdout == "ENOSYS\n", done.stderr


FILES = "path ./past: read, execute\npath /usr: read, execute\npath /lib: read, execute\npath /etc/ld.so.cache: read\n"
DENIED = {
    FILES: {
        **dict.fromkeys(("openat", "handle", *(["open"] if "open" in table(NATIVE).by_name else [])), "EACCES"),
        **dict.fromkeys(("openat2", "fsopen", "fsconfig", "ring"), "ENOSYS"),
        **dict.fromkeys(("smc", "rds", "mptcp", "tcp"), "EINVAL"),
        **dict.fromkeys(("ulp", "sendto", "sendmsg", "sendmmsg", "reflink"), "EBADF"),
        **dict.fromkeys(("subvolume", "device", "replace"), "ENOTTY"),
    },
    "tcp bind: none\n": {
        **dict.fromkeys(("openat", "openat2"), "ok"),
        **dict.fromkeys(("smc", "rds"), "EAFNOSUPPORT"),
        **dict.fromkeys(("mptcp", "mptcp6", "inet-smc"), "EPROTONOSUPPORT"),
        **dict.fromkeys(("sendto", "sendmsg", "sendmmsg", "subvolume"), "EBADF"),
        **dict.fromkeys(("fsopen", "fsconfig"), "EINVAL"),
        "ring": "ENOSYS",
        "ulp": "ENOENT",
        "tcp": "EINVAL",
    },
    "tcp connect: none\n": {
        **dict.fromkeys(("smc", "rds"), "EAFNOSUPPORT"),
        **dict.fromkeys(("mptcp", "mptcp6", "inet-smc"), "EPROTONOSUPPORT"),
        **dict.fromkeys(("sendto", "sendmsg", "sendmmsg"), "EOPNOTSUPP"),
        "ring": "ENOSYS",
        "ulp": "ENOENT",
        "option": "EBADF",
        "unix": "ok",
    },
}
"""By what is confined: ways of past.c, and what becomes of them.  A file descriptor opened only for its place is none."""


@pytest.mark.parametrize("lines", DENIED)
@pytest.mark.parametrize("flags", [(), STATIC32], ids=["64 bits", "32 bits"])
def test_each_way_fails_as_where_it_does_not_exist(place, attacker, lines, flags):
    program, ways = attacker("files/past", *flags), {**DENIED[lines], "path": "ok"}
    place.policy(f"{BOTH}{lines}", "past.policy")
    done = place.enforce("-p", "past.policy", program, *ways)
    assert dict(zip(ways, done.stdout.split(), strict=True)) == ways, done.stderr


def test_a_process_that_confines_itself_is_guarded_as_well(place):
    """A file of which only the place is meant (O_PATH) is opened with whatever access mode."""
    script = """
import os
import callfence
callfence.apply("default allow\\npath /usr: read\\n")
for flags in (os.O_RDONLY, os.O_ACCMODE, os.O_ACCMODE | os.O_PATH):
    try:
        os.open("/dev/zero", flags)
        print("ok")
    except PermissionError:
        print("denied")
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=place.folder, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["denied", "denied", "ok"], done.stderr


ANSWERED = (
    # the way, what the policy says of its call, with which options it is enforced, and how the program ends
    ("openat2", "openat2: kill", (), -31),
    ("openat2", "openat2: kill", ("--quiet-kernel",), -31),
    ("openat2", "openat2: errno EPERM", (), "EPERM"),
    ("openat2", "openat2: allow", ("--explain",), "ENOSYS"),
    ("openat2", "openat2: allow", ("--quiet-kernel",), "ENOSYS"),
    ("subvolume", "ioctl: cmd == TCGETS else kill", (), -31),
    ("subvolume", "ioctl: cmd == BTRFS_IOC_SNAP_DESTROY else errno EPERM", ("--quiet-kernel",), "EPERM"),
    ("subvolume", "ioctl: cmd >= 0x50000000 else kill", (), "ENOTTY"),
)


@pytest.mark.parametrize(("way", "entry", "options", "outcome"), ANSWERED)
def test_a_policy_that_denies_such_a_call_still_answers_it(place, attacker, way, entry, options, outcome):
    program = attacker("files/past")
    place.policy(f"default allow\n{FILES}{entry}\n", "past.policy")
    done = place.enforce("-p", "past.policy", *options, program, way)
    assert outcome in (done.returncode, done.stdout.strip()), done.stderr


def test_ways_to_a_port_that_landlock_looks_at(place, attacker):
    """smc.c: TCP_FASTOPEN_CONNECT only puts off what connect(2) is denied."""
    program = attacker("files/smc", "-Wno-missing-field-initializers")
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        place.policy((place.folder / "smc.policy").read_text() + "write: allow\n", "smc.policy")
        done = place.enforce("-p", "smc.policy", program)
    assert "FASTOPEN_CONNECT 0 connect: -1 " in done.stdout, done.stderr
    assert "connect UNSPEC: 0 Permission denied" in done.stdout, "errno is still that of the connect before"
    assert "socket(43,1,0): Address family not supported by protocol" in done.stdout
    assert "sendto FASTOPEN: -1" in done.stdout
    assert "bind UNSPEC any: -1 Permission denied" in done.stdout


USES = """
import array, fcntl, os, pty, sys, termios
for flags in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR):
    opened = os.open(sys.argv[1], flags | os.O_NOCTTY)
    termios.tcgetattr(opened)
    fcntl.ioctl(opened, termios.FIONREAD, array.array("i", [0]))
    fcntl.ioctl(opened, termios.TIOCSWINSZ, bytes(8))
print(os.isatty(opened), os.ttyname(opened), *map(os.isatty, (int(sys.argv[2]),)))
os.close(pty.openpty()[0])
"""


def test_whoever_may_open_a_device_may_still_use_it(place):
    """Ioctls on terminals that are opened by name, made, or inherited without a line about them."""
    lines = "path /: read, execute\npath /dev/pts: read, write\npath /dev/ptmx: read, write\n"
    place.policy(f"default allow\n{lines}", "tty.policy")
    script = """
import os, pty, subprocess, sys
main, terminal = pty.openpty()
command = [*sys.argv[1:], os.ttyname(terminal), str(main)]
sys.exit(subprocess.run(command, pass_fds=[main, terminal]).returncode)
"""
    command = [sys.executable, "-c", script, *place.command, "-p", "tty.policy", sys.executable, "-c", USES]
    done = subprocess.run(command, **place.options({"timeout": 60}), check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("True /dev/pts/")
