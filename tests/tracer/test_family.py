"""The bookkeeping of tasks, without a kernel."""

from __future__ import annotations

import signal

import pytest

from callfence.tracer.abi.waits import FORK
from callfence.tracer.family import TaskFamily
from callfence.tracer.task import Way


class Tally:
    has_waits = False

    def turn(self, task, threads=0):
        return

    def forget(self, tid):
        return


class Processor:
    def __init__(self):
        self.told = []

    def inherit(self, parent, child):
        self.told.append(("inherit", parent.tid, child.tid))

    def follow(self, former, task):
        self.told.append(("follow", former, task.tid))

    def forget(self, tid):
        self.told.append(("forget", tid))


@pytest.fixture
def family():
    return TaskFamily(Tally(), Processor())


NOBODY = 1 << 22
"""Above any pid, so that /proc does not have it."""


def test_a_child_takes_over_its_parents_state(family):
    parent = family.add(NOBODY, NOBODY)
    parent.covered = parent.filtered = False
    thread = family.born(NOBODY + 1, parent, is_thread=True)
    process = family.born(NOBODY + 2, thread, is_thread=False)
    assert (thread.tgid, process.tgid) == (NOBODY, NOBODY + 2)
    assert (process.way, process.filtered) == (Way.CALLS, False)
    assert family.processes == 2


def test_what_tasks_make_shares_a_processor_as_they_do():
    """Born twice, as the event and its first stop may say it, it is registered once."""
    processor = Processor()
    family = TaskFamily(Tally(), processor)
    parent = family.add(NOBODY, NOBODY)
    for _ in range(2):
        thread = family.born(NOBODY + 1, parent, is_thread=True)
    family.born(NOBODY + 2, thread, is_thread=False)
    assert processor.told == [("inherit", NOBODY, NOBODY + 1), ("inherit", NOBODY + 1, NOBODY + 2)]


def test_forks_are_counted_where_waits_are_followed(family):
    family._tally.has_waits = True
    parent = family.add(NOBODY, NOBODY)
    parent.entered = 9
    thread = family.born(NOBODY + 1, parent, is_thread=True)
    child = family.born(NOBODY + 2, thread, is_thread=False)
    grandchild = family.born(NOBODY + 3, child, is_thread=False)
    assert [task.entered for task in (thread, child, grandchild)] == [9, FORK + 9, 2 * FORK + 9]
    family.executed(child, former=NOBODY + 2)
    assert child.entered == 9
    for tid in (NOBODY + 3, NOBODY + 1, NOBODY):
        family.drop(tid)
    assert family.waits == {0, 9, FORK + 9, 2 * FORK + 9}


def test_an_adopted_task_is_not_added_again(family):
    parent = family.add(NOBODY, NOBODY)
    family.early[NOBODY + 1] = signal.SIGSTOP
    ((adopted, signum),) = family.adopt()
    assert signum == signal.SIGSTOP
    adopted.stops = 5
    assert not family.early
    assert family.born(NOBODY + 1, parent, is_thread=False) is adopted
    assert family.calls == 5
    assert family.processes == 2


def test_calls_of_the_dead_count(family):
    family.add(NOBODY, NOBODY).stops = 7
    family.drop(NOBODY)
    family.drop(NOBODY)
    assert (family.calls, family.tasks) == (7, {})


def test_an_execve_leaves_one_task_with_the_state_of_the_thread_that_called_it(family):
    leader = family.add(NOBODY, NOBODY)
    threads = [family.born(NOBODY + i, leader, is_thread=True) for i in (1, 2)]
    other = family.born(NOBODY + 3, leader, is_thread=False)
    threads[1].own_affinity, threads[1].stops = True, 4
    threads[1].covered = False
    family.executed(leader, former=NOBODY + 2)
    assert family.tasks == {NOBODY: leader, NOBODY + 3: other}
    assert (leader.way, leader.own_affinity, family.calls) == (Way.CALLS, True, 4)
    assert ("follow", NOBODY + 2, NOBODY) in family._processor.told
    assert other.way is Way.RUN


@pytest.mark.parametrize(
    ("facts", "way"),
    [
        ({}, Way.RUN),
        ({"covered": False}, Way.CALLS),
        ({"other_filter": True}, Way.CALLS),
        ({"exposed": True}, Way.CALLS),
        ({"pending": True}, Way.CALLS),
        ({"filtered": False}, Way.RUN),
        ({"covered": False, "leaving": True}, Way.LEAVE),
    ],
)
def test_what_is_known_of_a_task_decides_how_it_is_resumed(family, facts, way):
    task = family.add(NOBODY, NOBODY)
    vars(task).update(facts)
    assert task.way is way
    vars(task).update(covered=True, other_filter=False, exposed=False, pending=False, leaving=False)
    assert task.way is Way.RUN
