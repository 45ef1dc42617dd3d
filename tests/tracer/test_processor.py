"""Which tasks share the tracer's processor.  That programs do not notice it is tested in tests/kernel."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from callfence.tracer import processor
from callfence.tracer.processor import FEW_STOPS_OF_MANY, SharedProcessor
from callfence.tracer.task import Task

ALL, OURS = {0, 1}, {0}
FIRST = 1 << 22
"""Not the tests' own id, as a small one may be in a container: no task has one so large (PID_MAX_LIMIT)."""
SECOND = FIRST + 1


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
    shared, computing, calling = SharedProcessor(), Task(FIRST, FIRST), Task(SECOND, SECOND)
    shared.pin(computing)
    shared.pin(calling)
    assert affinities[FIRST] == affinities[SECOND] == OURS
    busy(computing, FEW_STOPS_OF_MANY - 1)
    busy(calling, FEW_STOPS_OF_MANY)
    shared.tick()
    assert (affinities[FIRST], affinities[SECOND]) == (ALL, OURS)


def test_a_task_whose_children_stop_often_is_not_released(affinities: dict[int, set[int]]) -> None:
    """A shell that loops over short commands makes few calls itself."""
    shared, shell, other = SharedProcessor(), Task(FIRST, FIRST), Task(SECOND, SECOND)
    shared.pin(shell)
    shared.pin(other)
    for tid in (SECOND + 1, SECOND + 2):
        middle = child_of(shell, tid, shared, affinities)
        grandchild = child_of(middle, tid + 10, shared, affinities)
        busy(grandchild, FEW_STOPS_OF_MANY // 2)
        shared.forget(grandchild.tid)
        shared.forget(middle.tid)
    shared.tick()
    assert (affinities[FIRST], affinities[SECOND]) == (OURS, ALL)
    shared.tick()  # what they did counts once
    assert affinities[FIRST] == ALL


def test_the_tracer_gets_its_own_affinity_back_with_the_last_task(affinities: dict[int, set[int]]) -> None:
    shared, task = SharedProcessor(), Task(FIRST, FIRST)
    shared.pin(task)
    tracer = next(tid for tid in affinities if tid != FIRST)
    assert affinities[tracer] == OURS
    shared.tick()
    assert affinities[tracer] == affinities[FIRST] == ALL


def test_a_task_that_was_set_apart_and_what_it_makes_share_again_after_an_execve(affinities: dict[int, set[int]]) -> None:
    """The program that env(1) becomes stops at each call, whatever env did."""
    shared, task = SharedProcessor(), Task(FIRST, FIRST)
    shared.pin(task)
    shared.set_apart(task)
    child = child_of(task, SECOND, shared, affinities)
    for one in (task, child):
        shared.pin(one)
        assert affinities[one.tid] == ALL
        shared.executed(one)
        assert affinities[one.tid] == OURS
