"""The estimate, which is only about what the runs show, and what to run next."""

from __future__ import annotations

import pytest
from calls import event

from callfence.policygen.completeness import Estimate, estimate, run_next
from callfence.policygen.learning.generalise import generalise
from callfence.policygen.recording.fold import Aggregator
from callfence.policygen.recording.many import merge
from callfence.policygen.recording.model import Circumstances, Recording, Run
from callfence.tracer.abi import Arch, Event, table

ARCH = Arch.X86_64
CALLS = table(ARCH)

READ, WRITE, ACCEPT4, SIGRETURN = (CALLS.by_name[name].number for name in ("read", "write", "accept4", "rt_sigreturn"))
CLOEXEC, NONBLOCK = 0o2000000, 0o4000  # asm-generic/fcntl.h


def flagged(flags: int) -> Event:
    return Event(ARCH.audit, ACCEPT4, (3, 0, 0, flags, 0, 0))


def recording(*runs: list[Event], **changes: object) -> Recording:
    parts = []
    for index, events in enumerate(runs):
        aggregator = Aggregator()
        for one in events:
            aggregator.counter("/app", one, str)[0] += 1
        values = {"command": ("./app",), "status": 0, "complete": True} | changes
        parts.append(Recording((Run(f"r{index}", index, **values),), aggregator.observations()))  # type: ignore[arg-type]
    return merge(*parts)


def estimated(*runs: list[Event]) -> Estimate:
    return estimate(recording(*runs))


read, write = event(READ), event(WRITE)


@pytest.mark.parametrize(
    ("runs", "chance", "single"),
    [
        ([], None, ()),
        ([[read]], None, (READ,)),
        ([[read], [read]], 0.0, ()),
        ([[read], [read, write]], 0.5, (WRITE,)),
        ([[read], [write]], 1.0, (READ, WRITE)),
        ([[read, write], [read], [write], [read]], 0.0, ()),
        ([[read], [read], [read], [read, write]], 0.25, (WRITE,)),
        # what a free argument was is nothing new
        ([[event(READ, 1)], [event(READ, 2)]], 0.0, ()),
        # a part of a rule: a single value, a wider union, the same union again
        ([[flagged(CLOEXEC)], [flagged(CLOEXEC)]], 0.0, ()),
        ([[flagged(CLOEXEC)], [flagged(NONBLOCK)]], 1.0, ()),
        ([[flagged(CLOEXEC)], [flagged(NONBLOCK)], [flagged(CLOEXEC), flagged(NONBLOCK)]], 0.0, ()),
        ([[flagged(CLOEXEC)], [flagged(CLOEXEC)], [flagged(0)]], 1 / 3, ()),
        # the floor is there in any case
        ([[read], [read, event(SIGRETURN)]], 0.0, ()),
        # numbers that no table has
        ([[event(5000)], [event(5001)], [event(5001)]], 1 / 3, (5000,)),
    ],
)
def test_estimate(runs: list[list[Event]], chance: float | None, single: tuple[int, ...]) -> None:
    found = estimated(*runs)
    assert found.runs == len(runs)
    assert found.chance == chance
    assert (found.at_most is None) == (chance != 0)
    assert found.single == tuple((ARCH.audit, number) for number in sorted(single))


def test_names_only() -> None:
    runs = recording([flagged(CLOEXEC)], [flagged(NONBLOCK)])
    assert (estimate(runs).chance, estimate(runs, names_only=True).chance) == (1.0, 0.0)


def test_runs_without_news_still_give_a_bound() -> None:
    few, many = estimated(*[[read]] * 2), estimated(*[[read]] * 59)
    assert few.at_most == pytest.approx(0.776, abs=0.001)
    assert many.at_most == pytest.approx(0.05, abs=0.001)


def test_each_run_left_out_agrees_with_learning_without_it() -> None:
    """The share of runs that the policy of the others would not fit, by definition: together they have another policy."""
    runs = [[read, flagged(1)], [flagged(2), write], [flagged(3)], [read, write], [flagged(3), flagged(4)], [write]]
    whole = policy(*runs)
    lonely = sum(policy(*runs[:index], *runs[index + 1 :]) != whole for index in range(len(runs)))
    assert estimated(*runs).chance == lonely / len(runs)


def policy(*runs: list[Event]) -> set[object]:
    observations = recording(*runs).observations
    numbers = {observation.number for observation in observations}
    of_calls = {number: [one for one in observations if one.number == number] for number in numbers}
    return {(number, rule) for number, group in of_calls.items() for rule in generalise(group, CALLS).rules}


@pytest.mark.parametrize(
    ("runs", "warm", "chance", "quiet"),
    [
        ([[read], [write], []], (1,), 1 / 3, None),
        ([[read], [], []], (1, 2), 0.0, 2),
        ([[read], [], [write], []], (1, 2, 3), 0.0, 1),
    ],
)
def test_what_runs_before_a_warm_one_need_is_not_known(
    runs: list[list[Event]], warm: tuple[int, ...], chance: float, quiet: int | None
) -> None:
    seen = recording(*runs)
    seen = Recording(tuple(run._replace(warm=index in warm) for index, run in enumerate(seen.runs)), seen.observations)
    found = estimate(seen)
    assert found.chance == chance
    assert found.at_most == (quiet and 1 - 0.05 ** (1 / quiet))


PIPES = Circumstances("/dev/null", "a pipe", "a pipe", "root", "C.UTF-8")
TERMINAL = Circumstances("a terminal", "a terminal", "a terminal", "user", "C")
OUTPUT = "with its output to"


@pytest.mark.parametrize(
    ("seen", "steps"),
    [
        (Recording(), ()),
        (
            recording([read], circumstances=PIPES),
            (
                "again, on the data that it left",
                "so that it fails",
                "with signals that it handles",
                f"{OUTPUT} a terminal, a file, /dev/null",
                "as another user than root",
                "in another locale",
            ),
        ),
        (
            recording([event(ACCEPT4)], [event(SIGRETURN)], circumstances=TERMINAL, status=1),
            ("with other arguments", "with a peer that hangs up", f"{OUTPUT} a file, a pipe, /dev/null", "in another locale"),
        ),
        (
            recording([event(SIGRETURN)], status=None, complete=False),
            ("from its start", "to its own exit", "again, on the data that it left", "so that it fails"),
        ),
        (recording([event(SIGRETURN)], status=-15), ("to its own exit", "again, on the data that it left", "so that it fails")),
    ],
)
def test_what_to_run_next(seen: Recording, steps: tuple[str, ...]) -> None:
    assert run_next(seen) == steps
