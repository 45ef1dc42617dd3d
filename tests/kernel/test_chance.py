"""Calls that depend on timing or on addresses are no violation."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from needed import require

ENFORCE = (sys.executable, "-m", "callfence", "enforce")


@pytest.mark.parametrize(("check", "later"), [("left_over", ()), ("look_again", ("slowly",))])
def test_calls_that_depend_on_timing_are_allowed(program, plain, learn, check, later):
    learned = learn(program("chance"), check)
    assert learned.done.returncode == 0, learned.done.stderr
    for _ in range(2):  # the addresses differ
        done = plain(*ENFORCE, "-p", learned.policy, program("chance"), check, *later)
        assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.long
def test_however_threads_and_processes_wait_for_one_another_is_allowed(compile_c, plain, learn):
    require("g++")
    waits = compile_c(Path(__file__).parent / "programs" / "waits.cc", "-pthread", compiler="g++")
    learned = learn(waits)
    assert learned.done.returncode == 0, learned.done.stderr
    for _ in range(30):
        done = plain(*ENFORCE, "-p", learned.policy, waits)
        assert (done.returncode, done.stderr) == (0, b"")
