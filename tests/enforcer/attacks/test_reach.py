"""Attempts to reach the helper, to slow it down, to have it misjudge, or to use what it answers.

The program may make every call but a few."""

from __future__ import annotations

import fcntl
import itertools
import os
import pty
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
import tty
from pathlib import Path

import pytest

from callfence.enforcer.confinement import SINCE
from callfence.enforcer.files import listening
from callfence.enforcer.kernel import landlock_abi
from callfence.policygen.language.document import newest_table
from callfence.tracer.abi import COMPAT, NATIVE, table
from tests.enforcer.attacks.reach import reach

pytestmark = pytest.mark.skipif(landlock_abi() < SINCE, reason="needs Landlock's ABI 6 (Linux 6.12)")
HERE = Path(__file__).parent / "reach"
USER = 65534
ATTEMPTS = [work.__name__ for work in reach.ATTEMPTS]
HAS_HANDLES = tuple(map(int, os.uname().release.split(".")[:2])) >= (6, 14)
"""Whether a pidfd can be opened by a handle, of a file system that has all of them (pidfs)."""
KILLING = ("by_folder", "by_received_descriptor", *["by_handle"] * HAS_HANDLES, "by_owner_ex", "by_fiosetown")
"""Those that do it where signals are not kept inside."""


TABLE = newest_table()


def all_but(*names: str) -> str:
    """Entries for every other call.  No filter of the program's own: the kernel alone would answer then."""
    lines = {call.name: f"{call.name}: allow\n" for call in table(NATIVE).by_number.values()}
    lines["prctl"] = "prctl: option != PR_SET_SECCOMP\n"
    return "".join(line for name, line in lines.items() if name not in (*names, "seccomp"))


class Attacked:
    """A program that is told who its helper is."""

    def __init__(self, place, user, scope, names):
        self.place = place
        place.policy(f"{TABLE}default errno EACCES\nscope {scope}\n{all_but('getppid')}", "reach.policy")
        shutil.copy(HERE / "reach.py", place.folder)
        own, theirs = socket.socketpair()
        with own, theirs:
            before, python = under(user, place)
            command = [*before, *place.command, "--no-cache", "-p", "reach.policy", python, "-I", "reach.py", *names]
            self.process = subprocess.Popen(command, **place.options({"stdin": theirs}))
            assert self.process.stdout.readline() == "ready\n", self.process.communicate()
            helper = place.helper()
            self.pids = [helper, *(pid for pid in place.helpers() if pid != helper)]
            pidfds = [os.pidfd_open(pid) for pid in self.pids]
            socket.send_fds(own, [" ".join(map(str, self.pids)).encode()], pidfds)
            for pidfd in pidfds:
                os.close(pidfd)

    def end(self):
        """What each attempt came to, by name, and the reports."""
        output, errors = self.process.communicate(timeout=30)
        return {fields[0]: tuple(fields[1:]) for line in output.splitlines() for fields in [line.split("; ")]}, errors


def under(user, place):
    """The command by which another one runs as that user, and a Python that it may execute."""
    if user == "root" and os.getuid() != 0:
        pytest.skip("needs root")
    if user == "root" or os.getuid() != 0:
        return (), sys.executable
    for folder in (place.folder, *place.folder.parents[:-1]):
        if folder != Path("/tmp"):
            folder.chmod(folder.stat().st_mode | 0o755)
    command = ("setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups")

    def fails(*arguments):
        return subprocess.run([*command, *arguments], check=False, capture_output=True).returncode

    pythons = [python for python in (sys.executable, "/usr/bin/python3") if not fails("test", "-x", python)]
    if not pythons or fails(*place.command[:2], "import callfence"):
        pytest.skip("another user cannot read this installation, or has no Python")
    return command, pythons[0]


@pytest.fixture
def attacked(place):
    """attacked(user, scope, *names) -> an Attacked."""
    made = []

    def start(user, scope, *names):
        made.append(Attacked(place, user, scope, names))
        return made[-1]

    yield start
    for one in made:
        one.process.kill()
        one.process.communicate()


EXPECTED = {name: {"EPERM"} for name in ATTEMPTS} | {
    "by_handle": {"EPERM"} if HAS_HANDLES else {"ENOTSUP"},
    "by_owner_ex": {"alive"},  # Landlock denies the signals, not that an owner is set
    "by_fiosetown": {"alive"},
    "released": {"EINVAL"},  # it takes a process that is ending
    "advised": {"EPERM", "EACCES"},
    "written_files": {"none"},
    "timers": {"alive"},  # they expire to who made them
    "inherited_priority": {"EPERM", "alive"},  # a higher one at most
    "watched": {"EPERM", "no descriptor", "ESRCH"},
    "blocked": {"EPERM", "EINVAL"},  # the kernel takes no such watches on /proc
}
OF_ROOT = {
    "advised": {"EPERM", "EACCES", "ENOMEM", "done"},  # CAP_PERFMON reads what is mapped, and CAP_SYS_NICE has pages dropped
}
ROOTS_FILES = {"clear_refs", "oom_score_adj", "timerslack_ns", "autogroup", "coredump_filter", "sched", "make-it-fail"}


def judged(outcomes, user, expected):
    for name, (*results, answer) in outcomes.items():
        assert answer == "EACCES", f"{name}: denied calls are answered afterwards"
        if name == "written_files" and user == "root":
            assert {*" ".join(results).split()} <= ROOTS_FILES | {"none"}, name
        else:
            assert {*results} <= expected[name], name


@pytest.mark.parametrize("user", ["root", "another"])
def test_nothing_reaches_it(attacked, user):
    program = attacked(user, "signals", *ATTEMPTS)
    outcomes, errors = program.end()
    assert (program.process.returncode, [*outcomes]) == (0, ATTEMPTS), errors
    judged(outcomes, user, EXPECTED | (OF_ROOT if user == "root" else {}))
    assert "replaced" not in errors
    assert max(map(int, re.findall(r"denied (\d+) times", errors))) >= len(ATTEMPTS)


@pytest.mark.parametrize("user", ["root", "another"])
def test_nor_without_a_scope_but_by_signals(attacked, user):
    """The helper is not dumpable, and the shield denies its pids."""
    names = [name for name in ATTEMPTS if name not in (*KILLING, "stop_by_received_descriptor", "to_everybody", "watched")]
    program = attacked(user, "none", *names)
    outcomes, errors = program.end()
    assert (program.process.returncode, [*outcomes]) == (0, names), errors
    more = {"taken_from": {"done"}, "entered": {"EPERM", "EINVAL"}} if user == "root" else {}  # CAP_SYS_PTRACE
    judged(outcomes, user, EXPECTED | (OF_ROOT | more if user == "root" else {}))
    assert "replaced" not in errors


@pytest.mark.parametrize("user", ["root", "another"])
@pytest.mark.parametrize("name", KILLING)
def test_killing_it_ends_the_program(attacked, user, name):
    """Its call may fail before, where both are killed: the kernel closes the listener first, or another helper denied it."""
    program = attacked(user, "none", name, reach.WAITS)
    outcomes, errors = program.end()
    assert program.process.returncode == -signal.SIGKILL, errors
    assert {answer for *_, answer in outcomes.values()} <= {"ENOSYS", "EACCES"}


@pytest.mark.parametrize("user", ["root", "another"])
def test_stopping_it_makes_denied_calls_wait(attacked, user):
    program = attacked(user, "none", "stop_by_received_descriptor")
    for pid in program.pids:
        while reach.alive(pid) != "stopped":
            assert program.process.poll() is None
    for pid in reversed(program.pids):  # the helper last: it ends with the program, and the stand-in with it
        os.kill(pid, signal.SIGCONT)
    outcomes, errors = program.end()
    assert outcomes == {"stop_by_received_descriptor": ("done", "EACCES")}, errors


@pytest.mark.long
@pytest.mark.parametrize("who", ["thread", "process", "chain"])
@pytest.mark.parametrize("other", [(), ("another",)], ids=["same user", "another user"])
def test_a_descriptor_that_changes_lets_no_port_be_listened_on(place, attacker, who, other):
    """swap.c: it changes between the look at it and the call."""
    if other and os.getuid() != 0:
        pytest.skip("becoming another user takes root")
    program = attacker("reach/swap")
    place.policy("default allow\ntcp bind: 1-65535\n", "swap.policy")
    done = place.enforce("-p", "swap.policy", program, who, "500" if who == "chain" else "2000", *other)
    assert re.fullmatch("listening 0 answered [01]\n", done.stdout), done.stderr


def test_a_task_that_no_listing_has_may_share_descriptors(monkeypatch):
    """One was started while all were listed, or may have a number that was looked at before."""
    monkeypatch.chdir("/proc")
    monkeypatch.setattr(listening, "_tasks", lambda: {os.getpid()})
    last, started = itertools.count(1), itertools.count(0, 1000)
    for name, value in {"_last": lambda: 7, "_started": lambda: 5, "_pid_max": lambda: 1000}.items():
        monkeypatch.setattr(listening, name, value)
    assert not listening._shares_descriptors(os.getpid())
    monkeypatch.setattr(listening, "_started", lambda: next(started))
    assert listening._shares_descriptors(os.getpid())
    monkeypatch.setattr(listening, "_started", lambda: 5)
    monkeypatch.setattr(listening, "_last", lambda: next(last))
    assert listening._shares_descriptors(os.getpid())


def test_another_user_that_shares_nothing_listens(place, attacker):
    if os.getuid() != 0:
        pytest.skip("becoming another user takes root")
    program = attacker("reach/swap")
    place.policy("default allow\ntcp bind: 1-65535\n", "swap.policy")
    done = place.enforce("-p", "swap.policy", program, "nobody", "5", "another")
    assert (done.stdout, done.stderr) == ("listening 0 answered 1\n", "")


@pytest.mark.parametrize("other", [(), ("another",)], ids=["same user", "another user"])
def test_the_descriptors_of_a_thread_are_its_own(place, attacker, other):
    """table.c: its socket is looked at, not that which the process's first thread has at this number; and is reported."""
    if other and os.getuid() != 0:
        pytest.skip("becoming another user takes root")
    program = attacker("reach/table")
    place.policy("default allow\ntcp bind: 1-65535\ntcp connect: 1\n", "table.policy")
    done = place.enforce("--explain", "-p", "table.policy", program, *other)
    assert done.stdout == "listen EACCES does not connect EACCES does not\n", done.stderr
    assert "tcp bind: 0: not granted" in done.stderr
    assert "tcp connect: 9: not granted" in done.stderr


THREADED = """
import os, socket, struct, threading
os.setgroups([]), os.setresgid(65534, 65534, 65534), os.setresuid(65534, 65534, 65534)
threading.Thread(target=threading.Event().wait, daemon=True).start()
listens, client = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
listens.bind("\\0threaded%d" % os.getpid())
listens.listen()
client.connect(listens.getsockname())
print(*struct.unpack("iII", client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[1:], flush=True)
os._exit(0)
"""


def test_a_program_of_several_threads_that_has_changed_its_user_listens(place):
    """The helper makes the call, since another thread could change the descriptor, as the user whom clients are to see."""
    if os.getuid() != 0:
        pytest.skip("becoming another user takes root")
    place.policy("default allow\ntcp bind: 1-65535\n", "threaded.policy")
    done = place.enforce("-p", "threaded.policy", sys.executable, "-I", "-c", THREADED)
    assert (done.stdout, done.stderr) == ("65534 65534\n", "")


HIDDEN = """
import ctypes, socket
ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)
listens = socket.socket(socket.AF_UNIX)
listens.bind("")
try:
    print("listens", listens.listen())
except OSError as error:
    print(error.strerror)
"""


@pytest.mark.parametrize(
    ("sockets", "given", "expected"),
    [
        ("family == AF_UNIX", (), "listens None\n"),
        ("family == AF_INET && type & 0xf == SOCK_DGRAM || family == AF_UNIX", (), "listens None\n"),
        ("allow", (), "Permission denied\n"),
        ("family == AF_UNIX", (socket.AF_UNIX,), "listens None\n"),
        ("family == AF_UNIX", (socket.AF_INET,), "Permission denied\n"),
    ],
    ids=["makes no TCP", "makes UDP", "may make TCP", "given another", "given TCP"],
)
def test_a_program_that_is_not_dumpable_listens_where_it_can_have_no_tcp_socket(place, sockets, given, expected):
    """Its helper has no privilege, so it may not look at what the program's descriptors are (ssh-agent, gpg-agent)."""
    before, python = under("another", place)
    place.policy(f"{TABLE}default errno EPERM\ntcp bind: none\nsocket: {sockets}\n{all_but('socket')}", "hidden.policy")
    inherited = [socket.socket(family) for family in given]
    descriptors = [one.fileno() for one in inherited]
    done = place.enforce("--no-cache", "-p", "hidden.policy", python, "-I", "-c", HIDDEN, under=before, pass_fds=descriptors)
    for one in inherited:
        one.close()
    assert done.stdout == expected, done.stderr
    assert ("it is not dumpable" in done.stderr) == (expected == "Permission denied\n"), done.stderr


LISTENED = """tcp EACCES
tcp6 EACCES
received EACCES
upper half EACCES
mptcp EBADF
pipe ENOTSOCK
file ENOTSOCK
path EBADF
closed EBADF
negative EBADF
udp ENOTSUP
unix EINVAL
netlink ENOTSUP
backlog EACCES
backlog EACCES
backlog EACCES
backlog EACCES
twice done done
then done EACCES
"""


def test_listening_on_anything_else(place):
    shutil.copy(HERE / "listens.py", place.folder)
    place.policy("default allow\ntcp bind: 1-65535\n", "listens.policy")
    done = place.enforce("-p", "listens.policy", sys.executable, "-I", "listens.py")
    assert (done.returncode, done.stdout) == (0, LISTENED), done.stderr
    assert "could not be" not in done.stderr
    assert "looking into a denied call failed" not in done.stderr


@pytest.mark.only_on("x86_64")
def test_listening_by_calls_of_i386(place):
    """Of a descriptor that is the process's, whichever call made it."""
    place.policy(f"default allow\narch {NATIVE}\ntcp bind: 1-65535\narch {COMPAT}\n")
    done = place.enforce("-p", "calls.policy", place.calls(), "socket,2,1,0", "i363,3,1", "i363,-1,1", "listen,3,1")
    assert done.stdout == "3\n-13\n-9\n-13\n", done.stderr


# What describing denied calls takes, and who reads it

CALLED = {"read", "write", "exit", "exit_group", "rt_sigreturn"}
DENIED = [name for name, call in table(NATIVE).by_name.items() if call.number < 300 and name not in CALLED]
NUMBERS = [table(NATIVE).by_name[name].number for name in DENIED]
EACH = "default errno EACCES\nread: allow\nwrite: allow\nexit_group: allow\n"


def of_terminal():
    keyboard, screen = pty.openpty()
    tty.setraw(screen)
    return keyboard, screen


@pytest.mark.long
@pytest.mark.parametrize("ends", [os.pipe, of_terminal], ids=["pipe", "terminal"])
@pytest.mark.parametrize(("alarms", "pause"), [(0, 0), (3, 0), (0, 0.8)], ids=["undisturbed", "SIGALRM", "pausing"])
def test_a_slow_reader_holds_nothing_up(place, ends, alarms, pause):
    """It reads one byte after each answer, so most reports wait; in the end it has all of them, whole."""
    place.policy(EACH)
    reader, writer = ends()
    if ends is os.pipe:
        fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    place.environment["NO_COLOR"] = "1"
    steps = [step for number in NUMBERS for step in ("wait", str(number))]
    process = place.start(place.calls(), *steps, stderr=writer)
    helper, told = 0, b""
    for number in NUMBERS:
        process.stdin.write("x")
        process.stdin.flush()
        for _ in range(alarms if helper else 0):
            os.kill(helper, signal.SIGALRM)
        assert process.stdout.readline() == "-13\n"
        helper = helper or place.helper()
        if select.select([reader], [], [], 0)[0]:
            told += os.read(reader, 1)
        time.sleep(pause if number == NUMBERS[len(NUMBERS) // 2] else 0)
    assert len(told) < 400
    time.sleep(pause)
    os.close(writer)
    process.stdin.close()
    time.sleep(pause)
    while part := read(reader):
        told += part
    os.close(reader)
    assert process.wait(20) == 9
    lines = told.decode().splitlines()
    denied = r"enforce: denied .*: it fails with EACCES$|  by /.* at calls\+0x[0-9a-f]+$"
    whole = re.compile(denied + r"|  to signal processes that the program has not started, also |  to allow it: callfence ")
    assert [line for line in lines if not whole.match(line)] == []
    assert {re.match(r"enforce: denied (\w+)\(", line)[1] for line in lines if line.startswith("enforce: ")} == {*DENIED}
    process.stdout.close()


def read(descriptor):
    try:
        return os.read(descriptor, 1 << 16)
    except OSError:  # EIO: nobody has the terminal's other end
        return b""


FLOOD = """
import ctypes, mmap, os, signal, sys, threading
libc = ctypes.CDLL(None)
begun, go = os.pipe()
other = os.fork()
if other == 0:
    os.read(begun, 1)
    libc.getppid()
    os.write(1, b"other\\n")
    os._exit(0)
half = mmap.PAGESIZE
space = libc.mmap
space.restype = ctypes.c_void_p
space.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
for number in range(30000):
    space(None, half, 1 + 2 * (number % 2), 0x22, -1, 0)
def deep(left):
    if left:
        return deep(left - 1)
    number = 0
    while number < 2000 or number < 200000 and (number % 100 or not os.waitpid(other, os.WNOHANG)[0]):
        libc.prlimit(0, number, None, None)
        if number == 20:
            os.write(go, b"x")
        number += 1
    os.write(1, b"flood\\n")
sys.setrecursionlimit(10000)
threading.stack_size(64 << 20)
thread = threading.Thread(target=deep, args=(5000,))
thread.start()
thread.join()
"""


def test_a_flood_from_a_deep_stack_holds_no_other_process_up(place):
    """With tens of thousands of mappings, too: the other's call is answered before the flood is over."""
    place.policy(f"{TABLE}default errno EACCES\n{all_but('getppid', 'prlimit64')}prlimit64: resource < 16\n", "flood.policy")
    done = place.enforce("-p", "flood.policy", sys.executable, "-I", "-c", FLOOD)
    assert (done.returncode, done.stdout) == (0, "other\nflood\n"), done.stderr
    assert "denied getppid(" in done.stderr
    assert f"more violations of prlimit64 ({NATIVE}) were not described" in done.stderr


@pytest.mark.long
def test_a_hundred_thousand_denied_calls_are_counted(place):
    place.policy(EACH)
    done = place.enforce(place.calls(), "100000xgetppid")
    assert done.stdout == "-13\n" * 100000
    assert max(map(int, re.findall(r"denied (\d+) times", done.stderr))) == 100000


DYING = """
import ctypes, os
libc = ctypes.CDLL(None)
for number in range(200):
    begun, started = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(started, b"x")
        while True:
            libc.prlimit(0, 16 + number, None, None)
    os.read(begun, 1)
    for _ in range(number):
        pass
    os.kill(child, 9)
    os.waitpid(child, 0)
    os.close(begun), os.close(started)
print(libc.getppid())
"""


def test_callers_that_die_while_they_are_described(place):
    place.policy(f"{TABLE}default errno EACCES\n{all_but('getppid', 'prlimit64')}prlimit64: resource < 16\n", "dying.policy")
    done = place.enforce("-p", "dying.policy", sys.executable, "-I", "-c", DYING)
    assert (done.returncode, done.stdout) == (0, "-13\n"), done.stderr
    assert "denied getppid(" in done.stderr
    for trouble in ("could not be", "helper failed", "looking into a denied call failed"):
        assert trouble not in done.stderr


@pytest.mark.parametrize("limit", ["RLIMIT_NPROC", "RLIMIT_SIGPENDING", "RLIMIT_MEMLOCK"])
def test_what_counts_by_user_is_used_up(place, limit):
    """The program has taken all that its user may have of it; killing a process takes none of that."""
    before, python = under("another", place)
    program = (
        "import ctypes, os, resource, signal\n"
        f"resource.setrlimit(resource.{limit}, (1, 1))\n"
        "libc = ctypes.CDLL(None)\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, {40})\n"
        "while libc.sigqueue(os.getpid(), 40, None) == 0: pass\n"
        "print(libc.getgid(), flush=True)\n"
        "libc.getppid()\n"
        "print('survived')\n"
    )
    entries = all_but("getppid", "getgid", "getegid", "setsid")
    place.policy(f"{TABLE}default kill\n{entries}getgid: errno EACCES\n", "used.policy")
    done = place.enforce("--no-cache", "-p", "used.policy", python, "-I", "-c", program, under=before)
    assert done.returncode in (-signal.SIGSYS, -signal.SIGKILL), done.stderr
    assert "survived" not in done.stdout
    assert "denied getppid(" in done.stderr


ANSWERED = """child done done
group EACCES EACCES EACCES EACCES
thread EACCES done EACCES EACCES
task EACCES EACCES EACCES EACCES
others EACCES EACCES EPERM
zombie done
ended ESRCH EACCES
upwards EACCES done
grandchild done
orphan EPERM
namespace EACCES EACCES EACCES EACCES
ids done done EACCES
others' ids EACCES EACCES EACCES EPERM
null done done
flags EACCES EACCES EACCES EACCES done
paths EACCES EACCES EACCES EACCES EACCES EACCES ENOENT
end done EACCES EACCES
changing True
"""


def test_no_answer_gives_more_than_it_should(place):
    """answers.py, as another user: root may set any id."""
    before, python = under("another", place)
    shutil.copy(HERE / "answers.py", place.folder)
    names = ("kill", "tkill", "tgkill", "setuid", "setgid", "setgroups", "setresuid", "openat", "open", "creat", "openat2")
    reads = "openat: flags & O_ACCMODE|O_CREAT|O_PATH|O_TMPFILE == O_RDONLY\n"
    place.policy(f"{TABLE}default errno EACCES\nimplied 1\n{all_but(*names)}{reads}", "a.policy")
    (place.folder / "other").touch()
    (place.folder / "other").chmod(0o666)
    place.environment["HELPER"] = "2"
    done = place.enforce("--no-cache", "-p", "a.policy", python, "-IWignore", "answers.py", under=before)
    assert (done.returncode, done.stdout) == (0, ANSWERED), done.stderr
    assert "looking into a denied call failed" not in done.stderr
