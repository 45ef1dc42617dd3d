"""What is called at the stops of calls, and in which order; without a kernel."""

from __future__ import annotations

import struct
from types import SimpleNamespace
from typing import Any

from tracer.abi import Arch, table
from tracer.calls import Calls

ERASED, WATCHED = "erased", "watched"


def info(name: str) -> bytearray:
    """A struct ptrace_syscall_info of a call of x86_64."""
    number = table(Arch.X86_64).by_name[name].number
    return bytearray(struct.pack("<4xIQ8xQ6Q", Arch.X86_64.audit, 0, number, *[0] * 6))


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
