"""Which tasks share the tracer's processor.  That programs do not notice it is tested in tests/kernel."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from callfence.tracer import processor
from callfence.tracer.processor import FEW_STOPS, FEW_STOPS_OF_MANY, SharedProcessor
from callfence.tracer.task import Task

ALL, OURS = {0, 1}, {0}
A, B, C, D = range(1 << 22, (1 << 22) + 4)
"""Tids above any pid: this thread's own may be small."""


@pytest.fixture
def affinities(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[int, set[int]]]:
    """By tid; all tasks run."""
    found: dict[int, set[int]] = {}

    def change(tid: int, processors: set[int]) -> bool:
        found[tid] = set(processors)
        return True

    monkeypatch.setattr(processor.os, "sched_getaffinity", lambda tid: set(found.get(tid, ALL)))
    monkeypatch.setattr(processor, "_set_affinity", change)
    monkeypatch.setattr(processor, "_current_processor", lambda: 0)
    monkeypatch.setattr(processor, "state_of", lambda tid: "R")
    yield found


def busy(task: Task, stops: int) -> Task:
    task.stops += stops
    return task


def child_of(parent: Task, tid: int, shared: SharedProcessor, affinities: dict[int, set[int]]) -> Task:
    child = parent.child(tid, tid)
    affinities[tid] = set(affinities[parent.tid])
    shared.inherit(parent, child)
    return child


def test_a_task_that_computes_is_released_and_one_that_stops_often_is_not(affinities: dict[int, set[int]]) -> None:
    shared, computing, calling = SharedProcessor(), Task(A, A), Task(B, B)
    shared.pin(computing)
    shared.pin(calling)
    assert affinities[A] == affinities[B] == OURS
    busy(computing, FEW_STOPS_OF_MANY - 1)
    busy(calling, FEW_STOPS_OF_MANY)
    shared.tick()
    assert (affinities[A], affinities[B]) == (ALL, OURS)


def test_a_task_whose_children_stop_often_is_not_released(affinities: dict[int, set[int]]) -> None:
    """A shell that loops over short commands makes few calls itself."""
    shared, shell, other = SharedProcessor(), Task(A, A), Task(B, B)
    shared.pin(shell)
    shared.pin(other)
    for tid in (C, D):
        middle = child_of(shell, tid, shared, affinities)
        grandchild = child_of(middle, tid + 10, shared, affinities)
        busy(grandchild, FEW_STOPS_OF_MANY // 2)
        shared.forget(grandchild.tid)
        shared.forget(middle.tid)
    shared.tick()
    assert (affinities[A], affinities[B]) == (OURS, ALL)
    shared.tick()  # what they did counts once
    assert affinities[A] == ALL


def test_the_tracer_gets_its_own_affinity_back_with_the_last_task(affinities: dict[int, set[int]]) -> None:
    shared, task = SharedProcessor(), Task(A, A)
    shared.pin(task)
    tracer = next(tid for tid in affinities if tid != A)
    assert affinities[tracer] == OURS
    shared.tick()
    assert affinities[tracer] == affinities[A] == ALL


def test_a_task_that_was_set_apart_and_what_it_makes_share_again_after_an_execve(affinities: dict[int, set[int]]) -> None:
    """The program that env(1) becomes stops at each call, whatever env did."""
    shared, task = SharedProcessor(), Task(A, A)
    shared.pin(task)
    shared.set_apart(task)
    child = child_of(task, B, shared, affinities)
    for one in (task, child):
        shared.pin(one)
        assert affinities[one.tid] == ALL
        shared.executed(one)
        assert affinities[one.tid] == OURS


@pytest.mark.parametrize(
    ("facts", "affinity", "pinned"),
    [
        ({"affinity": ALL}, OURS, True),
        ({"affinity": ALL}, ALL, False),
        ({"affinity": None}, OURS, False),
        ({"affinity": ALL, "own_affinity": True}, OURS, False),
        ({"affinity": ALL, "apart": True}, OURS, False),
    ],
)
def test_a_new_task_is_where_its_creator_was_when_it_was_created(
    affinities: dict[int, set[int]], facts: dict[str, Any], affinity: set[int], pinned: bool
) -> None:
    """Of one whose creator has chosen its affinity, or was never moved, the affinity is its own."""
    shared, parent, child = SharedProcessor(), Task(A, A), Task(B, B)
    for name, value in facts.items():
        setattr(parent, name, value)
    affinities[B] = set(affinity)
    shared.inherit(parent, child)
    inherits = facts == {"affinity": ALL}
    assert (child.affinity, shared.in_use) == (ALL if inherits else None, pinned)
    shared.disable()
    assert affinities[B] == (ALL if pinned else affinity)


def test_a_task_that_is_created_once_nothing_is_shared_any_more_gets_its_own_affinity(affinities: dict[int, set[int]]) -> None:
    shared, task = SharedProcessor(), Task(A, A)
    shared.pin(task)
    affinities[B] = set(OURS)
    shared.disable()
    shared.inherit(task, Task(B, B))
    assert (affinities[B], shared.in_use) == (ALL, False)
    shared.pin(Task(C, C))
    assert C not in affinities


@pytest.mark.parametrize(
    ("own", "tracer", "there", "shares"),
    [
        ({0, 1}, {0, 1}, {0}, True),
        ({0}, {0, 1}, {0}, True),
        ({1}, {0, 1}, {1}, False),
        ({0, 1}, {0}, {0, 1}, False),
        ({1, 2, 3}, {1, 2}, {1}, True),
    ],
)
def test_only_a_task_that_may_be_there_is_moved(
    affinities: dict[int, set[int]], own: set[int], tracer: set[int], there: set[int], shares: bool
) -> None:
    """Where this process may use one processor alone, there is nothing to share; it may still be on another."""
    affinities[0], affinities[A] = set(tracer), set(own)
    shared = SharedProcessor()
    shared.pin(Task(A, A))
    assert (affinities[A], shared.in_use) == (there, shares)


@pytest.mark.parametrize(("pinned", "shares"), [([], False), ([A], False), ([B], True), ([A, B], True)])
def test_after_an_execve_of_a_thread_its_process_is_where_that_thread_was(
    affinities: dict[int, set[int]], pinned: list[int], shares: bool
) -> None:
    shared, tasks = SharedProcessor(), {tid: Task(tid, A) for tid in (A, B)}
    for tid in pinned:
        shared.pin(tasks[tid])
    tasks[A].take_over(tasks[B])
    shared.follow(B, tasks[A])
    (tracer,) = affinities.keys() - {A, B} or {0}
    assert (shared.in_use, affinities.get(tracer, ALL)) == (shares, OURS if shares else ALL)
    shared.disable()
    assert affinities.get(tracer, ALL) == ALL and (not shares or affinities[A] == ALL)


def test_with_the_end_of_the_last_task_the_tracer_is_free_again(affinities: dict[int, set[int]]) -> None:
    shared = SharedProcessor()
    shared.pin(Task(A, A))
    (tracer,) = affinities.keys() - {A}
    shared.forget(B)
    assert affinities[tracer] == OURS
    shared.forget(A)
    assert (affinities[tracer], shared.in_use) == (ALL, False)


def test_a_process_of_this_machine() -> None:
    """One that has ended is not moved."""
    own, shared = os.sched_getaffinity(0), SharedProcessor()
    shared.pin(Task(A, A))
    assert not shared.in_use
    with subprocess.Popen(["sleep", "60"]) as process:
        try:
            shared.pin(Task(process.pid, process.pid))
            moved = [os.sched_getaffinity(0), os.sched_getaffinity(process.pid)]
            assert moved == ([{*shared._processor}] * 2 if len(own) > 1 else [own] * 2)
            assert (shared.in_use, shared._processor <= own) == (len(own) > 1, True)
        finally:
            shared.disable()
            back = os.sched_getaffinity(0), os.sched_getaffinity(process.pid)
            process.kill()
    assert back == (own, own)


def test_a_crowd_makes_way_whatever_it_does(affinities: dict[int, set[int]], monkeypatch: pytest.MonkeyPatch) -> None:
    """Of few, one that waits stays; one alone may stop less often than one of several."""
    monkeypatch.setattr(processor, "state_of", lambda tid: "S")
    for count, expected in ((16, OURS), (17, ALL)):
        shared, tasks = SharedProcessor(), [Task(A + number, A + number) for number in range(count)]
        for task in tasks:
            affinities.pop(task.tid, None)
            shared.pin(task)
        shared.tick()
        assert [affinities[task.tid] for task in tasks] == [expected] * count
    monkeypatch.setattr(processor, "state_of", lambda tid: "R")
    for stops, expected in ((FEW_STOPS - 1, ALL), (FEW_STOPS, OURS)):
        shared, task = SharedProcessor(), Task(A, A)
        affinities.pop(A)
        shared.pin(task)
        busy(task, stops)
        shared.tick()
        assert affinities[A] == expected
