"""What learn does beside the program that it watches."""

from __future__ import annotations

import importlib.abc
import os
import re
import signal
import subprocess
import sys
import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest

import callfence.learning
from callfence.learning import watch
from callfence.learning.options import parse
from callfence.learning.progress import Attached, _similar, plain_lines, progress
from callfence.tracer.errors import TracerError


class Slow(importlib.abc.MetaPathFinder):
    """Finds a module when `found` is set."""

    def __init__(self, name):
        self.name, self.found = name, threading.Event()

    def find_spec(self, fullname, path=None, target=None):
        if fullname == self.name:
            self.found.wait(60)


def test_no_import_goes_on_when_the_program_has_ended(monkeypatch):
    """^C is no longer the program's then, and raises KeyboardInterrupt wherever learn is: between two threads that import,
    it may leave a lock of the imports held for ever."""
    monkeypatch.delitem(sys.modules, "callfence.learning.summary", raising=False)
    monkeypatch.delattr(callfence.learning, "summary", raising=False)  # where another test has imported it
    slow = Slow("callfence.learning.summary")
    monkeypatch.setattr(sys, "meta_path", [slow, *sys.meta_path])
    before = set(threading.enumerate())
    with watch._importing(lambda loop: None, ["an observation"], SimpleNamespace(options=parse(["-q", "true"]))) as tick:
        tick(None)
        importing = set(threading.enumerate()) - before
        assert importing
        threading.Timer(0.5, slow.found.set).start()
    assert not any(thread.is_alive() for thread in importing)


def test_it_names_the_processes_for_which_it_goes_on(tmp_path):
    words = [sys.executable, "-m", "callfence", "learn", "-o", "it.policy", "sh", "-c", "for n in 1 2 3 4; do sleep 1 & done"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=30, check=False)
    left = r"still learning what it left running: (sleep|dash|sh) \(pid \d+\), .* and 1 more \(\^C ends them\)"
    assert re.search(left, done.stderr)


def test_a_process_without_a_program_is_not_said_to_be_missing():
    """It has ended, and its parent has not waited for it."""
    with subprocess.Popen(["true"]) as ended:
        os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
        with pytest.raises(TracerError, match=f"process {ended.pid} has no program"):
            watch.executable_of(ended.pid)
    with pytest.raises(TracerError, match=f"process {ended.pid} does not exist"):
        watch.executable_of(ended.pid)


def loop(processes: int, calls: int) -> Any:
    return SimpleNamespace(family=SimpleNamespace(processes=processes, calls=calls))


def test_without_a_terminal_a_line_is_printed_every_ten_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    now = [100.0]
    tick = plain_lines(lambda: 7, 100.0, lambda: now[0])
    for seconds, processes, calls in ((9.9, 1, 1), (10, 1, 1), (19.9, 2, 12345), (20.4, 2, 12345)):
        now[0] = 100 + seconds
        tick(loop(processes, calls))
    assert capsys.readouterr().err.splitlines() == [
        "learn: learning  10 s  1 process  1 call  7 distinct",
        "learn: learning  20 s  2 processes  12,345 calls  7 distinct",
    ]


@pytest.mark.parametrize(("options", "lines"), [({"quiet": True}, 0), ({"quiet": False}, 0), ({"plainly": True}, 1)])
def test_it_is_printed_only_if_it_is_asked_for(
    options: dict[str, bool], lines: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("callfence.learning.progress.PLAIN_REFRESH", 0.0)
    with progress(lambda: 7, **({"quiet": False, "warm": False} | options)) as tick:
        tick(loop(1, 1))
    assert len(capsys.readouterr().err.splitlines()) == lines


@pytest.mark.parametrize(
    ("calls", "gap"),
    [
        (0, "calls: none was made while learn was attached; perhaps other processes of the program do the work"),
        (9, "calls: 9 in 10 seconds; perhaps other processes of the program do the work"),
        (11, ""),
    ],
)
def test_few_calls_of_attached_processes_are_a_gap(calls: int, gap: str, monkeypatch: pytest.MonkeyPatch) -> None:
    gaps: list[str] = []
    attached = Attached(SimpleNamespace(pids=(), quiet=True, tree=True), gaps.append)  # type: ignore[arg-type]
    began = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: began)
    attached.begin(SimpleNamespace(tasks={}, family=SimpleNamespace(processes=0)))  # type: ignore[arg-type]
    monkeypatch.setattr(time, "monotonic", lambda: began + 10)
    attached.end(SimpleNamespace(calls=calls))  # type: ignore[arg-type]
    assert gaps == [gap] * bool(gap)


def test_other_processes_of_the_same_program_are_those_of_its_session() -> None:
    """Two that sleep and one that reads, in a session of their own; another one that sleeps is in this session."""
    shell = ("sh", "-c", "sleep 60 & echo $!; sleep 60 & echo $!; cat")
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(shell, start_new_session=True, **pipes) as session, subprocess.Popen(["sleep", "60"]) as here:
        assert session.stdin and session.stdout
        first, second = int(session.stdout.readline()), int(session.stdout.readline())
        try:
            for pid in (first, second, here.pid):
                while not os.readlink(f"/proc/{pid}/exe").endswith("sleep"):
                    time.sleep(0.01)
            assert _similar((first,), {first}) == [second]
            assert _similar((first,), {first, second}) == _similar((here.pid,), {here.pid}) == []
        finally:
            here.kill()
            os.killpg(session.pid, signal.SIGKILL)
