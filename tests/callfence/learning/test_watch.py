"""What learn does beside the program that it watches."""

from __future__ import annotations

import importlib.abc
import os
import re
import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest

import callfence.learning
from callfence.learning import watch
from callfence.learning.options import parse
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
            watch.name_of(ended.pid)
    with pytest.raises(TracerError, match=f"process {ended.pid} does not exist"):
        watch.name_of(ended.pid)
