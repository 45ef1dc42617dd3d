"""The process beside the program: what it holds, when it ends, and that whatever happens to it, no call gets through."""

from __future__ import annotations

import os
import resource
import select
import shutil
import signal
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from callfence.enforcer.duty import Duty
from callfence.enforcer.helper import fuses
from callfence.tracer.abi import NATIVE

ROOT = Path(__file__).parent.parent.parent
FLOOR = "read: allow\nwrite: allow\nexit_group: allow\n"
ERRNO = "default errno EACCES\n" + FLOOR
SHELL = "default allow\n"


def status(pid, name):
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return line.split(":\t", 1)[1]
    raise AssertionError(name)


def wait_until(condition):
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.fixture
def running(place):
    """running(*calls, **options) -> a program that has printed its first line, and waits for a byte of input."""
    started = []

    def run(*calls, policy=ERRNO, options=(), **settings):
        place.policy(policy)
        process = place.start(*options, place.calls(), "getppid", "wait", *calls, **settings)
        started.append(process)
        assert process.stdout.readline() == "-13\n"
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()


def wait_until_read(program, helper):
    """Until the helper has let the program go, and sleeps: it has read what it may import."""
    wait_until(lambda: status(program, "TracerPid") == "0" and status(helper, "State")[0] == "S")


def test_it_is_no_relative_of_the_program(running, place):
    process = running()
    helper = place.helper()
    assert int(status(helper, "PPid")) not in (process.pid, os.getpid())
    assert os.getsid(helper) == helper
    assert os.getpgid(helper) == helper
    assert os.getsid(process.pid) == os.getsid(0)
    assert Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text() == ""


def test_it_holds_standard_error_the_listener_the_program_and_two_devices(running, place):
    if os.getuid() != 0:
        pytest.skip("needs root: it cannot be looked into by its own user")
    process = running()
    for helper in place.both():
        wait_until_read(process.pid, helper)
        full, null, *files = sorted(os.readlink(entry) for entry in Path(f"/proc/{helper}/fd").iterdir())
        assert (full, null) == ("/dev/full", "/dev/null"), "which a program is given that opens them"
        # pidfds: the program, and the stand-in or the helper
        assert files[:4] == ["anon_inode:[eventpoll]", "anon_inode:[pidfd]", "anon_inode:[pidfd]", "anon_inode:seccomp notify"]
        assert files[4:] == [os.readlink(f"/proc/{process.pid}/fd/2")]
    assert "anon_inode:seccomp notify" not in (
        os.readlink(entry) for entry in Path(f"/proc/{process.pid}/fd").iterdir()
    )


def test_the_program_cannot_get_at_it(running, place):
    """It is not dumpable: a confined program may write to files, and /proc/PID/mem of its user's processes is one."""
    running()
    helper = place.helper()
    assert (Path(f"/proc/{helper}/mem").stat().st_uid, Path(f"/proc/{helper}/fd").stat().st_uid) == (0, 0)


def test_it_outlives_every_signal_but_sigkill(running, place):
    process = running("getppid")
    helper = place.helper()
    for number in range(1, 65):
        if number not in (signal.SIGKILL, signal.SIGSTOP, 32, 33):
            os.kill(helper, number)
    output, errors = process.communicate("x", timeout=20)
    assert output == "-13\n"
    assert process.returncode == 9
    assert "denied getppid()" in errors


def kill_helper(place):
    """And wait for the one that takes its place, and its stand-in."""
    place.both()
    helper = place.helper()
    os.kill(helper, signal.SIGKILL)
    wait_until(lambda: len(place.helpers()) == 2 and helper not in place.helpers())


PHASED = "phase serving after poll\ngetpid: allow until serving\n"
MOMENTS = {  # lines of the policy, calls that are made before, and what they print
    "plain": ("", (), ""),
    "start": (PHASED, ("getpid",), "{}\n"),
    "serving": (PHASED, ("poll,0,0,0", "getpid"), "0\n-13\n"),
}


def at(running, moment, scope="", **options):
    """A program that waits, in a phase or without phases; then it polls, waits, and makes denied calls."""
    lines, calls, output = MOMENTS[moment]
    policy = f"default errno EACCES\n{scope}{lines}poll: allow\n{FLOOR}"
    process = running(*calls, "wait", "poll,0,0,0", "wait", "getppid", "getgid", policy=policy, **options)
    process.stdin.write("x")
    process.stdin.flush()
    for line in output.format(process.pid).splitlines(keepends=True):
        assert process.stdout.readline() == line
    return process


def killed(place, which):
    """Kill the helper, its stand-in, or both at once."""
    helpers, helper = place.both(), place.helper()
    pids = [pid for pid in helpers if which == "both" or (pid == helper) == (which == "helper")]
    if which == "both":
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)  # so that neither replaces the other
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    return pids


def test_two_processes_that_end_at_the_same_moment_end_the_program():
    """Each closes its highest descriptor first, which has to be the end of a pipe whose other end the other still has."""
    child = os.fork()
    if child == 0:
        time.sleep(20)
        os._exit(0)
    pipes = fuses(child)
    try:
        assert max(first for first, _ in pipes) < min(second for _, second in pipes)
        assert not any(os.get_inheritable(end) for pipe in pipes for end in pipe)
        assert os.waitpid(child, os.WNOHANG) == (0, 0)
    finally:
        for _, second in pipes:
            os.close(second)
        _, status = os.waitpid(child, 0)
        for first, _ in pipes:
            os.close(first)
    assert status == signal.SIGKILL


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("which", ["helper", "stand-in", "both"])
def test_a_program_that_may_signal_it_ends_with_it_or_its_stand_in(running, place, moment, which):
    """Before the last phase the helper's end is the program's (EXITKILL), and the stand-in's counts when that phase begins."""
    process = at(running, moment, "scope none\n")
    killed(place, which)
    if (moment, which) == ("start", "stand-in"):
        process.stdin.write("x")
        process.stdin.flush()
    assert process.wait(20) == -signal.SIGKILL
    assert "-13" not in process.stdout.read()


@pytest.mark.parametrize("moment", ["plain", "serving"])
@pytest.mark.parametrize("which", ["helper", "stand-in"])
def test_any_other_program_goes_on_and_is_answered(running, place, moment, which):
    process = at(running, moment)
    pids = killed(place, which)
    wait_until(lambda: len(place.helpers()) == 2 and not {*pids} & {*place.helpers()})
    output, errors = process.communicate("xx", timeout=20)
    assert (process.returncode, output) == (9, "0\n-13\n-13\n")
    assert ("the helper process was killed and has been replaced" in errors) == (which == "helper")
    assert "denied getgid()" in errors


@pytest.mark.parametrize("which", ["helper", "stand-in"])
def test_before_the_last_phase_the_program_needs_its_helper(running, place, which):
    process = at(running, "start")
    killed(place, which)
    if which == "helper":
        assert process.wait(20) == -signal.SIGKILL
    else:
        output, errors = process.communicate("xx", timeout=20)
        assert (process.returncode, output) == (9, "0\n-13\n-13\n")
        assert "denied getgid()" in errors


def test_its_limits_are_raised(running, place):
    """As far as they may be (setrlimit(2)); the program keeps those that it was given."""
    lowered = {resource.RLIMIT_NOFILE: 64, resource.RLIMIT_STACK: 1 << 20, resource.RLIMIT_CORE: 0, resource.RLIMIT_CPU: 100}

    def lower():
        for number, soft in lowered.items():
            resource.setrlimit(number, (soft, resource.getrlimit(number)[1]))

    process = running(preexec_fn=lower)
    for pid in place.both():
        limits = [line[26:].split()[:2] for line in Path(f"/proc/{pid}/limits").read_text().splitlines()[1:]]
        assert len(limits) == 16
        assert all(soft == hard for soft, hard in limits)
    assert resource.prlimit(process.pid, resource.RLIMIT_NOFILE)[0] == 64


def test_its_folder_is_proc(running, place):
    """So that nothing which the program mounts there is read (`tracer.proc`)."""
    if os.getuid() != 0:
        pytest.skip("needs root: it cannot be looked into by its own user")
    running()
    for pid in place.both():
        assert os.readlink(f"/proc/{pid}/cwd") == "/proc"


def test_its_stand_in_takes_its_place(running, place):
    """And is replaced in turn; what was denied meanwhile is answered and reported."""
    process = running("getppid", "getpid", "mprotect,4096,8192,7", "wait", "getppid", "getgid")
    kill_helper(place)
    process.stdin.write("x")
    process.stdin.flush()
    assert [process.stdout.readline() for _ in range(3)] == ["-13\n"] * 3
    kill_helper(place)
    output, errors = process.communicate("x", timeout=20)
    assert output == "-13\n" * 2
    assert errors.count("the helper process was killed and has been replaced") == 2
    for call in ("getppid()", "getpid()", "mprotect(", "getgid()"):
        assert f"denied {call}" in errors


def test_a_stand_in_without_descriptors_does_not_take_the_helper_for_ended(running, place):
    """Two that read one listener would answer each other's calls."""
    process = running("getppid", "getgid")
    helper = place.helper()
    for limit in range(12, 2, -1):
        resource.prlimit(helper, resource.RLIMIT_NOFILE, (limit, limit))
        for pid in {*place.helpers()} - {helper}:
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.1)
    output, errors = process.communicate("x", timeout=20)
    assert output == "-13\n" * 2
    assert "replaced" not in errors


def test_without_both_calls_fail_closed(running, place):
    process = running("getppid", "getpid", "mprotect,4096,8192,7")
    helpers = place.both()
    for number in (signal.SIGSTOP, signal.SIGKILL):  # stopped first, so that neither replaces the other
        for pid in helpers:
            os.kill(pid, number)
    place.wait_for_helpers()
    output, _ = process.communicate("x", timeout=20)
    assert output == "-38\n" * 3, "ENOSYS"


def test_it_ends_with_the_last_confined_process(place):
    """And until then it answers for those that the program left behind, on their standard error if it is the same."""
    place.policy("default errno EACCES\n" + EVERYTHING, "sh.policy")
    script = f"(read go < fifo; exec {place.calls()} getppid > output) > /dev/null & echo started"
    os.mkfifo(place.folder / "fifo")
    with open(place.folder / "errors", "w+") as errors:
        done = place.enforce("sh", "-c", script, stderr=errors)
        assert (done.returncode, done.stdout) == (0, "started\n")
        place.both()
        (place.folder / "fifo").write_text("go\n")
        place.wait_for_helpers()
        assert (place.folder / "output").read_text() == "-13\n"
        errors.seek(0)
        assert errors.readline() == "enforce: denied getppid(): it fails with EACCES\n"


EVERYTHING = "".join(
    f"{name}: allow\n"
    for line in (
        "access arch_prctl brk chdir clone close dup2 execve exit exit_group faccessat faccessat2 fcntl fstat futex",
        "getcwd getegid geteuid getgid getpgrp getpid getrandom getuid ioctl lseek madvise mmap mprotect munmap",
        "newfstatat open openat pipe pipe2 poll pread64 prlimit64 read readlink rseq rt_sigaction rt_sigprocmask",
        "rt_sigreturn rt_sigsuspend set_robust_list set_tid_address setpgid setsid sigaltstack stat statx sysinfo",
        "uname unlink vfork wait4 write",
    )
    for name in line.split()
)


def test_who_reads_standard_error_does_not_wait_for_what_is_left_behind(place):
    place.policy(SHELL, "sh.policy")
    began = time.monotonic()
    done = place.enforce("sh", "-c", "sleep 300 > /dev/null 2>&1 & echo $!")
    assert time.monotonic() - began < 60
    os.kill(int(done.stdout), signal.SIGKILL)


def test_nobody_reads_the_reports(place):
    """A full pipe holds the program up once, and briefly; a closed one not at all."""
    place.policy(ERRNO)
    reader, writer = os.pipe()
    calls = [f"mprotect,{4096 * place_},1,{bits}" for place_ in range(40) for bits in range(8)]
    calls += [f"mmap,0,1,3,{bits}" for bits in range(400)]
    began = time.monotonic()
    done = place.enforce(place.calls(), *calls, stderr=writer)
    assert done.stdout == "-13\n" * len(calls)
    assert time.monotonic() - began < 40
    os.close(reader)
    done = place.enforce(place.calls(), *calls[:50], stderr=writer)
    assert done.stdout == "-13\n" * 50
    os.close(writer)


def test_a_full_disk_behind_the_log(place):
    place.policy(ERRNO)
    done = place.enforce("--log", "/dev/full", place.calls(), "getppid", "getpid")
    assert (done.returncode, done.stdout) == (9, "-13\n" * 2)


def test_closed_standard_error(place):
    place.policy(ERRNO)
    done = place.enforce(place.calls(), "getppid", "write,2,0,0", under=("sh", "-c", 'exec "$@" 2>&-', "sh"))
    assert done.stdout == "-13\n-9\n"


def test_a_policy_that_changes_meanwhile_changes_nothing(running, place):
    process = running("getppid")
    place.policy("default allow\n")
    assert process.communicate("x", timeout=20)[0] == "-13\n"


@pytest.mark.long
def test_callfence_uninstalled_meanwhile(place):
    """What judges and describes is read as soon as the program runs."""
    copy = place.folder / "copy"
    shutil.copytree(ROOT / "callfence", copy / "callfence")
    place.policy(ERRNO)
    place.environment["PYTHONPATH"] = str(copy)
    place.enforce(place.calls())  # compiles, so that the next start imports nothing of it
    place.command = (place.command[0], "-S", *place.command[1:])  # an editable installation would still be found
    process = place.start(place.calls(), "wait", "getppid")
    try:
        wait_until(lambda: Path(f"/proc/{process.pid}/comm").read_text() == "calls\n")
        wait_until_read(process.pid, place.helper())
        shutil.rmtree(copy)
        output, errors = process.communicate("x", timeout=20)
    finally:
        process.kill()
    assert (process.returncode, output) == (9, "-13\n")
    assert errors.startswith("enforce: denied getppid(): it fails with EACCES\n")


def test_many_processes_at_once(place, build):
    place.policy("default errno EACCES\n" + EVERYTHING, "sh.policy")
    script = f"for i in 1 2 3 4 5 6 7 8; do {place.calls()} 50xgetppid 50xgetpriority & done; wait"
    done = place.enforce("sh", "-c", script)
    assert done.stdout == "-13\n" * 800


@pytest.mark.long
def test_a_fork_bomb_is_confined_and_can_be_ended(place, build):
    place.policy("default errno EACCES\n" + EVERYTHING)
    done = place.enforce("-p", "calls.policy", build("bomb", "-static"), "200")
    assert done.stdout == "13" * 200
    assert done.returncode == 0, done.stderr


def test_it_does_not_linger_when_the_program_cannot_be_executed(place):
    place.policy(ERRNO, "nothing.policy")
    (place.folder / "nothing").write_bytes(b"\x7fELF but no more")
    (place.folder / "nothing").chmod(0o755)
    done = place.enforce("./nothing", under=("setsid", "-w"))
    assert done.returncode != 0
    place.wait_for_helpers()


def test_interrupting_it_early_leaves_nothing(place):
    """SIGTERM at any moment of the start ends the whole, and never lets the program run unconfined."""
    place.policy(ERRNO)
    place.enforce(place.calls())
    for moment in range(40):
        process = subprocess.Popen(
            [*place.command, place.calls(), "getppid"],
            **place.options({"stdin": subprocess.DEVNULL}),
        )
        time.sleep(moment / 1000)
        process.terminate()
        output, _ = process.communicate(timeout=20)
        assert process.returncode in (-signal.SIGTERM, 9)
        assert output in ("", "-13\n")


@pytest.mark.long
def test_stopping_and_continuing_it_early_changes_nothing(place):
    """SIGSTOP cannot be blocked: it comes in the middle of what is done to put the filter in, a denied close included."""
    place.policy(ERRNO)
    place.enforce(place.calls())
    for start in range(40):
        arm = ("exec", "entry")[start % 2]
        process = place.start("--arm", arm, place.calls(), "getppid", stdin=subprocess.DEVNULL)
        for turn in range(10):
            time.sleep((start * 7 + turn * 3) % 11 / 2000)
            if process.poll() is None:
                process.send_signal(signal.SIGSTOP)
                process.send_signal(signal.SIGCONT)
        output, errors = process.communicate(timeout=20)
        assert (process.returncode, output) == (9, "-13\n"), errors


BROKEN = """
import sys
from callfence.enforcing.command import main
from callfence.enforcer import duty, listener
from callfence.enforcer.reporting import report
def fail(*arguments):
    raise OSError(24, "Too many open files")
{}
sys.exit(main())
"""


def test_a_call_that_cannot_be_described_meets_what_the_policy_says(place):
    place.policy(ERRNO)
    place.command = (*place.command[:2], f"{BROKEN.format('report.Reports._count_and_publish = fail')}  # {place.folder}")
    done = place.enforce(place.calls(), "getppid")
    assert (done.returncode, done.stdout) == (9, "-13\n")
    assert f"enforce: getppid ({NATIVE}) was denied, and could not be described: OSError(24, " in done.stderr


def test_a_process_is_killed_though_nothing_can_be_waited_for(place):
    """Without an epoll it cannot be seen to die of SIGSYS."""
    place.policy(FLOOR)
    place.command = (*place.command[:2], f"{BROKEN.format('listener.Descriptors = fail')}  # {place.folder}")
    done = place.enforce(place.calls(), "getppid")
    assert (done.returncode, done.stdout) == (-9, "")
    assert "denied getppid(): the process is killed" in done.stderr


@pytest.mark.parametrize(
    ("descriptor", "events", "expected"),
    [
        (5, select.POLLIN, ["without 5", "ended"]),  # else its end would be handled again and again
        (6, select.POLLIN, ["hub"]),
        (7, select.POLLIN, ["records"]),
        (8, select.POLLIN, ["a call of serving", "watch"]),
        (8, select.POLLIN | select.POLLHUP, ["a call of serving", "watch"]),
        (8, select.POLLHUP, ["without 8", "close 8"]),
    ],
)
def test_what_the_helper_does_when_something_happens(monkeypatch, descriptor, events, expected):
    done = []
    monkeypatch.setattr(os, "close", lambda number: done.append(f"close {number}"))
    answers = SimpleNamespace(
        program_ended=lambda: done.append("ended"), go_on=lambda: done.append("hub"),
        read_records=lambda: done.append("records"), next=lambda listener, phase: done.append(f"a call of {phase}"),
    )  # fmt: skip
    made = SimpleNamespace(
        program=5, _hub=6, _records=7, _listeners={8: "serving"}, _answers=answers, _watch_hub=lambda: done.append("watch"),
        _descriptors=SimpleNamespace(remove=lambda number: done.append(f"without {number}")),
    )  # fmt: skip
    Duty._happened(made, descriptor, events)
    assert (done, made._listeners) == (expected, {} if "close 8" in expected else {8: "serving"})
