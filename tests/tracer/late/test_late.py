"""When a process gets a late filter, decided without a kernel: what its executable did before, and how it began."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest

from callfence.tracer import kernel
from callfence.tracer.late.late import LOOK, NEW, Late
from callfence.tracer.linux import PTRACE_EVENT_CLONE, PTRACE_EVENT_FORK, PTRACE_EVENT_VFORK
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
        (NEW, 1, "/bin/app", True),
        (NEW - 1, 1, "/bin/app", False),
        (2 * NEW, 2, "/bin/app", True),
        (1, 0, "/bin/app", True),
        (NEW, 0, "?", False),
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
