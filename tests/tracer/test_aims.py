"""Which tasks a program has signalled, so that known signals to them need not stop."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import TYPE_CHECKING

from callfence.tracer.abi import NATIVE, Event, table
from callfence.tracer.aims import Aims
from callfence.tracer.task import Task

if TYPE_CHECKING:
    from callfence.tracer.calls import Handler

KILL = table(NATIVE).by_name["kill"].number


def test_targets_are_the_programs_own_tasks_while_they_live() -> None:
    handlers: dict[str, Handler] = {}
    calls = SimpleNamespace(first={}, also_named=lambda name, handler, **_: handlers.setdefault(name, handler))
    sender = Task(os.getpid(), os.getpid())
    tasks = {sender.tid: sender, 1 << 22: Task(1 << 22, 1 << 22), 1 << 23: Task(1 << 23, 1 << 23)}
    found: list[bool] = []
    aims = Aims(tasks, found.append)
    aims.attach(calls)  # type: ignore[arg-type]
    for pid in (1 << 22, 1 << 23, os.getppid(), 0, (1 << 32) - 2, 1 << 24):
        handlers["kill"](sender, Event(NATIVE.audit, KILL, (pid, 0, 0, 0, 0, 0), 0, sender.tid))
    assert found[:3] == [False, False, True]
    assert calls.first[KILL]("/bin/app") == {1 << 22, 1 << 23}
    del tasks[1 << 22]
    assert calls.first[KILL]("/bin/app") == {1 << 23}
    tasks[1 << 22] = Task(1 << 22, 1 << 22)
    assert calls.first[KILL]("/bin/app") == {1 << 23}, "another task, with the same number"
