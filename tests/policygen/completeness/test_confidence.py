"""The estimates: only what the runs show."""

from __future__ import annotations

from functools import partial

import pytest
from calls import event

from policygen.completeness.confidence import Confidence, Unseen, confidence
from policygen.recording.fold import Folder
from policygen.recording.many import merge
from policygen.recording.model import Recording, Run
from tracer.abi import Arch, Event, table

ARCH = Arch.X86_64
CALLS = table(ARCH)

READ, WRITE, ACCEPT4, SIGRETURN = (CALLS.by_name[name].number for name in ("read", "write", "accept4", "rt_sigreturn"))
CLOEXEC, NONBLOCK = 0o2000000, 0o4000  # asm-generic/fcntl.h


def flagged(flags: int) -> Event:
    return Event(ARCH.audit, ACCEPT4, (3, 0, 0, flags, 0, 0))


def recording(*runs: list[Event], **changes: object) -> Recording:
    parts = []
    for index, events in enumerate(runs):
        folder = Folder()
        for one in events:
            folder.slot("/app", one, str)[0] += 1
        values = {"command": ("./app",), "status": 0, "complete": True} | changes
        parts.append(Recording((Run(f"r{index}", index, **values),), folder.observations()))  # type: ignore[arg-type]
    return merge(*parts)


def estimate(*runs: list[Event]) -> Confidence:
    return confidence(recording(*runs))


read, write = event(READ), event(WRITE)


@pytest.mark.parametrize(
    ("runs", "chance", "last", "single"),
    [
        ([], None, None, ()),
        ([[read]], None, 0, (READ,)),
        ([[read], [read]], 0.0, 0, ()),
        ([[read], [read, write]], 0.5, 1, (WRITE,)),
        ([[read], [write]], 1.0, 1, (READ, WRITE)),
        ([[read, write], [read], [write], [read]], 0.0, 0, ()),
        ([[read], [read], [read], [read, write]], 0.25, 3, (WRITE,)),
        # what a free argument was is nothing new
        ([[event(READ, 1)], [event(READ, 2)]], 0.0, 0, ()),
        # a part of a rule: a single value, a wider union, the same union again
        ([[flagged(CLOEXEC)], [flagged(CLOEXEC)]], 0.0, 0, ()),
        ([[flagged(CLOEXEC)], [flagged(NONBLOCK)]], 1.0, 1, ()),
        ([[flagged(CLOEXEC)], [flagged(NONBLOCK)], [flagged(CLOEXEC), flagged(NONBLOCK)]], 0.0, 1, ()),
        ([[flagged(CLOEXEC)], [flagged(CLOEXEC)], [flagged(0)]], 1 / 3, 2, ()),
        # the floor is there in any case
        ([[read], [read, event(SIGRETURN)]], 0.0, 0, ()),
        # numbers that no table has
        ([[event(5000)], [event(5001)], [event(5001)]], 1 / 3, 1, (5000,)),
    ],
)
def test_estimate(runs: list[list[Event]], chance: float | None, last: int | None, single: tuple[int, ...]) -> None:
    found = estimate(*runs)
    assert found.runs == len(runs)
    assert found.chance == chance
    assert (found.at_most is None) == (chance != 0)
    assert (found.last_new and found.last_new.id) == (None if last is None else f"r{last}")
    assert found.single == tuple((ARCH.audit, number) for number in sorted(single))


def test_names_only() -> None:
    runs = recording([flagged(CLOEXEC)], [flagged(NONBLOCK)])
    assert (confidence(runs).chance, confidence(runs, names_only=True).chance) == (1.0, 0.0)


def test_runs_without_news_still_give_a_bound() -> None:
    few, many = estimate(*[[read]] * 2), estimate(*[[read]] * 59)
    assert few.at_most == pytest.approx(0.776, abs=0.001)
    assert many.at_most == pytest.approx(0.05, abs=0.001)


def test_each_run_left_out_agrees_with_learning_without_it() -> None:
    """The share of runs that the policy of the others would not fit, by definition."""
    runs = [[read, flagged(1)], [flagged(2), write], [flagged(3)], [read, write], [flagged(3), flagged(4)], [write]]
    found = estimate(*runs)
    lonely = 0
    for index in range(len(runs)):
        others = estimate(*runs[:index], *runs[index + 1 :], runs[index])
        lonely += others.last_new is not None and others.last_new.id == f"r{len(runs) - 1}"
    assert found.chance == lonely / len(runs)


UNSEEN = partial(recording, [read])


@pytest.mark.parametrize(
    ("seen", "missing"),
    [
        (UNSEEN(), [Unseen.SIGNAL, Unseen.FAILURE]),
        (recording([event(SIGRETURN)]), [Unseen.FAILURE]),
        (UNSEEN(status=1), [Unseen.SIGNAL]),
        (UNSEEN(status=-15), [Unseen.SIGNAL, Unseen.SHUTDOWN, Unseen.FAILURE]),
        (UNSEEN(status=None, complete=False), [Unseen.START, Unseen.SIGNAL, Unseen.SHUTDOWN, Unseen.FAILURE]),
        (recording([read], [read]), [Unseen.SIGNAL, Unseen.FAILURE, Unseen.VARIETY]),
    ],
)
def test_what_was_not_exercised(seen: Recording, missing: list[Unseen]) -> None:
    assert list(confidence(seen).unseen) == missing
