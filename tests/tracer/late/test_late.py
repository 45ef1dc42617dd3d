"""When a process gets a late filter, decided without a kernel: what its executable did before, and how it began."""

from __future__ import annotations

from collections import Counter
from mmap import PROT_EXEC, PROT_READ
from types import SimpleNamespace
from typing import Any

import pytest

from callfence.policygen.filter import bpf
from callfence.tracer import kernel
from callfence.tracer.abi import NATIVE, Event, table
from callfence.tracer.late import late as deciding
from callfence.tracer.late.late import COST, LOOK, NEW, Late
from callfence.tracer.linux import PTRACE_EVENT_CLONE, PTRACE_EVENT_FORK, PTRACE_EVENT_VFORK, SECCOMP_RET_ALLOW
from callfence.tracer.task import NEVER, Task


@pytest.fixture
def news() -> Counter[str]:
    """How many observations of each executable were new."""
    return Counter()


@pytest.fixture
def late(news: Counter[str], monkeypatch: pytest.MonkeyPatch) -> Late:
    """Of a program whose processes share no memory."""
    monkeypatch.setattr(kernel, "share_memory", lambda first, second: False)
    unused: Any = SimpleNamespace(also_named=lambda *words, **more: None, executed=lambda task: None)
    tally: Any = SimpleNamespace(news=news)
    return Late({}, tally, unused, unused, unused)


def started(late: Late, tid: int, executable: str = "/bin/app") -> Task:
    """A new process that has executed a file."""
    task = Task(tid, tid)
    late.begin(task)
    task.executable = executable
    late.executed(task, "?")
    return task


@pytest.mark.parametrize(
    ("calls", "new", "executable", "at_once"),
    [
        (64, 1, "/bin/app", True),
        (63, 1, "/bin/app", False),
        (128, 2, "/bin/app", True),
        (1, 0, "/bin/app", True),
        (64, 0, "?", False),
    ],
)
def test_where_the_last_process_brought_hardly_anything_new_the_next_gets_a_filter_at_once(
    late: Late, news: Counter[str], calls: int, new: int, executable: str, at_once: bool
) -> None:
    first = started(late, 7, executable)
    assert first.image.budget == LOOK
    first.stops += calls
    news[executable] += new
    late.dropped(first)
    assert started(late, 8, executable).image.budget == (0 if at_once else LOOK)
    assert started(late, 9, "/bin/other").image.budget == LOOK


def test_what_was_before_an_execve_does_not_count(late: Late, news: Counter[str]) -> None:
    news["/bin/app"] = 5
    task = Task(7, 7)
    task.stops = 1000
    late.begin(task)
    task.executable = "/bin/app"
    late.executed(task, "?")
    news["/bin/app"] += 1
    task.stops += NEW - 1
    late.dropped(task)
    assert started(late, 8).image.budget == LOOK
    news["/bin/app"] += 1
    (again := started(late, 9)).stops += NEW
    late.executed(again, "/bin/app")
    assert started(late, 10).image.budget == 0, "the last one that has ended has settled"


@pytest.mark.parametrize("event", [PTRACE_EVENT_FORK, PTRACE_EVENT_CLONE, PTRACE_EVENT_VFORK])
def test_a_process_that_was_forked_says_nothing_about_its_executable(late: Late, event: int) -> None:
    """Its parent has made the calls of the executable's start."""
    parent, child = started(late, 7), Task(8, 8)
    child.executable = parent.executable
    late.born(parent, child, event)
    assert child.image.budget == (NEVER if event == PTRACE_EVENT_VFORK else LOOK)
    late.dropped(child)
    assert started(late, 9).image.budget == LOOK


def test_a_process_ends_with_its_last_thread(late: Late) -> None:
    first, thread = started(late, 7), Task(8, 7)
    thread.image, thread.executable = first.image, first.executable
    late.born(first, thread, PTRACE_EVENT_CLONE)
    first.stops = NEW
    late.dropped(first)
    assert started(late, 9).image.budget == LOOK
    thread.stops = NEW
    late.dropped(thread)
    assert started(late, 10).image.budget == 0


def test_under_a_filter_of_its_own_a_process_gets_none(late: Late) -> None:
    task = Task(7, 7)
    late.begin(task)
    task.executable, task.other_filter = "/bin/app", True
    late.executed(task, "?")
    assert task.image.budget == NEVER
    child = Task(8, 8)
    child.other_filter = True
    late.born(task, child, PTRACE_EVENT_FORK)
    assert child.image.budget == NEVER


class World:
    """A process that makes one call again and again: how long its calls take, and what they bring."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, after: int | None = None) -> None:
        self.news: Counter[str] = Counter()
        self.now = self.used = 100.0
        self.filters: list[bytes] = []
        self.usual = True
        number = table(NATIVE).by_name["getppid"].number
        self.counts, self.mask = {number: 1}, 0
        tally: Any = SimpleNamespace(
            news=self.news, version=lambda executable: 1, counts=lambda _: self.counts, mask_of=lambda _: self.mask
        )
        self.calls: Any = SimpleNamespace(
            also_named=lambda *words, **more: None, first={}, always=(), zeros={}, writes_run=True, draws=False,
            let_writes_run=lambda: None,
        )
        self.apart: list[int] = []
        processor: Any = SimpleNamespace(
            executed=lambda task: None, enabled=True, set_apart=lambda task: self.apart.append(task.tid)
        )
        entry: Any = SimpleNamespace(
            is_usual=lambda: self.usual, map=lambda size: 4096, call=lambda *words: None,
            install=lambda filter_, area, for_all_threads: self.filters.append(filter_) or 0,
        )  # fmt: skip
        monkeypatch.setattr(kernel, "share_memory", lambda first, second: False)
        monkeypatch.setattr(deciding, "event_of", lambda info, tid: Event(NATIVE.audit, number, (0,) * 6, 0, tid))
        monkeypatch.setattr(deciding, "processor_time", lambda pid: self.used)
        monkeypatch.setattr(deciding.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(deciding.filters, "code_spans", lambda pid: ())
        monkeypatch.setattr(deciding, "Entry", lambda tid, stops: entry)
        self.tasks: dict[int, Task] = {}
        self.late = Late(self.tasks, tally, self.calls, processor, Any, after)  # type: ignore[arg-type]
        self.task = started(self.late, 7)
        self.tasks[7] = self.task

    def calls_until_filter(self, used: float, lasted: float, most: int = 8192) -> int:
        """How many calls it makes before it gets a filter, `most` if none; LOOK calls use and last so many seconds."""
        image, made = self.task.image, 0
        while made < most:
            step, image.budget = image.budget, -1
            made += step
            self.used += used
            self.now += lasted
            if self.late.step(self.task, bytearray()):
                return made
        return most


@pytest.mark.parametrize(
    ("used", "lasted", "starts", "new", "expected"),
    [
        (0, 0, 0, 0, 1024),
        (0.0015, 0.063, 0, 0, 1024),
        (0.0017, 0, 0, 0, 4096),
        (0, 0.065, 0, 0, 4096),
        (0.0017, 0, 32, 0, 256),
        (0.0017, 0, 31, 0, 4096),
        (0, 0, 0, 1, 1024 + 64),
        (0.0017, 0, 0, 1, 4096 + 64),
    ],
)
def test_when_a_process_gets_a_filter(
    monkeypatch: pytest.MonkeyPatch, used: float, lasted: float, starts: int, new: int, expected: int
) -> None:
    world = World(monkeypatch)
    world.task.image.starts = starts
    world.news["/bin/app"] += new
    assert world.calls_until_filter(used, lasted) == expected


def test_a_process_that_brings_something_new_at_each_look_gets_no_filter(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch)
    for _ in range(2 * COST // LOOK):
        world.news["/bin/app"] += 1
        assert world.calls_until_filter(0, 0, LOOK) == LOOK and not world.filters and world.task.image.plan is None


def test_a_process_gets_its_filter_in_three_steps_and_then_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, after=5)
    assert world.calls_until_filter(0, 0) == 5
    assert (world.task.image.plan is not None, world.filters, world.task.covered) == (True, [], False)
    world.usual = False
    assert not world.late.step(world.task, bytearray()) and not world.filters, "at a call that is not repeated as it was"
    world.usual = True
    assert world.late.step(world.task, bytearray())
    assert (len(world.filters), world.task.covered, world.task.pending) == (1, True, True)
    assert world.late.step(world.task, bytearray())
    assert (world.task.image.plan, world.task.image.budget, world.task.pending) == (None, NEVER, False)
    assert not world.late.step(world.task, bytearray()) and len(world.filters) == 1


def test_the_next_process_of_what_has_settled_gets_its_filter_at_its_first_call(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch)
    world.task.stops += NEW
    world.late.dropped(world.task)
    world.task = started(world.late, 8)
    assert world.calls_until_filter(0, 0) == 0 and world.apart == []


@pytest.mark.parametrize(("spans", "runs"), [((), True), (((4096, 8192),), False)])
def test_a_filter_for_some_code_lets_nothing_run_that_may_bring_more(
    monkeypatch: pytest.MonkeyPatch, spans: tuple[tuple[int, int], ...], runs: bool
) -> None:
    world = World(monkeypatch)
    monkeypatch.setattr(deciding.filters, "code_spans", lambda pid: spans)
    calls = {name: table(NATIVE).by_name[name].number for name in ("getppid", "mmap")}
    made = {name: (number, 0, 4096, PROT_READ | PROT_EXEC, 2, 0, 0) for name, number in calls.items()}
    world.counts = {sum(word << 64 * index for index, word in enumerate(words)): 1 for words in made.values()}
    world.mask = (1 << 448) - 1
    world.calls_until_filter(0, 0)
    plan = world.task.image.plan
    assert plan is not None
    events = {name: Event(NATIVE.audit, number, arguments, 0x1800, 7) for name, (number, *arguments) in made.items()}
    answers = {name: bpf.run(plan.filter, event) == SECCOMP_RET_ALLOW for name, event in events.items()}
    assert answers == {"getppid": True, "mmap": runs}


@pytest.mark.parametrize(("shares", "event", "strict"), [(False, PTRACE_EVENT_CLONE, False), (True, PTRACE_EVENT_CLONE, True),
                                                         (True, PTRACE_EVENT_VFORK, False)])  # fmt: skip
def test_filters_are_for_the_code_of_a_process_unless_its_memory_is_anothers(
    monkeypatch: pytest.MonkeyPatch, shares: bool, event: int, strict: bool
) -> None:
    world = World(monkeypatch)
    monkeypatch.setattr(deciding.filters, "code_spans", lambda pid: ((4096, 8192),))
    monkeypatch.setattr(kernel, "share_memory", lambda first, second: shares)
    world.late.born(world.task, Task(8, 8), event)
    world.calls_until_filter(0, 0)
    plan = world.task.image.plan
    assert plan is not None and (plan.code == ()) == strict


def test_a_thread_that_was_found_keeps_its_process_and_a_process_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch)
    late, first, thread, other = world.late, world.task, Task(8, 7), Task(9, 9)
    thread.image = first.image
    late.adopted(thread)
    late.adopted(other)
    assert (thread.image.threads, thread.covered, other.filtered, other.covered) == (2, True, False, False)
    assert other.image.budget == LOOK and not other.image.whole
    late.adopted(alone := Task(11, 10))
    assert (alone.filtered, alone.image.budget) == (False, LOOK), "a thread of which nothing else is known"


@pytest.mark.parametrize("alike", [False, True])
def test_a_child_that_was_forked_while_filters_came_to_all_threads_may_lack_them(
    late: Late, monkeypatch: pytest.MonkeyPatch, alike: bool
) -> None:
    monkeypatch.setattr(deciding, "has_as_many_filters", lambda first, second: alike)
    parent, child = started(late, 7), Task(8, 8)
    child.filtered = child.covered = True
    parent.image.synchronised = True
    late.born(parent, child, PTRACE_EVENT_FORK)
    assert (child.filtered, child.covered) == (alike, alike)


@pytest.mark.parametrize("shares", [False, True])
def test_a_child_has_a_copy_of_what_was_prepared_for_its_parents_filter(monkeypatch: pytest.MonkeyPatch, shares: bool) -> None:
    world, child = World(monkeypatch, after=5), Task(8, 8)
    monkeypatch.setattr(kernel, "share_memory", lambda first, second: shares)
    world.calls_until_filter(0, 0)
    world.late.born(world.task, child, PTRACE_EVENT_CLONE)
    assert (child.pending, child.image.plan is not None, child.image.budget) == (not shares, not shares, 5 if shares else 0)


def test_an_execve_of_a_forked_process_counts_as_a_start_of_its_makers(late: Late) -> None:
    parent = started(late, 7)
    for tid in (8, 9):
        child = Task(tid, tid)
        child.executable = parent.executable
        late.born(parent, child, PTRACE_EVENT_FORK)
        child.executable = "/bin/other"
        late.executed(child, parent.executable)
        late.executed(child, "/bin/other")  # which is its own
        assert child.image.whole and not child.filtered
    assert parent.image.starts == 2


def test_a_process_is_looked_at_after_its_calls_and_not_at_the_last_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop asks at each call that may install a filter, whatever is left."""
    world = World(monkeypatch, after=5)
    world.task.image.budget = 0
    assert not world.late.step(world.task, bytearray()) and world.task.image.plan is None
    assert (world.task.image.budget, world.task.image.calls) == (0, 0)


def plan_of(world: World, calls: dict[str, int]) -> bytes:
    """The filter of a process that has made calls so often; with flags of 0, what opens a file opens it for reading."""
    world.counts = {table(NATIVE).by_name[name].number: count for name, count in calls.items()}
    world.calls_until_filter(0, 0)
    assert world.task.image.plan is not None
    return world.task.image.plan.filter


@pytest.mark.parametrize("name", ["openat", "write"])
@pytest.mark.parametrize(("few", "often"), [(15, True), (16, False)])
def test_what_one_of_sixteen_calls_does_may_run(monkeypatch: pytest.MonkeyPatch, name: str, few: int, often: bool) -> None:
    world = World(monkeypatch)
    let_run: list[bool] = []
    world.calls.let_writes_run = lambda: let_run.append(True)
    world.calls.writes_run, world.calls.draws = False, True
    plan_of(world, {name: 1, "getppid": few})
    assert (world.apart, let_run) == ([7] * (often and name == "openat"), [True] * (often and name == "write"))


@pytest.mark.parametrize(("opens", "apart"), [(16, [8]), (15, [])])
def test_the_next_process_of_what_opens_many_files_is_set_apart_at_once(
    monkeypatch: pytest.MonkeyPatch, opens: int, apart: list[int]
) -> None:
    world = World(monkeypatch)
    number = table(NATIVE).by_name["openat"].number
    world.counts = {number: 2 * opens, table(NATIVE).by_name["getppid"].number: 1 << 16}
    world.task.stops += NEW
    world.late.dropped(world.task)
    world.task = started(world.late, 8)
    assert (world.calls_until_filter(0, 0), world.apart) == (0, apart)


@pytest.mark.parametrize(("registers", "runs"), [(None, True), (frozenset({0}), True), (frozenset(), False)])
def test_of_a_call_whose_first_arguments_matter_those_that_are_known_run(
    monkeypatch: pytest.MonkeyPatch, registers: frozenset[int] | None, runs: bool
) -> None:
    world, (dup, close) = World(monkeypatch), (table(NATIVE).by_name[name].number for name in ("dup", "close"))
    world.calls.first = {dup: lambda executable: registers, close: lambda executable: registers}
    filter_ = plan_of(world, {"dup": 3})
    assert (bpf.run(filter_, Event(NATIVE.audit, dup, (0,) * 6, 0, 7)) == SECCOMP_RET_ALLOW) == runs
    assert {*world.late._executables["/bin/app"].firsts} == {dup}


@pytest.mark.parametrize(("room", "whole"), [(0, True), (1, False)])
def test_all_filters_of_a_task_are_not_too_long(monkeypatch: pytest.MonkeyPatch, room: int, whole: bool) -> None:
    """What is too much stops each call: the kernel would refuse it."""
    weight = deciding.filters.weight(plan_of(World(monkeypatch), {"getppid": 1}))
    world = World(monkeypatch)
    monkeypatch.setattr(deciding.filters, "MAX_WEIGHT", 3 * weight - room)
    for number in range(3):
        filter_ = plan_of(world, {"getppid": 1})
        assert (filter_ == kernel.RECORD_ALL) == (number == 2 and not whole)
        while world.task.image.plan:
            world.late.step(world.task, bytearray())
        world.task.image.budget, world.task.filtered = -1, False
