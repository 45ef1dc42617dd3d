"""Attempts to reach the helper, to slow it down, to have it misjudge, or to use what it answers.

The program may make every call but a few."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from enforcer.scope import SINCE, abi
from tests.enforcer.attacks.reach import reach
from tracer.abi import Arch, table

pytestmark = pytest.mark.skipif(abi() < SINCE, reason="needs Landlock's ABI 6 (Linux 6.12)")
HERE = Path(__file__).parent / "reach"
USER = 65534
ATTEMPTS = [work.__name__ for work in reach.ATTEMPTS]
KILLING = ("by_folder", "by_received_descriptor", "by_handle", "by_owner_ex", "by_fiosetown")
"""Those that do it where signals are not kept inside."""


def all_but(*names: str) -> str:
    """Entries for every other call of x86_64.  No filter of the program's own: the kernel alone would answer then."""
    lines = {call.name: f"{call.name}: allow\n" for call in table(Arch.X86_64).by_number.values()}
    lines["prctl"] = "prctl: option != PR_SET_SECCOMP\n"
    return "".join(line for name, line in lines.items() if name not in (*names, "seccomp"))


class Attacked:
    """A program that is told who its helper is."""

    def __init__(self, place, user, scope, names):
        self.place = place
        place.policy(f"default errno EACCES\nscope {scope}\n{all_but('getppid')}", "reach.policy")
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
    "advised": {"EPERM", "EACCES", "ENOMEM"},  # CAP_PERFMON reads what is mapped, and CAP_SYS_NICE has pages dropped
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
    program = attacked(user, "none", name)
    outcomes, errors = program.end()
    assert (program.process.returncode, outcomes) == (-signal.SIGKILL, {}), errors


@pytest.mark.parametrize("user", ["root", "another"])
def test_stopping_it_makes_denied_calls_wait(attacked, user):
    program = attacked(user, "none", "stop_by_received_descriptor")
    for pid in program.pids:
        while reach.alive(pid) != "stopped":
            assert program.process.poll() is None
    for pid in program.pids:
        os.kill(pid, signal.SIGCONT)
    outcomes, errors = program.end()
    assert outcomes == {"stop_by_received_descriptor": ("done", "EACCES")}, errors


@pytest.mark.parametrize("who", ["thread", "process"])
@pytest.mark.parametrize("other", [(), ("another",)], ids=["same user", "another user"])
def test_a_descriptor_that_changes_lets_no_port_be_listened_on(place, attacker, who, other):
    """swap.c: it changes between the look at it and the call.  The helper cannot make a unix socket of another user's listen, so
    it fails where somebody could change it."""
    if other and os.getuid() != 0:
        pytest.skip("becoming another user takes root")
    program = attacker("reach/swap")
    place.policy("default allow\ntcp bind: 1-65535\n", "swap.policy")
    done = place.enforce("-p", "swap.policy", program, who, "2000", *other)
    answered = "0" if other else "[01]"
    assert re.fullmatch(f"listening 0 answered {answered}\n", done.stdout), done.stderr


def test_another_user_that_shares_nothing_listens(place, attacker):
    if os.getuid() != 0:
        pytest.skip("becoming another user takes root")
    program = attacker("reach/swap")
    place.policy("default allow\ntcp bind: 1-65535\n", "swap.policy")
    done = place.enforce("-p", "swap.policy", program, "nobody", "5", "another")
    assert (done.stdout, done.stderr) == ("listening 0 answered 1\n", "")


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
    assert "answered like any other" not in done.stderr


def test_listening_by_calls_of_i386(place):
    """Of a descriptor that is the process's, whichever call made it."""
    place.policy("default allow\narch x86_64\ntcp bind: 1-65535\narch i386\n")
    done = place.enforce("-p", "calls.policy", place.calls(), "41,2,1,0", "i363,3,1", "i363,-1,1", "50,3,1")
    assert done.stdout == "3\n-13\n-9\n-13\n", done.stderr
