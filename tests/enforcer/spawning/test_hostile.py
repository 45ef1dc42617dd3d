"""Clients that send something else, are somebody else, or may do less than the spawner."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress

import pytest
from calls import allowing_all

from callfence.tracer.abi import NATIVE, Arch
from tests.enforcer.spawning.conftest import COMMANDS, HERE, ROOT as CHECKOUT

root = pytest.mark.skipif(os.geteuid() != 0, reason="takes root")
MALFORMED = {
    "garbage": "this is no request",
    "zeros": "this is no request",
    "magic": "another version",
    "counts": "other strings than its head says",
    "more counts": "other strings than its head says",
    "no end": "other strings than its head says",
    "too much": "longer than its head says",
    "too long": "that `callfence spawn` takes: shorten the environment",
    "no words": "no program given",
    "no folder": "lacks the descriptor",
    "a file": "lacks the descriptor",
    "three descriptors": "too many descriptors",
    "many descriptors": "too many descriptors",
}
LESS = {
    "fork": "another process than the one that has connected",
    "pass": "another process than the one that has connected",
    "thread": "several threads",
    "traced": "traced by pid",
    "no_new_privs": "no_new_privs",
    "filter": "other seccomp filters",
}
ROOT = {
    "mnt": "another namespace (mnt)",
    "net": "another namespace (net)",
    "ipc": "another namespace (ipc)",
    "uts": "another namespace (uts)",
    "cgroup": "another namespace (cgroup)",
    "user": "another namespace (",
    "domain": "Landlock?",
    "capability": "lacks capabilities",
    "chroot": "another root folder",
    "user after": "other user or group ids",
}


@pytest.mark.long
@pytest.mark.parametrize("what", MALFORMED)
def test_a_malformed_request_is_refused(spawner, what):
    done = spawner.hostile(what)
    assert done.stdout.startswith("125 "), done
    assert MALFORMED[what] in done.stdout
    spawner.works()


@pytest.mark.long
@pytest.mark.parametrize("what", ["nothing", "half a head", "half", "die before", "die after", "exit after"])
def test_a_client_that_ends_leaves_nothing(spawner, what):
    for _ in range(10):
        done = spawner.hostile(what)
        assert done.returncode == {"d": -9, "e": 7}.get(what[0], 0), done
        assert done.stdout == {"exit after": "exits\n"}.get(what, "" if what[0] == "d" else "closed\n")
    spawner.wait_for_helpers()
    spawner.works()


@pytest.mark.parametrize("what", LESS)
def test_a_client_that_is_not_alone_or_confined_is_refused(spawner, what):
    done = spawner.hostile(what)
    assert LESS[what] in done.stdout, done
    assert done.stdout.startswith("125 ")
    spawner.works()


@root
@pytest.mark.parametrize("what", ROOT)
def test_a_client_that_may_do_less_is_refused(spawner, what):
    done = spawner.hostile(what)
    assert ROOT[what] in done.stdout, done
    assert done.stdout.startswith("125 ")
    assert not (spawner.folder / "stolen").exists()
    spawner.works()


@root
@pytest.mark.skipif(NATIVE is not Arch.X86_64, reason="has instructions of x86_64")
def test_who_shares_the_clients_memory_does_not_answer_for_it(spawner, compile_c):
    """The call by which the spawner knows that the client is in its Landlock domain is that call."""
    client = compile_c(HERE / "sibling.c", f"-I{CHECKOUT}/include", "-Wno-unused-function")
    for _ in range(10):
        done = subprocess.run([client, spawner.socket], capture_output=True, text=True, cwd=spawner.folder, timeout=60)
        assert done.returncode == -9 or "Landlock?" in done.stdout, done
        assert not (spawner.folder / "stolen").exists()
    spawner.works()


def test_a_helper_that_connects_and_sends_for_its_program_is_no_client(spawner):
    """Neither it nor the program gets a helper, and it goes on."""
    spawner.policy("default allow\nmkdir: errno EPERM\nudp send: any\n", "sends.policy")
    enforce = (sys.executable, COMMANDS / "callfence", "enforce", "-p", "sends.policy")
    done = spawner.hostile("plain", under=enforce)
    assert done.stdout.startswith("125 "), done
    assert "another process" not in done.stdout, "the helper has sent it"
    spawner.works()


@root
def test_another_user_cannot_connect(spawner):
    assert spawner.hostile("user before").stdout == "permission denied\n"


@root
def test_a_spawner_of_an_unprivileged_user(idle, nobody, shown_path):
    """It serves this user, explains what is denied, and refuses root."""
    folder = nobody.folder / "own"
    folder.mkdir(mode=0o700)
    text = allowing_all("path /: read, execute").replace("\nuname: allow", "")
    (folder / "it.policy").write_text(text)
    for path in (folder, folder / "it.policy"):
        os.chown(path, 65534, 65534)
    nobody.folder.chmod(0o755)
    idle.socket = folder / "socket"
    code = "import sys; from callfence.cli import main; sys.argv[0] = 'callfence'; main(sys.argv[1:])"
    words = [*nobody.python, "-c", code, "spawn", "--socket", idle.socket]
    with subprocess.Popen(words, stderr=subprocess.PIPE, cwd="/") as started:
        try:
            assert b"ready" in started.stderr.readline()
            become = nobody.python[: nobody.python.index("env")]
            done = idle.run("sh", "-c", "echo >here; grep -c arch it.policy && uname", under=become, cwd=folder)
            assert "here: Permission denied" in done.stderr
            assert "enforce: denied uname" in done.stderr
            done = idle.run("true")
            assert (done.returncode, done.stderr) == (125, f"callfence-run: {idle.socket}: another user listens there\n")
            done = idle.hostile("plain")
            assert "another user's" in done.stdout or "another user listens" in done.stderr
        finally:
            started.terminate()


def test_what_another_process_executes_is_not_spawned(spawner):
    """The answer is of no use to it, and the client that has connected ends, or is killed: it has forked."""
    done = spawner.hostile("executed by another")
    assert done.returncode in (0, 125, -9), done
    spawner.wait_for_helpers()
    spawner.works()


def test_a_client_that_forks_after_the_answer_is_killed(spawner):
    """Its child would not be confined."""
    done = spawner.hostile("fork after")
    assert done.stdout == ""
    assert "it started a thread or a process before its execve" in done.stderr
    assert done.returncode == 125
    spawner.wait_for_helpers()


@pytest.mark.long
def test_silent_and_slow_clients_hold_up_nobody(spawner):
    """Each has its own process, which ends."""
    words = [sys.executable, spawner.here / "hostile.py", spawner.socket]
    waiting = [
        subprocess.Popen([*words, what], **spawner.options({"stdout": subprocess.PIPE, "text": True}))
        for what in ("silent", "slow", "silent", "slow", "silent")
    ]
    time.sleep(0.5)
    for _ in range(3):
        spawner.works()
    for started in waiting:
        with started:
            said = started.stdout.read()
            assert "has not sent its request within 10 s" in said or said == "closed\n"
    spawner.wait_until(lambda: len(spawner.processes()) <= 2)


def test_descriptors_of_a_refused_client_are_closed(spawner):
    reader, writer = os.pipe()
    spawner.hostile("garbage", stderr=writer)
    os.close(writer)
    assert os.read(reader, 1) == b""
    os.close(reader)


@pytest.mark.long
def test_no_end_of_the_helper_leaves_a_client_unconfined(spawner):
    """It is killed at each moment of a start: the program is not run, or confined, or killed."""
    spawner.policy(allowing_all().replace("\nuname: allow", ""))
    spawner.works()
    ends = set()
    for number in range(80):
        spawner.wait_until(lambda: not spawner.helpers() and len(spawner.processes()) == 2)
        (helper,) = (pid for pid in spawner.processes() if pid != spawner.process.pid)
        captured = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        with spawner.start("uname", **captured) as started:
            time.sleep(number * 0.0005)
            with suppress(ProcessLookupError):
                os.kill(helper, signal.SIGKILL)
            assert started.stdout.read() == b""
            errors = started.stderr.read()
        assert started.returncode in (125, -signal.SIGKILL, 1)  # 1: denied
        if started.returncode == 125:
            assert errors.startswith(b"callfence-run: "), (number, errors)
        ends.add(started.returncode)
    assert len(ends) > 1, ends
