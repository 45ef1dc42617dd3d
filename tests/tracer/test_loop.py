"""The order in which statuses are taken, with a simulated kernel."""

from __future__ import annotations

import os
import signal
from types import SimpleNamespace

import pytest
from fault import Recorder

from callfence.tracer import kernel, loop as module
from callfence.tracer.abi import NATIVE, table
from callfence.tracer.linux import PTRACE_EVENT_CLONE, PTRACE_EVENT_STOP
from callfence.tracer.loop import BATCH, Initial, Loop, Settings
from callfence.tracer.stops import STATUS_SECCOMP, STATUS_SYSCALL
from callfence.tracer.task import Way


def loop_over(monkeypatch, *answers):
    """A loop of two tasks, at its turn to take all that have stopped, whose waitpid gives the answers, then ECHILD."""
    loop = Loop(Recorder())
    loop._taken_singly = BATCH - 1
    for tid in (1 << 22, (1 << 22) + 1):
        loop.family.add(tid, tid)
    left = iter(answers)

    def waitpid(pid, options):
        answer = next(left, None)
        if answer is None:
            raise ChildProcessError
        return answer

    monkeypatch.setattr(os, "waitpid", waitpid)
    return loop


def test_no_status_is_lost_when_the_last_ones_end_at_once(monkeypatch):
    loop = loop_over(monkeypatch, (11, 0), (12, 3))
    assert [loop._next(), loop._next(), loop._next()] == [(11, 0), (12, 3), None]


def test_all_stopped_tasks_get_their_turn_at_intervals(monkeypatch):
    busy = [(11, turn) for turn in range(BATCH - 1)]
    loop = loop_over(monkeypatch, (11, 1), (12, 2), (13, 3), (0, 0), *busy, (11, 4), (12, 5), (0, 0))
    assert [loop._next() for _ in range(3)] == [(11, 1), (12, 2), (13, 3)]
    assert [loop._next() for _ in busy] == busy  # one by one, until it is the turn of all again
    assert [loop._next() for _ in range(2)] == [(11, 4), (12, 5)]


def test_the_initial_status_is_kept(monkeypatch):
    loop = loop_over(monkeypatch, (1 << 22, 3), ((1 << 22) + 1, 0))
    loop.initial = Initial(1 << 22, started=True)
    loop.run()
    assert (loop.initial.status, loop.tasks) == (3, {})


@pytest.mark.parametrize(("signum", "way"), [(signal.SIGSTOP, Way.LISTEN), (signal.SIGTRAP, Way.RUN)])
def test_a_thread_that_is_born_into_a_group_stop_stays_in_it(monkeypatch, signum, way):
    """Its stop may come before the event of the thread that has created it."""
    parent, child = 1 << 22, (1 << 22) + 2
    stopped, created = PTRACE_EVENT_STOP << 16 | signum << 8 | 0x7F, PTRACE_EVENT_CLONE << 16 | signal.SIGTRAP << 8 | 0x7F
    loop = loop_over(monkeypatch, (child, stopped), (parent, created), (parent, 0), (child, 0), (parent + 1, 0))
    loop.initial = Initial(parent, started=True)
    resumed = []
    monkeypatch.setattr(kernel, "event_message", lambda tid: child)
    monkeypatch.setattr(kernel, "is_thread_of", lambda tid, tgid: True)
    monkeypatch.setattr(kernel, "resume", lambda way, tid, signal: resumed.append((tid, way)) or True)
    loop.run()
    assert resumed == [(child, way), (parent, Way.RUN)]


def test_a_stop_that_is_over_is_not_resumed(monkeypatch):
    """Another thread's execve has taken over the tid: the task is not at a call any more, and its own status follows."""
    first, second = 1 << 22, (1 << 22) + 1
    loop = loop_over(monkeypatch, (first, STATUS_SECCOMP), (second, STATUS_SYSCALL), (first, 0), (second, 0))
    resumed = []
    monkeypatch.setattr(kernel.SyscallInfo, "read", lambda info, tid: True)  # PTRACE_SYSCALL_INFO_NONE
    monkeypatch.setattr(kernel, "resume", lambda way, tid, signal: resumed.append(tid) or True)
    loop.run()
    assert resumed == [second]


@pytest.mark.parametrize(
    ("tid", "signum", "delivered"),
    [
        (1 << 22, signal.SIGTERM, {signal.SIGTERM: 77}),
        (1 << 22, signal.SIGCHLD, {}),
        ((1 << 22) + 1, signal.SIGTERM, {}),
        ((1 << 22) + 1, signal.SIGCHLD, {}),
    ],
)
def test_who_sends_the_initial_process_a_signal_is_remembered(monkeypatch, tid, signum, delivered):
    """For the signals that learn gets: those that the program has got by itself are not passed on."""
    loop = loop_over(monkeypatch, (tid, signum << 8 | 0x7F), (1 << 22, 0), ((1 << 22) + 1, 0))
    loop.initial = Initial(1 << 22, started=True)
    resumed = []
    monkeypatch.setattr(kernel, "sender", lambda tid: 77)
    monkeypatch.setattr(kernel, "resume", lambda way, tid, number: resumed.append((tid, number)) or True)
    loop.run()
    assert {number: sender for number, (sender, _) in loop.initial.delivered.items()} == delivered
    assert resumed == [(tid, signum)]


@pytest.mark.parametrize(
    ("budget", "name", "filtered", "asked"),
    [
        (2, "getppid", False, False),
        (1, "getppid", False, False),
        (0, "getppid", False, True),
        (0, "getppid", True, True),
        (2, "prctl", False, True),
        (2, "seccomp", False, True),
        (2, "prctl", True, False),
    ],
)
def test_before_which_calls_a_late_filter_may_come(monkeypatch, budget, name, filtered, asked):
    """Once the process has made its calls, or before a filter of the program, unless one of ours is in force."""
    loop, steps = loop_over(monkeypatch), []
    loop._late = SimpleNamespace(step=lambda task, info: steps.append(task.tid) or True)
    task = loop.tasks[1 << 22]
    task.image.budget, task.filtered, task.counted = budget, filtered, True
    assert loop._make_other_first(task, table(NATIVE).by_name[name].number) == asked
    assert (steps, task.counted, task.image.budget) == ([task.tid] * asked, not asked, budget - 1)


@pytest.mark.parametrize(
    ("from_entry", "tid", "recorded", "entries"),
    [
        (False, 1 << 22, True, {}),
        (True, 1 << 22, False, {1 << 22: "breakpoint"}),
        (False, (1 << 22) + 1, False, {}),
        (True, (1 << 22) + 1, False, {}),
    ],
)
def test_what_is_recorded_from_its_execve_on(monkeypatch, from_entry, tid, recorded, entries):
    """Of the initial process all, or what comes after its entry point; of others what their creators' state says."""
    loop = Loop(Recorder(), Settings(from_entry=from_entry))
    loop.initial = Initial(1 << 22, started=False)
    task = loop.family.add(tid, tid)
    task.recorded = False
    monkeypatch.setattr(kernel, "event_message", lambda tid: tid)
    monkeypatch.setattr(module, "EntryPoint", lambda tid: "breakpoint")
    monkeypatch.setattr(module, "privilege_lost", lambda tid: "")
    loop._executed(task)
    assert (task.recorded, loop._entries, loop.initial.started) == (recorded, entries, tid == 1 << 22)


def test_a_task_that_could_not_be_resumed_is_tried_again_while_others_are_waited_for(monkeypatch):
    loop = loop_over(monkeypatch, (0, 0), (0, 0), (11, 0))
    results, tried, slept = iter([False, True]), [], []
    monkeypatch.setattr(kernel, "resume", lambda way, tid, signum: tried.append((way, tid, signum)) or next(results))
    monkeypatch.setattr(module.time, "sleep", slept.append)
    loop._resume(1 << 22, Way.CALLS, 10)
    loop._unresumed[7] = Way.RUN, 0  # of a task that has ended
    assert loop._next() == (11, 0)
    assert (tried, loop._unresumed, slept) == ([(Way.CALLS, 1 << 22, 10)] * 2, {}, [0.0001, 0.0002])


@pytest.mark.parametrize(
    ("tasks", "strangers", "taken"), [(True, [], (0, 0)), (True, [3], (0, 0)), (False, [3], None), (False, [], (0, 0))]
)
def test_where_nothing_stops_in_time_early_tasks_are_adopted(monkeypatch, tasks, strangers, taken):
    """And where no task is left, only children that were there before, it is the end."""
    loop, adopted = loop_over(monkeypatch, *[(0, 0)] * 9), []
    if not tasks:
        loop.tasks.clear()
    loop._strangers = strangers
    loop.family.early[9] = 19
    clock = iter(range(100))
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock) * module.TIMEOUT)
    monkeypatch.setattr(module.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(loop.family, "adopt", lambda: [(SimpleNamespace(tid=9), 19)])
    monkeypatch.setattr(loop, "_go_on", lambda task, signum: adopted.append((task.tid, signum)))
    assert loop._next() == taken
    assert adopted == [(9, 19)]
