"""What is called at the stops of calls, and in which order; without a kernel."""

from __future__ import annotations

import struct
from types import SimpleNamespace
from typing import Any

from callfence.tracer.abi import COMPAT, NATIVE, Arch, table
from callfence.tracer.calls import Calls
from callfence.tracer.kernel import event_of
from callfence.tracer.task import Task, Way

ERASED, WATCHED = "erased", "watched"


READ = table(NATIVE).by_name["read"].number


def info(name: str) -> bytearray:
    """A struct ptrace_syscall_info of a call."""
    number = table(NATIVE).by_name[name].number
    return bytearray(struct.pack("<4xIQ8xQ6Q", NATIVE.audit, 0, number, *[0] * 6))


def test_a_call_of_32_bits_takes_as_many_of_each_register() -> None:
    """Else what its pointers point to was not learned, where code of 64 bits had made it."""

    def arguments(arch: Arch) -> tuple[int, ...]:
        return event_of(bytearray(struct.pack("<4xIQ8xQ6Q", arch.audit, 0, READ, *[0x5A5A00000007] * 6)), 7).arguments

    assert arguments(COMPAT) == (7,) * 6
    assert arguments(NATIVE) == (0x5A5A00000007,) * 6


def test_a_write_is_still_watched_after_the_line_below_it_was_erased() -> None:
    calls, task = Calls({}, SimpleNamespace(), frozenset(), print), SimpleNamespace(tid=1)  # type: ignore[arg-type]
    called: list[str] = []
    done: Any = called.append
    calls.also_named("write", lambda task, event: done(WATCHED))
    assert calls.before_output(lambda: done(ERASED)) and calls.before_output(lambda: done(ERASED))
    for _ in range(2):
        calls.handle(task, info("write"))  # type: ignore[arg-type]
        calls.handle(task, info("writev"))  # type: ignore[arg-type]
    assert called == [ERASED, WATCHED, WATCHED]
    assert calls.before_output(lambda: done(ERASED))
    calls.let_writes_run()
    assert called[3:] == [ERASED] and not calls.before_output(lambda: done(ERASED))


def watching() -> tuple[Calls, dict[int, Task], list[Any]]:
    """Two threads of the process 7 and the process 8, and what the handler of exits was called with."""
    tasks = {tid: Task(tid, tgid) for tid, tgid in ((7, 7), (9, 7), (8, 8))}
    calls, called = Calls(tasks, SimpleNamespace(), frozenset(), print), []  # type: ignore[arg-type]
    calls.exits[NATIVE.audit, READ] = lambda task, event, result: called.append((task.tid, event.number, result))
    return calls, tasks, called


def test_a_watched_task_stops_at_each_call_until_its_number_is_used_up() -> None:
    calls, tasks, called = watching()
    lapsed: list[int] = []
    calls.lapsed = lambda task: lapsed.append(task.tid)
    task = tasks[7]
    assert task.way is Way.RUN
    calls.watch(task, event_of(info("connect"), 7), 3)
    assert (task.way, tasks[9].way, task.call) == (Way.CALLS, Way.RUN, None)
    for name in ("read", "write"):
        calls.enter(task, info(name))
        calls.leave(task, 5)
    assert called == [(7, READ, 5)]
    calls.enter(task, info("read"))
    assert (task.way, task.call, lapsed) == (Way.RUN, None, [7])


def test_the_call_at_which_the_watch_begins_has_its_exit_handled() -> None:
    calls, tasks, called = watching()
    calls.watch(tasks[7], event_of(info("read"), 7), 3)
    calls.leave(tasks[7], -11)
    calls.leave(tasks[7], 1)
    assert called == [(7, READ, -11)]


def test_the_other_threads_of_a_process_are_watched_with_it() -> None:
    calls, tasks, _ = watching()
    tasks[9].counted = True  # at a filter's stop, after which it runs
    calls.watch(tasks[7], event_of(info("connect"), 7), 3, whole=True)  # no such task can be interrupted
    assert [tasks[tid].way for tid in (7, 9, 8)] == [Way.CALLS, Way.CALLS, Way.RUN]
    assert not tasks[9].counted
    assert tasks[7].child(11, 7).way is Way.CALLS
    calls.unwatch(7)
    assert [tasks[tid].way for tid in (7, 9)] == [Way.RUN, Way.RUN]
