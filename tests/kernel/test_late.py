"""The late filter: known calls run, and what is recorded is what is recorded with every call stopped."""

from __future__ import annotations

import json
import shutil
from collections import Counter

import pytest

CHECKS = (
    "mappings mappings_with_threads small_stacks small_stacks_that_are_watched signals no_room locked_memory forks_of_threads "
    "threads_in_calls other_executable other_executable_of_a_child own_filter registers"
)
THREADED = ("signals", "forks_of_threads", "small_stacks_that_are_watched", "threads_in_calls")
"""Checks in which timing decides what the threads call."""
AFTER = [(), ("--late-after", "0"), ("--late-after", "1"), ("--late-after", "10"), ("--late-after", "50")]
"""After how many calls each process gets its filter; when it is worth it."""


FUTEX, GETPPID, GETPRIORITY, SCHED_YIELD = 202, 110, 140, 24
BY_CHANCE = (FUTEX, SCHED_YIELD)
"""Whether a thread has to wait for another."""


def seen(learned):
    """{(number, executable, what getpriority is asked for): how often}; other arguments, such as pids, differ by chance."""
    counts = Counter()
    for row in map(json.loads, learned.recording.read_text().splitlines()):
        if "arch" in row and row["number"] not in BY_CHANCE:
            which = row["arguments"][0] if row["number"] == GETPRIORITY else None
            counts[row["number"], row["executable"], which] += sum(row["counts"])
    return counts


@pytest.mark.parametrize("check", CHECKS.split())
def test_nothing_is_lost_and_nothing_is_noticed(program, learn, tmp_path, check):
    built = program("late")
    shutil.copy(built, tmp_path / "other")
    every = learn(built, check, tmp_path / "other", options=("-q", "--fresh", "--every-call"))
    assert every.done.returncode == 0, every.done.stderr
    expected, policy = seen(every), every.policy.read_bytes()
    for options in AFTER:
        late = learn(built, check, tmp_path / "other", options=("-q", "--fresh", *options))
        assert late.done.returncode == 0, (options, late.done.stderr)
        found = seen(late)
        assert found.keys() == expected.keys(), options
        if check not in THREADED:
            assert late.policy.read_bytes() == policy, options


def test_known_calls_do_not_stop(program, learn):
    """Each of two loops makes a call 400 times, which stops until the filter has come."""
    built = program("late")
    ways = ("--late-after=60", "--every-call")
    late, every = (seen(learn(built, "registers", options=("-q", "--fresh", way))) for way in ways)
    call = (GETPPID, str(built), None)
    assert every[call] == 800
    assert late[call] <= 60
