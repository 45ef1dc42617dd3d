"""A program that enters a phase: what it is allowed from then on, and that it notices nothing else."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from callfence.enforcer import confinement, kernel
from callfence.enforcer.arming.entering import _reason
from callfence.tracer.abi import COMPAT, NATIVE, table

PHASE = "phase serving after {}\n"
ALLOWED = (
    "default {}\nimplied 1\nphase serving after {}\n{}clone: allow\nepoll_create1: allow\nepoll_ctl: allow\nepoll_wait: allow\n"
    "mmap: allow\nmprotect: allow\nopenat: allow\npoll: allow\nrt_sigaction: allow\nrt_sigsuspend: allow\ntgkill: allow\n"
)
SOCKET = "socket: allow until serving\n"


@pytest.fixture
def phased(place, build, shared_policy):
    """phased(*steps, trigger=..., options=()) -> the finished program of programs/phased.c.

    With an option -p, its policy is phased.policy in the current folder."""
    shutil.copy(build("phased"), place.folder / "phased")

    def run(*steps, trigger="poll", default="errno EPERM", options=(), started=False, entries=SOCKET, **settings):
        text = ALLOWED.format(default, trigger, entries)
        text = text.replace("phase serving", f"phase {settings.pop('name', 'serving')}")
        if "-p" in options:
            place.policy(text, "phased.policy")
        else:
            options = ("-p", shared_policy(text, "phased.policy"), *options)
        if started:
            return place.start(*options, "./phased", *steps, **settings)
        return place.enforce(*options, "./phased", *steps, **settings)

    return run


FAILING = """
import errno, os, sys
from callfence.enforcer.duty import Duty
from callfence.enforcing.command import main
def fails(*_, **__):
    raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN), "clone")
Duty.{} = fails
sys.exit(main())
"""
WITHOUT_PIDFD = """
import errno, os, sys
from callfence.enforcer import kernel
from callfence.enforcing.command import main
pidfd_open = kernel.pidfd_open
def fails(pid):
    if pid == os.getppid():
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), "pidfd_open")
    return pidfd_open(pid)
kernel.pidfd_open = fails
sys.exit(main())
"""
WITHOUT_EPOLL = """
import errno, os, select, sys
from callfence.enforcer.arming import phases
from callfence.enforcing.command import main
class Follower(phases.Follower):
    def run(self):
        epoll = select.epoll
        select.epoll = fails
        super().run()
        select.epoll = epoll
def fails():
    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
phases.Follower = Follower
sys.exit(main())
"""
OPENED, DENIED = "socket 0 \n", "socket -1 Operation not permitted\n"
POLLED = "poll 0 \npoll 1 \nevents 1 \n"


@pytest.mark.parametrize("options", [(), ("--quiet-kernel",), ("--arm", "entry"), ("--arm", "now"), ("--log", "log")])
def test_less_is_allowed_after_the_trigger(phased, options):
    entries = SOCKET + "execve: allow until serving\n"
    done = phased("socket", "poll", "socket", options=options, entries=entries)
    assert (done.returncode, done.stdout) == (5, OPENED + POLLED + DENIED)
    if not options:
        assert "denied socket(" in done.stderr
        assert " in serving: it fails with EPERM\n" in done.stderr


def test_what_is_not_reported_is_said_if_it_may_install_filters(phased):
    """A filter of the start that fails a call by itself outranks the notification of the last phase."""
    done = phased("socket", "poll", "socket", entries="execve: allow until serving\nseccomp: allow\n")
    assert (done.returncode, done.stdout) == (5, DENIED + POLLED + DENIED)
    assert "filters of its own, so calls that are denied from the start on are not reported in serving\n" in done.stderr
    assert (" in start: it fails" in done.stderr, " in serving: it fails" in done.stderr) == (True, False)


def test_a_helper_without_a_free_descriptor_says_so():
    assert _reason(OSError(errno.EMFILE, "Too many open files", "/proc/1/mem")) == "the helper cannot open another descriptor"
    assert _reason(OSError(errno.EACCES, "Permission denied", "/proc/1/mem")) == "its memory cannot be read (PR_SET_DUMPABLE)"


IN_A_CONTAINER = ("setpriv", "--bounding-set=-all,+dac_override,+net_bind_service,+kill", "--inh-caps=-all")
SERVICE = (
    "setpriv", "--reuid=65534", "--clear-groups", "--bounding-set=-all,+dac_override,+net_bind_service",
    "--inh-caps=-all,+dac_override,+net_bind_service", "--ambient-caps=+dac_override,+net_bind_service",
)  # fmt: skip


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give capabilities away")
@pytest.mark.parametrize("under", [IN_A_CONTAINER, SERVICE], ids=["root without CAP_SYS_PTRACE", "ambient capabilities"])
@pytest.mark.parametrize("options", [(), ("--quiet-kernel",), ("--audit",)])
def test_a_program_with_capabilities_enters_its_phase(phased, under, options):
    """What may look into a process has all of its capabilities, or CAP_SYS_PTRACE (ptrace(2))."""
    done = phased("socket", "poll", "socket", options=options, under=under)
    assert (done.returncode, done.stdout) == (5, OPENED + POLLED + (OPENED if "--audit" in options else DENIED)), done.stderr
    assert "cannot enter" not in done.stderr


def test_nothing_traces_it_then(phased):
    done = phased("poll", "status")
    assert done.stdout == f"{POLLED}TracerPid:\t0\nSeccomp_filters:\t{filters() + 2}\n"


def filters():
    """How many filters this process has."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next((int(line.split()[1]) for line in lines if line.startswith("Seccomp_filters:")), 0)


@pytest.mark.parametrize("steps", [("socket",), ("poll", "socket")])
def test_a_killed_call(phased, steps):
    done = phased(*steps, default="kill", entries="bind: allow until serving\n", options=("-p", "phased.policy"))
    assert done.returncode == -signal.SIGSYS
    assert f" in {'serving' if len(steps) > 1 else 'start'}: the process is killed" in done.stderr
    option = "" if len(steps) > 1 else "--until serving "
    assert f"to allow it: callfence allow {option}phased.policy 'socket: family == AF_UNIX" in done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a pid namespace")
def test_a_killed_call_of_the_first_process_of_a_pid_namespace(phased, place):
    """Signals from inside its namespace, SIGKILL included, end no such process."""
    under = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
    done = phased("socket", "poll", default="kill", entries="bind: allow until serving\n", under=under)
    assert (done.returncode, done.stdout) == (-signal.SIGKILL, ""), done.stderr
    assert " in start: the process is killed" in done.stderr
    place.wait_for_helpers()


def test_audit_says_the_phase(phased, place):
    done = phased("socket", "poll", "socket", entries="bind: allow until serving\n", options=("--audit", "--log", "log"))
    assert (done.returncode, done.stdout) == (5, OPENED + POLLED + OPENED)
    assert [record["phase"] for record in place.denials()] == ["start", "serving"]


@pytest.mark.long
@pytest.mark.parametrize(
    ("trigger", "step"),
    [
        ("poll", "poll"), ("epoll_wait", "epoll"), ("rt_sigsuspend", "sigsuspend"), ("pselect6", "pselect"),
        ("accept4", "accept"),
    ],
)  # fmt: skip
def test_the_trigger_does_what_it_does_otherwise(phased, place, trigger, step):
    expected = subprocess.run(["./phased", step, step], cwd=place.folder, capture_output=True, text=True, check=False).stdout
    sockets = "".join(f"{name}: allow\n" for name in ("accept4", "bind", "connect", "listen", "pselect6", "socket"))
    done = phased(step, step, trigger=trigger, entries=f"{sockets}getppid: allow until serving\n")
    assert (done.stdout, done.stderr) == (expected, "")


def test_the_memory_of_the_filter_is_not_left_in_the_program(phased):
    process = phased("poll", "socket", "wait", started=True)
    for line in (POLLED + DENIED).splitlines(keepends=True):
        assert process.stdout.readline() == line
    _wait_until(lambda: _tracer(process.pid) == "0")
    assert "/dev/zero" not in Path(f"/proc/{process.pid}/maps").read_text()
    process.communicate("x")


def test_all_threads_enter_it(phased):
    done = phased("socket", "thread", "sigsuspend", "wake", "status", trigger="rt_sigsuspend")
    assert done.stdout.startswith(f"{OPENED}caught 1 \nthread -1 Operation not permitted\nTracerPid:\t0\n")


def test_no_call_of_another_thread_is_interrupted_by_it(phased):
    assert phased("spin", "poll", "go", "status").stdout.startswith(f"{POLLED}epoll_wait 0 \nTracerPid:\t0\n")


def test_each_process_enters_it_by_itself(phased):
    for made in ("fork", "untraced"):
        done = phased(made, "socket", "poll", "socket")
        assert done.stdout == OPENED + POLLED + DENIED + "child 1280 \n"
    done = phased("poll", "fork", "socket", "status")
    assert done.stdout == f"{POLLED}{DENIED}TracerPid:\t0\nSeccomp_filters:\t{filters() + 2}\nchild 1280 \n"


@pytest.mark.long
def test_the_helper_ends_though_what_it_follows_is_killed_at_any_moment(phased, place):
    done = phased("killed", "poll", "socket", entries=f"{SOCKET}kill: allow until serving\n")
    assert done.stdout == POLLED + DENIED
    place.wait_for_helpers()


def test_what_the_start_executes_starts_and_what_serves_executes_serves(phased):
    entries = f"{SOCKET}execve: allow\n"
    done = phased("poll", "exec", "socket", "status", entries=entries)
    assert done.stdout == f"{POLLED}{DENIED}TracerPid:\t0\nSeccomp_filters:\t{filters() + 2}\n"
    done = phased("exec", "socket", "poll", "socket", entries=entries)
    assert done.stdout == OPENED + POLLED + DENIED
    done = phased("socket", "poll", "exec", "socket")  # not allowed by then, or ever
    assert done.stdout == f"{OPENED}{POLLED}exec -1 Operation not permitted\n{DENIED}"


def test_a_daemon_is_followed(phased):
    done = phased("daemon", "socket", "poll", "socket", "status", entries=f"{SOCKET}setsid: allow until serving\n")
    assert (done.returncode, done.stdout) == (0, f"{OPENED}{POLLED}{DENIED}TracerPid:\t0\nSeccomp_filters:\t{filters() + 2}\n")


def test_a_program_that_wants_to_be_traced_is_until_it_serves(phased):
    done = phased("traceme", "poll", "traceme", entries="ptrace: allow\nbind: allow until serving\n")
    assert done.stdout == f"traceme -1 Operation not permitted\n{POLLED}traceme 0 \n"


def test_the_program_says_it_itself(phased):
    done = phased("socket", "enter", "socket", trigger="enter")
    assert done.stdout == f"{OPENED}enter 1 \n{DENIED}"


@pytest.mark.long
@pytest.mark.parametrize("step", ["notify", "write"])
def test_it_tells_the_service_manager_that_it_is_ready(phased, step):
    entries = f"{SOCKET}recvfrom: allow\nsendmsg: allow\nsocketpair: allow\n"
    said = "" if step == "write" else f"{step} 1 \nreceived 1 \n"
    done = phased("socket", "say", "socket", step, "socket", "status", trigger="sd_notify", entries=entries)
    before = f"{OPENED}say 1 \nreceived 1 \n{OPENED}"
    assert done.stdout == f"{before}{said}{DENIED}TracerPid:\t0\nSeccomp_filters:\t{filters() + 2}\n"


def test_a_program_that_never_gets_there_stays_as_it_is(phased):
    done = phased("socket", "socket")
    assert (done.returncode, done.stdout) == (5, OPENED * 2)


@pytest.mark.parametrize(
    ("steps", "status"), [(("wait", "socket"), -signal.SIGKILL), (("poll", "socket", "wait", "socket"), 5)]
)
def test_the_death_of_the_helper_ends_what_it_follows(phased, place, steps, status):
    process = phased(*steps, started=True)
    if "poll" in steps:
        for line in (POLLED + DENIED).splitlines(keepends=True):  # an answer shows that the helper has handed over
            assert process.stdout.readline() == line
        _wait_until(lambda: _tracer(process.pid) == "0")
    else:
        _wait_until(lambda: _tracer(process.pid) != "0" and _waits(process.pid))
    for helper in place.helpers():
        with suppress(ProcessLookupError):  # the stand-in ends with the helper
            os.kill(helper, signal.SIGKILL)
    process.communicate("x")
    # Where a program could signal the helper, it ends with it.
    assert process.returncode == (status if kernel.landlock_abi() >= confinement.SINCE else -signal.SIGKILL)


def _waits(pid):
    return Path(f"/proc/{pid}/syscall").read_text().startswith(f"{table(NATIVE).by_name['read'].number} 0x0 ")


def _tracer(pid):
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("TracerPid:"):
            return line.split()[1]
    return ""


def _wait_until(condition):
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.long
def test_a_child_of_a_process_that_has_passed_over_a_phase(phased):
    """Its filters were counted, and it was taken for one in `serving`: what `late` denies failed with ENOSYS, unreported."""
    trigger = "poll\nphase late after pselect6\nphase last after epoll_wait"
    entries = "bind: allow until serving\nsocket: allow until late\nexecve: allow until last\n"
    done = phased("pselect", "fork", "socket", trigger=trigger, entries=entries, default="kill")
    assert f"child {signal.SIGSYS}" in done.stdout, done.stdout
    assert " in late: the process is killed\n" in done.stderr


def test_two_policies(phased, place):
    allowed = "mmap: allow\nmprotect: allow\nopenat: allow\npoll: allow\nsocket: allow\n"
    place.policy(f"default errno EACCES\nimplied 1\n{allowed}", "other.policy")
    done = phased("socket", "poll", "socket", options=("-p", "phased.policy", "-p", "other.policy"))
    assert done.stdout == OPENED + POLLED + DENIED


@pytest.mark.parametrize("method", ["start", "follow"])
@pytest.mark.parametrize("arm", ["now", "exec", "entry"])
def test_a_helper_that_cannot_follow_the_program_ends_it(arm, method, phased, place):
    place.command = (sys.executable, "-c", FAILING.format(method))
    done = phased("socket", options=("--arm", arm))
    assert (done.returncode, done.stdout) == (125, "")
    assert done.stderr == "enforce: the program was not run: clone: Resource temporarily unavailable\n"


def test_a_stand_in_without_descriptors_does_not_end_the_program(phased, place):
    place.command = (sys.executable, "-c", WITHOUT_PIDFD)
    done = phased("socket", "poll", "socket")
    assert (done.returncode, done.stdout) == (5, OPENED + POLLED + DENIED)
    assert "enforce: the helper failed: OSError: [Errno 24] Too many open files: 'pidfd_open'" in done.stderr


def test_a_helper_without_descriptors_for_answering_has_the_kernel_answer(phased, place):
    place.command = (sys.executable, "-c", WITHOUT_EPOLL)
    done = phased("socket", "poll", "socket")
    assert (done.returncode, done.stdout) == (5, OPENED + POLLED + DENIED)
    assert "are not reported, because the helper cannot open another descriptor" in done.stderr
    assert "failed" not in done.stderr


def test_two_policies_with_phases_are_refused(phased):
    done = phased("socket", options=("-p", "phased.policy", "-p", "phased.policy"))
    assert done.returncode == 125
    assert "several policies have phases" in done.stderr


@pytest.mark.parametrize("flags", [(), ("-m32",)])
def test_a_program_without_a_library(place, flags):
    """Raw calls."""
    arch = COMPAT if flags else NATIVE
    wait = "poll" if "poll" in table(arch).by_name else "ppoll"
    place.policy(
        f"default errno EACCES\n{PHASE.format(wait)}arch {arch}\n"
        f"write: allow\nexit_group: allow\n{wait}: allow\ngetppid: allow until serving\n"
    )
    done = place.enforce(place.calls(*flags), "getppid", "poll,0,0,0", "getppid")
    assert [line.startswith("-") for line in done.stdout.splitlines()] == [False, False, True]
    assert done.stdout.splitlines()[2] == "-13"


def test_a_storm_of_signals_changes_nothing(phased):
    """Signals that do nothing by default, and stops, arrive in every kind of stop of the helper's."""
    for _ in range(3):
        process = phased("socket", "poll", "socket", "status", options=("--log", "log"), started=True)
        storm = (signal.SIGWINCH, signal.SIGURG, signal.SIGSTOP, signal.SIGCONT)
        sent = 0
        while process.poll() is None:
            os.kill(process.pid, storm[sent % len(storm)])  # not waited for yet, so the pid is still the program's
            sent += 1
        assert (process.returncode, process.stdout.read()) == (
            5, f"{OPENED}{POLLED}{DENIED}TracerPid:\t0\nSeccomp_filters:\t{filters() + 2}\n"
        )  # fmt: skip
        assert sent


WITHOUT_CAPABILITIES = ("setpriv", "--bounding-set=-all", "--inh-caps=-all")


HIDDEN = "cannot enter its phase and {}, because its memory cannot be read (PR_SET_DUMPABLE)"


@pytest.mark.long
@pytest.mark.parametrize(("trigger", "step"), [("poll", "poll"), ("sd_notify", "notify"), ("enter", "enter")])
def test_a_program_that_hides_its_memory_does_not_go_on_without_its_phase(phased, trigger, step):
    entries = f"{SOCKET}prctl: allow\nsocketpair: allow\nsendmsg: allow\nrecvfrom: allow\n"
    settings = {"trigger": trigger, "under": WITHOUT_CAPABILITIES}
    done = phased("hide", step, step, "socket", entries=entries, **settings)
    assert done.returncode == -signal.SIGKILL
    assert OPENED not in done.stdout
    assert done.stderr.count(HIDDEN.format("is killed")) == 1
    done = phased("hide", step, step, "socket", entries=f"phases optional\n{entries}", **settings)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (5, OPENED.strip("\n"))
    assert done.stderr.count(HIDDEN.format("keeps its start-up permissions")) == 1


def test_a_program_that_shows_its_memory_again_enters_its_phase(phased):
    entries = f"phases optional\n{SOCKET}prctl: allow\nsocketpair: allow\nsendmsg: allow\nrecvfrom: allow\n"
    steps = ("hide", "notify", "show", "notify", "socket")
    done = phased(*steps, trigger="sd_notify", entries=entries, under=WITHOUT_CAPABILITIES)
    assert done.stdout.endswith(DENIED)


def test_a_phase_of_another_name_is_no_denial(phased):
    """callfence_enter answers that nothing happens."""
    done = phased("enter", "socket", trigger="enter", entries=SOCKET.replace("serving", "other"), name="other")
    assert done.stdout == f"enter 0 \n{OPENED}"
