"""`learn --pid` of servers: a master whose workers make the calls, and what is said of what is not seen."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest
from calls import number_of

from callfence.policygen.language.document import parse_file
from callfence.policygen.recording import recording_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

LEARN = (sys.executable, "-m", "callfence", "learn")
MASTER = """\
import os, sys
child = os.fork()
for line in sys.stdin.buffer if child else ():
    os.kill(child, 10)  # the worker does the work
    os.write(1, b"asked\\n")
if not child:
    import signal
    signal.pthread_sigmask(signal.SIG_BLOCK, [10])
    os.write(1, b"%d\\n" % os.getpid())
    while True:
        signal.sigwait([10])
        os.mkdir("made")
        os.rmdir("made")
        os.write(1, b"worked\\n")
os.kill(child, 9)
os.wait()
"""
MKDIR = number_of("mkdir")


@pytest.fixture
def master(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A master and its worker, which has begun: the second line is its pid."""
    (tmp_path / "master.py").write_text(MASTER)
    command = [sys.executable, "-S", "master.py"]
    process = subprocess.Popen(
        command, cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0, start_new_session=True
    )
    assert process.stdout is not None
    process.worker = int(process.stdout.readline())  # type: ignore[attr-defined]
    yield process
    process.communicate(timeout=20)


@pytest.fixture
def attached(tmp_path: Path) -> Iterator[Callable[..., tuple[subprocess.Popen[bytes], list[str]]]]:
    """`attached("--pid", pid)`: a learn that says that it has attached, and what it has said until then."""
    started: list[subprocess.Popen[bytes]] = []

    def run(*words: str) -> tuple[subprocess.Popen[bytes], list[str]]:
        started.append(subprocess.Popen([*LEARN, "-o", "a.policy", *words], cwd=tmp_path, stderr=subprocess.PIPE, bufsize=0))
        assert started[-1].stderr is not None
        said = [started[-1].stderr.readline().decode()]
        assert said[0].startswith("learn: attached to "), said
        return started[-1], said

    yield run
    for learner in started:
        learner.kill()
        learner.communicate()


def work(master: subprocess.Popen[bytes]) -> None:
    assert master.stdin and master.stdout
    master.stdin.write(b"go\n")
    assert {master.stdout.readline(), master.stdout.readline()} == {b"asked\n", b"worked\n"}


def let_go(learner: subprocess.Popen[bytes]) -> str:
    learner.send_signal(signal.SIGINT)
    _, errors = learner.communicate(timeout=20)
    assert learner.returncode == 0, errors
    return errors.decode()


def made(folder: Path) -> bool:
    recording = recording_file.load(folder / ".callfence" / "a.rec")
    return any(seen.number == MKDIR for seen in recording.observations)


def test_workers_are_followed_with_tree(
    master: subprocess.Popen[bytes], attached: Callable[..., tuple[subprocess.Popen[bytes], list[str]]], tmp_path: Path
) -> None:
    learner, said = attached("--tree", "--pid", str(master.pid))
    assert f"(pid {master.pid}): 2 processes, 2 threads; ^C detaches" in said[0]
    work(master)
    errors = let_go(learner)
    assert "learn: not traced" not in errors and made(tmp_path)
    work(master)  # they go on


def test_it_is_said_that_workers_are_not_followed(
    master: subprocess.Popen[bytes], attached: Callable[..., tuple[subprocess.Popen[bytes], list[str]]], tmp_path: Path
) -> None:
    learner, _ = attached("--pid", str(master.pid))
    work(master)
    errors = let_go(learner)
    assert errors.startswith("learn: not traced: 1 process that it has started before; --tree traces them too\n")
    assert "processes that were started before learn attached: /" in errors.partition("not observed")[2]
    assert "from its start; to its own exit" in errors.partition("run it next")[2]
    assert not made(tmp_path)


def test_it_is_said_that_others_of_the_program_are_not_followed(
    master: subprocess.Popen[bytes], attached: Callable[..., tuple[subprocess.Popen[bytes], list[str]]]
) -> None:
    """As the workers of a daemon, which are nobody's children: here the master of the worker, in the same session."""
    worker = master.worker  # type: ignore[attr-defined]
    learner, _ = attached("--pid", str(worker))
    time.sleep(1.5)
    errors = let_go(learner)
    assert f"of the same program ({master.pid}" in errors and "; give --pid for each of them to trace them too\n" in errors
    assert re.search(r"calls: 1 in \d+ seconds; perhaps other processes of the program do the work", errors), "it waits again"


@pytest.mark.long
def test_few_calls_are_said(
    master: subprocess.Popen[bytes], attached: Callable[..., tuple[subprocess.Popen[bytes], list[str]]]
) -> None:
    learner, _ = attached("--pid", str(master.worker))  # type: ignore[attr-defined]
    work(master)
    time.sleep(6)
    assert re.search(r"not observed  calls: \d in \d+ seconds; perhaps other processes of the program do", let_go(learner))


def test_several_processes(
    master: subprocess.Popen[bytes], attached: Callable[..., tuple[subprocess.Popen[bytes], list[str]]], tmp_path: Path
) -> None:
    worker = master.worker  # type: ignore[attr-defined]
    learner, said = attached("--pid", str(master.pid), f"--pid={worker}", "--pid", str(worker))
    assert said[0].count("(pid ") == 2 and ": 2 processes, 2 threads" in said[0]
    work(master)
    assert "learn: not traced" not in let_go(learner)
    assert made(tmp_path)


@pytest.mark.long
def test_a_policy_without_a_start_says_so(
    master: subprocess.Popen[bytes], attached: Callable[..., tuple[subprocess.Popen[bytes], list[str]]], tmp_path: Path
) -> None:
    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "callfence", *words]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)

    let_go(attached("--pid", str(master.pid))[0])
    policy = tmp_path / "a.policy"
    assert parse_file(policy).lacks_start
    said = "enforce: a.policy was learned from a process that ran already, so it denies calls that the program's start needs; "
    said += "`learn true` adds them"
    for _ in range(2):  # the second filter is from the cache
        done = run("enforce", "-p", "a.policy", "true")
        assert (done.returncode, done.stderr.startswith(said)) == (-signal.SIGSYS, True)
    assert run("learn", "-q", "-o", "a.policy", "true").returncode == 0
    assert "no start" not in policy.read_text()
    assert (run("enforce", "-p", "a.policy", "true").stderr) == ""
    let_go(attached("--pid", str(master.pid))[0])
    assert not parse_file(policy).lacks_start


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("learn", "--pid", "a.policy"), "'a.policy' is not a process id; --pid takes the id of a running process, and -o a"),
        (("learn", "--pid", "0"), "'0' is not a process id"),
        (("learn", "-p", "1"), "unrecognized arguments: -p; --pid attaches to a process, -o names a policy; see learn --help"),
        (("enforce", "-p", "4194304"), "no program given: -p names a policy, not a process"),
        (("enforce", "-p", "4194304", "true"), "-p (--policy) names a policy, not a process"),
    ],
)
def test_a_process_and_a_policy_are_not_mistaken_for_each_other(words: tuple[str, ...], said: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "callfence", *words], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, said in done.stderr) == (125, True), done.stderr
