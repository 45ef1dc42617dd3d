"""What is known of the processes that are followed: their phases, what they share, and which tasks they have."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from callfence.enforcer.arming import processes
from callfence.enforcer.arming.processes import Processes
from callfence.tracer import linux
from callfence.tracer.stops import ENDED, TRAP, Stop

if TYPE_CHECKING:
    from collections.abc import Mapping

FORK, VFORK, CLONE = linux.PTRACE_EVENT_FORK, linux.PTRACE_EVENT_VFORK, linux.PTRACE_EVENT_CLONE
CALL, OTHER = (1, 2), (3, 4)


class World:
    """The tasks that /proc has, each with its fields, and the processes that are followed: 3 phases, after one filter."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, at_start: int = 1, counts: bool = True) -> None:
        self.tasks: dict[int, Mapping[str, str]] = {}
        self.shares: bool | None = False
        monkeypatch.setattr(processes, "fields_of", lambda task: self.tasks.get(task, {}))
        monkeypatch.setattr(processes.os.path, "exists", lambda name: name.isdigit() and int(name) in self.tasks)
        monkeypatch.setattr(processes.kernel, "shares_files", lambda _new, _old: self.shares)
        self.all = Processes(3, at_start, counts=counts)

    def has(self, task: int, process: int, parent: int, filters: int | None = None) -> None:
        fields = {"Tgid": str(process), "PPid": str(parent), "TracerPid": "99"}
        self.tasks[task] = fields if filters is None else {**fields, "Seccomp_filters": str(filters)}


@pytest.mark.parametrize(
    ("filters", "settings", "of_parent", "reached"),
    [
        (1, {}, 2, 0),
        (2, {}, 0, 1),
        (4, {}, 0, 3),
        (5, {}, 2, 2),  # more than ours
        (0, {}, 1, 1),
        (None, {}, 1, 1),
        (None, {}, 3, 2),  # it may have been made before
        (3, {"counts": False}, 1, 1),
        (3, {"at_start": -1}, 1, 1),
    ],
)
def test_a_new_process_has_the_phase_of_its_filters_or_of_its_parent(
    monkeypatch: pytest.MonkeyPatch, filters: int | None, settings: dict[str, Any], of_parent: int, reached: int
) -> None:
    world = World(monkeypatch, **settings)
    world.has(10, 10, 1, 1)
    world.has(20, 20, 10, filters)
    world.all.adopt(10).reached = of_parent
    assert world.all.adopt(20).reached == reached
    world.has(30, 30, 1)
    assert world.all.adopt(30).reached == 0, "its parent is not known"


@pytest.mark.parametrize(
    ("event", "flags", "shares", "memory", "files"),
    [
        (FORK, 0, False, False, False),
        (VFORK, 0, False, True, False),
        (CLONE, linux.CLONE_VM, False, True, False),
        (CLONE, linux.CLONE_VM | linux.CLONE_FILES, True, True, True),
        (CLONE, linux.CLONE_FILES, None, False, True),
        (CLONE, linux.CLONE_FILES, False, False, False),  # it has left the table already
        (CLONE, 0, None, False, False),
        (CLONE, 0, True, False, True),
    ],
)
def test_what_a_new_process_shares(
    monkeypatch: pytest.MonkeyPatch, event: int, flags: int, shares: bool | None, memory: bool, files: bool
) -> None:
    world = World(monkeypatch)
    world.shares = shares
    world.has(10, 10, 1, 3)
    world.has(20, 20, 10, 1)
    parent = world.all.adopt(10)
    parent.memory.reached = 2
    world.all.starts(10, CALL)
    world.all.flags[10] = flags
    world.all.started(20, parent, 10, event)
    child = world.all.tasks[20]
    assert (child.memory is parent.memory, child.shares, parent.shares) == (memory, files, files)
    assert (child.is_behind, world.all.behind(parent.memory)) == (memory, [child] if memory else [])


def test_a_thread_is_in_its_process_and_one_that_has_ended_is_not_added(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch)
    world.has(10, 10, 1, 1)
    world.has(11, 10, 1, 1)
    process = world.all.adopt(10)
    world.all.flags[10] = linux.CLONE_VM | linux.CLONE_THREAD | linux.CLONE_FILES
    world.shares = True
    world.all.started(11, process, 10, CLONE)
    world.all.started(12, process, 10, CLONE)
    assert (process.threads, [*world.all.tasks], process.shares) == ({10, 11}, [10, 11], False)
    world.all.forget(10)
    assert (process.threads, world.all.adopt(11)) == ({11}, process)
    world.all.forget(11)
    world.all.forget(11)
    assert world.all.tasks == {}
    assert world.all.adopt(11) is not process


def test_an_execve_leaves_one_thread_with_memory_and_descriptors_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch)
    for task in (10, 11, 12):
        world.has(task, 10, 1, 1)
    made, *_ = [world.all.adopt(task) for task in (10, 11, 12)]
    made.is_starting = made.is_reported = made.is_stuck = made.shares = True
    memory, request = made.memory, SimpleNamespace(is_gone=False)
    world.all.made[12] = request  # type: ignore[assignment]
    world.all.inside.update({11: CALL, 12: CALL})
    world.all.executed(10)
    assert (made.threads, [*world.all.tasks], world.all.inside) == ({10}, [10], {10: (0, 0)})
    assert (made.is_starting, made.is_reported, made.is_stuck, made.shares) == (False,) * 4
    assert (made.memory is memory, request.is_gone, world.all.made) == (False, True, {})


def test_a_task_that_comes_before_its_creators_event_waits_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch)
    for task in (10, 11):
        world.has(task, 10, 1, 1)
        world.all.adopt(task)
        world.all.inside[task] = (*CALL[:1], task)
        world.all.starts(task, world.all.inside[task])
    stops = [Stop(TRAP), Stop(ENDED)]
    for task, stop in zip((20, 21), stops, strict=True):
        world.all.store_early(task, stop)
    assert (world.all.take_orphan(), world.all.take_early(22)) == (None, None)
    world.has(20, 20, 10, 1)
    world.all.started(20, world.all.tasks[10], 10, FORK)
    assert (world.all.take_early(20), world.all.take_early(20)) == (stops[0], None)
    assert world.all.take_orphan() is None, "11 may have started the other"
    world.all.inside[11] = (*CALL[:1], 11)  # another call, by which it starts nothing yet
    assert (world.all.take_orphan(), world.all.take_orphan()) == ((21, stops[1]), None)


@pytest.mark.parametrize("ends", ["forget", "executed"])
@pytest.mark.parametrize(
    ("flags", "shares"),
    [(0, False), (linux.CLONE_VM, True), (linux.CLONE_VM | linux.CLONE_THREAD, False)],
)
def test_a_process_without_a_creator_has_the_memory_that_the_lost_one_gave(
    monkeypatch: pytest.MonkeyPatch, ends: str, flags: int, shares: bool
) -> None:
    world = World(monkeypatch)
    for task in (10, 20, 30, 31):
        world.has(task, task, 1, 1)
    first, creator = world.all.adopt(10), world.all.adopt(20)
    creator.memory = first.memory
    world.all.inside[20] = CALL
    world.all.starts(20, world.all.inside[20], flags)
    getattr(world.all, ends)(20)
    orphan, other = world.all.started_by_nobody(30), world.all.started_by_nobody(31)
    assert (orphan.memory is first.memory, other.memory is orphan.memory) == (shares, shares)
    first.reached = first.memory.reached = 1
    assert (orphan.is_behind, orphan.shares) == (shares, True)
    assert not creator.is_behind or ends == "forget", "what it executes has memory of its own"


def test_a_fork_after_a_clone_gives_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch)
    for task in (10, 20, 30):
        world.has(task, task, 1, 1)
    process = world.all.adopt(10)
    for new, flags in ((20, linux.CLONE_VM), (30, 0)):
        world.all.starts(10, CALL, flags)
        world.all.started(new, process, 10, FORK)
    assert [world.all.tasks[new].memory is process.memory for new in (20, 30)] == [True, False]


def test_tasks_that_vanished_are_forgotten_once_their_process_is_in_its_last_phase(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch)
    for task in (10, 11, 12):
        world.has(task, 10, 1, 1)
        process = world.all.adopt(task)
    request = SimpleNamespace(is_gone=False)
    world.all.made[11] = request  # type: ignore[assignment]
    del world.tasks[11]
    world.tasks[12] = {**world.tasks[12], "TracerPid": "0"}
    world.all.forget_replaced()
    assert process.threads == {10, 11, 12}
    process.reached = 3
    world.all.forget_replaced()
    assert (process.threads, [*world.all.tasks], request.is_gone) == ({10}, [10], True)
