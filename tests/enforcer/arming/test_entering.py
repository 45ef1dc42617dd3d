"""A process that cannot enter its phase: whether it goes on, and what is said of it."""

from __future__ import annotations

import errno
import os
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from callfence.enforcer.arming import entering
from callfence.enforcer.arming.entering import Entrance
from callfence.enforcer.arming.phase_plan import Stage
from callfence.enforcer.arming.processes import Process
from callfence.enforcer.errors import ArmError, GoneError, HeldUpError
from callfence.tracer import linux
from callfence.tracer.errors import KernelError
from callfence.tracer.machine import MACHINE

if TYPE_CHECKING:
    from collections.abc import Callable

CALL = (MACHINE.native.audit, MACHINE.native.number_of("listen"))
PRCTL = (MACHINE.native.audit, MACHINE.native.number_of("prctl"))


class Case:
    """A process at the call that leads to its phase; making calls in it, or installing the filter, raises an error."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, *, at_once: Exception | None = None, put: Exception | None = None, **plan: bool
    ) -> None:
        self.done: list[object] = []
        self.is_confined = False

        def detour(*_: object) -> Any:
            if at_once:
                raise at_once
            finish = self.done.append
            return SimpleNamespace(is_confined=self.is_confined, close=lambda: finish("its call"), finish=finish)

        def installed(_entrance: Entrance, _surgery: object, process: Process, number: int) -> None:
            if put:
                raise put
            process.reached = number

        monkeypatch.setattr(entering, "Detour", detour)
        monkeypatch.setattr(Entrance, "_put", installed)
        monkeypatch.setattr(Entrance, "_entered_phase", lambda *_: 1)
        monkeypatch.setattr(Process, "kill", lambda _process: self.done.append("killed"))
        stages = [Stage("serving", [CALL], b"", is_entered=True)]
        settings: dict[str, bool] = {"is_optional": False, "is_audit": False, **plan}
        self._reader, writer = os.pipe()
        made: Any = SimpleNamespace(stages=stages, key=None, **settings)
        self.entrance = Entrance(made, None, None, None, writer)  # type: ignore[arg-type]
        self.process = Process(7, 0, 1, shares=False)
        self._writer = writer

    def enter(self, call: tuple[int, int] = CALL) -> bool | str:
        try:
            return self.entrance.enter(7, self.process, call, None)  # type: ignore[arg-type]
        except (GoneError, ProcessLookupError) as error:
            return type(error).__name__

    def said(self) -> str:
        os.close(self._writer)
        with os.fdopen(self._reader) as file:
            return file.read()


KILLED = "enforce: process 7 cannot enter its phase and is killed, because {}\n"
GOES_ON = "enforce: process 7 cannot enter its phase and keeps its start-up permissions, because {}\n"
ERRORS = [
    (ArmError("why"), "why"),
    (KernelError("why", "seccomp", errno.EINVAL), "why"),
    (OSError(errno.EIO, "why", "ptrace"), "its memory cannot be read (PR_SET_DUMPABLE)"),
    (OSError(errno.EPERM, "why", "/proc/7/mem"), "its memory cannot be read (PR_SET_DUMPABLE)"),
    (OSError(errno.EMFILE, "why", "/proc/7/mem"), "the helper cannot open another descriptor"),
    (OSError(errno.ENFILE, "why", "/proc/7/mem"), "the helper cannot open another descriptor"),
    (OSError(errno.ENOMEM, "No memory", "mmap"), "mmap: No memory"),
]


@pytest.mark.parametrize(("error", "reason"), ERRORS, ids=[f"{error!r}" for error, _ in ERRORS])
def test_it_is_killed_unless_its_phase_is_optional(monkeypatch: pytest.MonkeyPatch, error: Exception, reason: str) -> None:
    case = Case(monkeypatch, at_once=error)
    assert (case.enter(), case.enter()) == ("GoneError", "GoneError")
    assert (case.done, case.said()) == (["killed"] * 2, KILLED.format(reason))
    for plan in ({"is_optional": True}, {"is_audit": True}):
        case = Case(monkeypatch, at_once=error, **plan)
        assert (case.enter(), case.process.is_stuck, case.process.reached) == (False, True, 0)
        assert (case.done, case.said()) == ([], GOES_ON.format(reason))


@pytest.mark.parametrize(("call", "answer"), [(CALL, "its call"), (PRCTL, -errno.EINVAL)])
def test_it_goes_on_only_without_the_filter(
    monkeypatch: pytest.MonkeyPatch, call: tuple[int, int], answer: object
) -> None:
    case = Case(monkeypatch, put=KernelError("why", "seccomp", errno.EPERM), is_optional=True)
    assert (case.enter(call), case.done, case.said()) == (True, [answer], GOES_ON.format("why"))
    case = Case(monkeypatch, put=KernelError("why", "seccomp", errno.EPERM), is_optional=True)
    case.is_confined = True
    assert (case.enter(call), case.done, case.said()) == ("GoneError", ["killed"], KILLED.format("why"))


@pytest.mark.parametrize(
    ("error", "result", "done", "said"),
    [
        (HeldUpError("why"), "GoneError", ["killed"], KILLED.format("why")),
        (
            GoneError(linux.SIGSYS), "GoneError", ["killed"],
            KILLED.format("a filter of its own kills for a call that enforce makes in it"),
        ),
        (GoneError(linux.SIGKILL), "GoneError", [], ""),
        (ProcessLookupError(errno.ESRCH, "why"), "ProcessLookupError", [], ""),
    ],
)  # fmt: skip
def test_of_one_that_may_have_the_filter_nothing_is_left(
    monkeypatch: pytest.MonkeyPatch, error: Exception, result: str, done: list[str], said: str
) -> None:
    case = Case(monkeypatch, put=error, is_optional=True)
    assert (case.enter(), case.done, case.said()) == (result, done, said)


@pytest.mark.parametrize(("call", "answer"), [(CALL, "its call"), (PRCTL, 0)])
def test_one_that_enters_makes_its_call_once_in_the_phase(
    monkeypatch: pytest.MonkeyPatch, call: tuple[int, int], answer: object
) -> None:
    case = Case(monkeypatch)
    again: Callable[[], bool | str] = case.enter
    assert (case.enter(call), case.done, case.process.reached) == (True, [answer], 1)
    assert (again(), case.done, case.said()) == (False, [answer], "")


@pytest.mark.parametrize(
    ("call", "states", "end"),
    [
        ("mmap", "RDRt", ""),
        ("mprotect", "S", ""),  # it has done its work, or waits for a person
        ("madvise", "R", "another of its threads changes what is mapped, and does not end"),
        ("shmat", "D", "another of its threads changes what is mapped, and does not end"),
        ("seccomp", "RSt", ""),
        ("seccomp", "S", "another of its threads installs a filter, and does not end"),
        ("poll", "R", ""),
    ],
)
def test_nobody_changes_what_is_mapped_while_the_filter_is_installed(
    monkeypatch: pytest.MonkeyPatch, call: str, states: str, end: str
) -> None:
    process, sharing, apart = (Process(pid, 0, 1, shares=False) for pid in (7, 8, 9))
    sharing.memory = process.memory
    inside = dict.fromkeys((7, 8, 9), (MACHINE.native.audit, MACHINE.native.number_of(call)))
    processes: Any = SimpleNamespace(tasks={7: process, 8: sharing, 9: apart}, inside=inside)
    plan: Any = SimpleNamespace(stages=[], key=None)
    entrance, seen = Entrance(plan, processes, None, None, -1), []  # type: ignore[arg-type]

    def state(name: str) -> str:
        assert name.endswith("/8"), "another task has other memory, or is the one that makes our calls"
        seen.append(states[min(len(seen), len(states) - 1)])
        return seen[-1]

    monkeypatch.setattr(entering, "state", state)
    monkeypatch.setattr(entering, "_MAPS", 0.05)
    monkeypatch.setattr(entering, "_SETTLES", 0.05)
    monkeypatch.setattr(entering.time, "sleep", lambda _seconds: None)
    if end:
        with pytest.raises(ArmError, match=end):
            entrance._require_no_change(process, 7)
    else:
        entrance._require_no_change(process, 7)
        assert seen == ([] if call == "poll" else [*states])
