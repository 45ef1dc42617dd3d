"""Whom signals reach, where known calls run: a signal to a process of the program that was signalled before does not stop."""

from __future__ import annotations

import json
import os

import pytest
from calls import number_of

from callfence.tracer.abi import NATIVE

KILL, TGKILL, TKILL, GETPGID = map(number_of, ("kill", "tgkill", "tkill", "getpgid"))
PIDS = {KILL: 1, TGKILL: 2, TKILL: 1, GETPGID: 1}
"""How many of a call's first arguments are pids, which differ from run to run."""
ROUNDS = 600
"""How often each of the three calls is made before the one in question."""
FAMILY = "nobody ended_ones a_new_child a_child_by_another_register by_a_child in_a_namespace"
OTHERS = "its_parent its_parent_by_tkill its_parent_by_tgkill the_parent_by_a_child its_group its_parents_group"
WAYS = ("--late-after=0", "--late-after=1", "--late-after=100", "--late-after=400", "--fresh")


def rows(learned):
    return [json.loads(line) for line in learned.recording.read_text().splitlines()]


def seen(learned):
    """The observations, without how often, and without pids."""
    found = set()
    for row in rows(learned):
        if "arch" in row:
            pids = PIDS.get(row["number"], 0)
            arguments = [value is None for value in row["arguments"][:pids]], row["arguments"][pids:]
            found.add((row["arch"], row["number"], row["executable"], json.dumps(arguments)))
    return found


def signalled(learned):
    (found,) = (row["signals"] for row in rows(learned) if "signals" in row)
    return found


@pytest.mark.long
@pytest.mark.parametrize("whom", [*FAMILY.split(), *OTHERS.split()])
def test_it_is_known_whom_a_program_signalled(program, learn, whom):
    if whom == "in_a_namespace" and os.geteuid() != 0:
        pytest.skip("a pid namespace takes root")
    built = program("aims")
    every = learn(built, whom, options=("-q", "--fresh", "--every-call"))
    assert every.done.returncode == 0, every.done.stderr
    expected, policy = seen(every), every.policy.read_bytes()
    assert signalled(every) == ("family" if whom in FAMILY.split() else "others")
    for way in WAYS:
        late = learn(built, whom, options=("-q", "--fresh", way))
        assert late.done.returncode == 0, (way, late.done.stderr)
        assert signalled(late) == signalled(every), way
        assert seen(late) == expected, way
        assert late.policy.read_bytes() == policy, way


@pytest.mark.parametrize("number", [KILL, TGKILL, TKILL])
def test_signals_to_the_same_processes_do_not_stop(program, learn, number):
    calls = learn(program("aims"), "nobody", options=("-q", "--fresh", "--late-after=100")).calls()
    assert calls[NATIVE.audit, number] < 100


def test_a_signal_to_a_process_that_is_newer_than_the_filter_stops(program, learn):
    """Its own number was not known; the other six children get their last signal without a stop."""
    counts = [
        learn(program("aims"), whom, options=("-q", "--fresh", "--late-after=100")).calls()[NATIVE.audit, KILL]
        for whom in ("nobody", "a_new_child")
    ]
    assert counts[1] == counts[0] + 1
