"""The discovery curve, estimates of the rules not found yet, and arguments that still grow."""

from __future__ import annotations

import pytest
from calls import event

from policygen.completeness.confidence import confidence
from policygen.completeness.discovery import Discovery, Estimate, discovery
from policygen.recording.fold import Folder
from policygen.recording.many import merge
from policygen.recording.model import Recording, Run
from tracer.abi import Arch, Event, table

ARCH = Arch.X86_64
CALLS = table(ARCH)
READ, WRITE, CLOSE, PIPE2, PRCTL, EXIT = (
    CALLS.by_name[name].number for name in ("read", "write", "close", "pipe2", "prctl", "exit")
)
CLOEXEC, NONBLOCK, DIRECT = 0o2000000, 0o4000, 0o40000  # asm-generic/fcntl.h


def recording(*runs: list[Event], warm: tuple[int, ...] = ()) -> Recording:
    parts = []
    for index, events in enumerate(runs):
        folder = Folder()
        for one in events:
            folder.slot("/app", one, str)[0] += 1
        run = Run(f"r{index}", index, ("./app",), 0, True, warm=index in warm)
        parts.append(Recording((run,), folder.observations()))
    return merge(*parts)


def found(*runs: list[Event], warm: tuple[int, ...] = ()) -> Discovery:
    return discovery(recording(*runs, warm=warm))


read, write, close, floor = event(READ), event(WRITE), event(CLOSE), event(EXIT)


def pipe(flags: int) -> Event:
    return event(PIPE2, 0, flags)


def option(value: int) -> Event:
    return event(PRCTL, value)


def test_each_run_has_a_step_with_what_it_brought() -> None:
    steps = found([read, floor], [read], [write, pipe(CLOEXEC)], [pipe(NONBLOCK), close]).steps
    assert [(step.new, step.wider, step.total) for step in steps] == [(1, 0, 1), (0, 0, 1), (2, 0, 3), (1, 1, 4)]
    assert [step.alone for step in steps] == [False, False, True, True]


@pytest.mark.parametrize(
    ("runs", "warm", "alone"),
    [
        ([], (), []),
        ([[read]], (), [None]),
        ([[read], [write]], (), [True, True]),
        ([[read], [write], []], (1,), [None, True, False]),
    ],
)
def test_a_run_left_out_is_judged_only_where_that_is_known(
    runs: list[list[Event]], warm: tuple[int, ...], alone: list[bool | None]
) -> None:
    assert [step.alone for step in found(*runs, warm=warm).steps] == alone


@pytest.mark.parametrize(
    ("runs", "estimate"),
    [
        ([], None),
        ([[read]], None),
        ([[read], [read]], Estimate(0, 0.0, 0.0)),
        # once: write, close; twice: read.  1/2 * 2*1 / (2*2)
        ([[read, write], [read, close]], Estimate(2, 1.0, 0.25)),
        # once: write, close; twice: pipe2.  3/4 * 2*1 / (2*2)
        ([[read, write], [read, pipe(1)], [read, pipe(1)], [read, close]], Estimate(2, 0.5, 0.375)),
    ],
)
def test_estimate(runs: list[list[Event]], estimate: Estimate | None) -> None:
    assert found(*runs).estimate == estimate


def test_a_warm_run_leaves_no_estimate() -> None:
    assert found([read], [write], [], warm=(2,)).estimate is None


def test_left_out_runs_are_the_chance() -> None:
    seen = recording([read, pipe(1)], [pipe(2), write], [pipe(3)], [read, write], [pipe(3), pipe(4)], [write])
    alone = [step.alone for step in discovery(seen).steps]
    assert confidence(seen).chance == alone.count(True) / len(alone)


@pytest.mark.parametrize(
    ("runs", "growing"),
    [
        ([[option(1), option(2)]], []),
        ([[option(1)], [option(1)]], []),
        ([[option(1)], [option(2)]], [("option", 1, 2, 2, 1)]),
        ([[option(1)], [option(2)], [option(1)], [option(2)]], []),  # the first half brought it
        ([[option(1)], [option(2)], [option(1), option(7), option(5)], [option(2)]], [("option", 1, 4, 5, 2)]),
        ([[], [option(1), option(2)]], []),  # a new rule, but no set that grew
        ([[pipe(CLOEXEC)], [pipe(NONBLOCK | CLOEXEC)]], [("flags", 1, 2, NONBLOCK, 1)]),
        ([[pipe(CLOEXEC | NONBLOCK)], [pipe(CLOEXEC)], [pipe(NONBLOCK)]], []),  # bits, not combinations
        ([[pipe(CLOEXEC)], [pipe(DIRECT)], [pipe(0)]], [("flags", 1, 3, 0, 2)]),
        ([[event(READ, 1)], [event(READ, 2)]], []),  # free
        ([[event(5000, 1)], [event(5000, 2)]], []),  # no table has it
    ],
)
def test_arguments_that_still_grow(runs: list[list[Event]], growing: list[tuple[object, ...]]) -> None:
    shown = [(one.argument.name, one.first, one.total, one.newest, one.column) for one in found(*runs).growing]
    assert shown == growing


def test_names_alone_do_not_grow() -> None:
    seen = discovery(recording([option(1)], [option(2)]), names_only=True)
    assert seen.growing == () and [step.total for step in seen.steps] == [1, 1]
