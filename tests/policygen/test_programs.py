"""What a recording shows of who started whom, and what it does not."""

from __future__ import annotations

import pytest

from policygen.fold import Folder
from policygen.programs import Program, programs
from policygen.recording import Recording, Run, merge
from tracer.abi import Arch, Event, table

NAMES = table(Arch.X86_64).by_name
SEEN = dict[str, list[str]]
"""The calls of each executable."""


def recorded(index: int, seen: SEEN, command: str = "./x", *, warm: bool = False, complete: bool = True) -> Recording:
    folder = Folder()
    for executable, calls in seen.items():
        for name in calls:
            folder.slot(executable, Event(Arch.X86_64.audit, NAMES[name].number, (0, 0, 0, 0, 0, 0)), str)[0] += 1
    return Recording((Run(f"r{index}", index, (command,), 0, complete, warm=warm),), folder.observations())


def found(*recordings: Recording) -> dict[str, Program]:
    return {one.executable: one for one in programs(merge(*recordings))}


LEAF, STARTER = ["read"], ["vfork", "execve"]


@pytest.mark.parametrize(
    ("seen", "command", "expected"),
    [
        ({"/a": LEAF}, "script", {"/a": (True, ())}),
        ({"/a": STARTER, "/b": LEAF}, "script", {"/a": (True, ()), "/b": (False, ("/a",))}),
        # by its name
        (
            {"/a": STARTER, "/b": STARTER, "/c": LEAF},
            "./a",
            {"/a": (True, ()), "/b": (False, ("/a",)), "/c": (False, ("/a", "/b"))},
        ),
        # a script, and two that execute: either was first
        (
            {"/a": STARTER, "/b": STARTER, "/c": LEAF},
            "./script",
            {"/a": (None, ()), "/b": (None, ()), "/c": (False, ("/a", "/b"))},
        ),
    ],
)
def test_who_can_have_started_whom(seen: SEEN, command: str, expected: dict[str, tuple[object, ...]]) -> None:
    shown = {name: (one.is_first, one.starters) for name, one in found(recorded(0, seen, command)).items()}
    assert shown == expected


@pytest.mark.parametrize("changes", [{"warm": True}, {"complete": False}])
def test_nothing_is_concluded_from_what_was_not_recorded(changes: dict[str, bool]) -> None:
    shown = found(recorded(0, {"/a": STARTER, "/b": LEAF}, **changes))
    assert [(one.is_first, one.starters) for one in shown.values()] == [(None, ()), (None, ())]


def test_runs_add_up() -> None:
    shown = found(recorded(0, {"/a": STARTER, "/b": LEAF}), recorded(1, {"/a": LEAF}), recorded(2, {"/c": STARTER, "/b": LEAF}))
    assert shown["/a"].runs == (0, 1) and shown["/a"].calls == 3 and shown["/a"].executes == 1
    assert shown["/b"].starters == ("/a", "/c")
    assert shown["/b"].syscalls == {(Arch.X86_64.audit, NAMES["read"].number): 2}
    assert shown["/c"].is_first
