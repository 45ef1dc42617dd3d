"""The order in which statuses are taken, with a simulated kernel."""

from __future__ import annotations

import os
import signal
from types import SimpleNamespace

import pytest
from fault import Recorder

from callfence.tracer import kernel
from callfence.tracer.abi import NATIVE, table
from callfence.tracer.linux import PTRACE_EVENT_CLONE, PTRACE_EVENT_STOP
from callfence.tracer.loop import BATCH, Initial, Loop
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
