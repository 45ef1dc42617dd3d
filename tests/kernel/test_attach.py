"""`learn --pid PID`: attaches, and leaves the process as it was."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from calls import number_of

from callfence.policygen.recording import recording_file

LEARN = (sys.executable, "-m", "callfence", "learn", "-q")
GETPPID = number_of("getppid")


def status(pid, task=None):
    path = f"/proc/{pid}/task/{task}/status" if task else f"/proc/{pid}/status"
    return dict(line.split(":\t", 1) for line in Path(path).read_text().splitlines())


def until(condition, seconds=10):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def traces(learner, process):
    """Whether all threads are traced; one that ends meanwhile is looked at no more."""
    try:
        return all(status(process, task)["TracerPid"] == str(learner) for task in os.listdir(f"/proc/{process}/task"))
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.fixture
def running(program):
    process = subprocess.Popen(
        [program("attached"), "run", "3"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout.readline() == b"ready\n"
    yield process
    process.kill()
    process.communicate()


@pytest.fixture
def attach(tmp_path):
    started = []

    def run(process):
        learner = subprocess.Popen([*LEARN, "-o", tmp_path / "a.policy", "--pid", str(process.pid)], stderr=subprocess.PIPE)
        started.append(learner)
        until(lambda: traces(learner.pid, process.pid), 30)
        time.sleep(0.3)
        return learner

    yield run
    for learner in started:
        learner.kill()
        learner.communicate()


def is_as_before(process, state="SRD"):
    for task in os.listdir(f"/proc/{process.pid}/task"):
        try:
            found = status(process.pid, task)
        except (FileNotFoundError, ProcessLookupError):  # a thread that has ended meanwhile
            continue
        if found["State"][0] in "ZX":
            continue
        assert found["TracerPid"] == "0"
        assert found["Seccomp"] == "0"
        assert found["NoNewPrivs"] == "0"
        assert found["State"][0] in state


def ends_well(process):
    out, err = process.communicate(b"x", timeout=20)
    assert (process.returncode, out, err) == (0, b"fine\n", b"")


def recorded(folder):
    rows = [json.loads(line) for line in (folder / ".callfence" / "a.rec").read_text().splitlines()]
    return {row["number"] for row in rows if "arch" in row}


@pytest.mark.long
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_learn_detaches(running, attach, tmp_path, signum):
    for _ in range(2):
        learner = attach(running)
        learner.send_signal(signum)
        assert learner.wait(10) == 0, learner.stderr.read()
        is_as_before(running)
    assert GETPPID in recorded(tmp_path)
    ends_well(running)


@pytest.mark.long
def test_learn_follows_until_the_process_ends(running, attach, tmp_path):
    learner = attach(running)
    ends_well(running)
    assert learner.wait(10) == 0, learner.stderr.read()
    assert {GETPPID, number_of("exit_group")} <= recorded(tmp_path)


def test_the_recording_tells_what_the_process_executes(attach, tmp_path):
    process = subprocess.Popen(["/bin/sh", "-c", "read line; env true; exit 3"], stdin=subprocess.PIPE)
    learner = attach(process)
    process.communicate(b"go\n", timeout=20)
    assert (process.returncode, learner.wait(10)) == (3, 3), learner.stderr.read()
    shell, env, true = (os.path.realpath(shutil.which(name)) for name in ("sh", "env", "true"))
    (run,) = recording_file.load(tmp_path / ".callfence" / "a.rec").runs
    assert run.executed == tuple(sorted([("", shell), (shell, env), (env, true)]))


@pytest.mark.long
def test_the_process_survives_a_killed_learn(running, attach, tmp_path):
    learner = attach(running)
    learner.kill()
    learner.wait()
    until(lambda: status(running.pid)["TracerPid"] == "0")
    is_as_before(running)
    ends_well(running)
    assert not (tmp_path / "a.policy").exists()


@pytest.mark.long
def test_a_stopped_process_stays_stopped(running, attach):
    running.send_signal(signal.SIGSTOP)
    until(lambda: status(running.pid)["State"][0] == "T")
    learner = attach(running)
    learner.send_signal(signal.SIGINT)
    assert learner.wait(10) == 0, learner.stderr.read()
    is_as_before(running, "T")
    running.send_signal(signal.SIGCONT)
    ends_well(running)


@pytest.mark.long
def test_the_process_can_be_stopped_and_continued_while_attached(running, attach):
    learner = attach(running)
    running.send_signal(signal.SIGSTOP)
    time.sleep(0.2)
    running.send_signal(signal.SIGCONT)
    time.sleep(0.1)
    running.send_signal(signal.SIGSTOP)
    time.sleep(0.2)
    learner.send_signal(signal.SIGINT)
    assert learner.wait(10) == 0, learner.stderr.read()
    is_as_before(running, "T")
    running.send_signal(signal.SIGCONT)
    ends_well(running)


def test_no_process_to_attach_to(tmp_path):
    done = subprocess.run([*LEARN, "--pid", "4194304"], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (125, "learn: process 4194304 does not exist\n")
