"""The bound on values of arguments: what is kept, what is given up, and that the work grows no faster than what is seen."""

from __future__ import annotations

import cProfile
import pstats
from collections.abc import Callable, Iterable

import pytest
from calls import event, parse

from callfence.policygen.evaluate import evaluate
from callfence.policygen.learning.generate import generate
from callfence.policygen.learning.within import generate_within
from callfence.policygen.recording.fold import (
    MAX_COMBINATIONS,
    MAX_COMBINATIONS_IN_ALL,
    MAX_NUMBERS,
    Aggregator,
    arguments_given_up,
    bounded,
)
from callfence.policygen.recording.many import merge
from callfence.policygen.recording.model import Observation, Recording, Run
from callfence.tracer.abi import Arch, Event, table

CALLS = table(Arch.X86_64)
SELECTORS = [
    *("ioctl", "fcntl", "prctl", "keyctl", "shmctl", "semctl"),
    *("bpf", "madvise", "ptrace", "msgctl", "seccomp", "membarrier"),
]
"""Calls with one argument that selects what they do."""
PLACE = {name: [one.kind.value for one in CALLS.by_name[name].arguments].index("selector") for name in SELECTORS}


def fold(events: Iterable[Event]) -> tuple[Observation, ...]:
    aggregator = Aggregator()
    for one in events:
        aggregator.counter("/app", one, str)[0] += 1
    return aggregator.observations()


def select(name: str, value: int) -> Event:
    registers = [7, 7, 7, 7, 7, 7]
    registers[PLACE[name]] = value
    return event(name, *registers)


def run_of(events: Iterable[Event], name: str) -> Recording:
    return Recording((Run(name, int(name), ("./app",), 0, True),), fold(events))


KINDS: dict[str, Callable[[int], Event]] = {
    "ioctl": lambda i: event("ioctl", 99, i * 7919 & 0xFFFFFFFF, i),
    "socket": lambda i: event("socket", i & 0xFF, i, i >> 3),
    "number": lambda i: Event(Arch.X86_64.audit, 1_000_000 + i, (i, 0, 0, 0, 0, 0)),
    "fcntl": lambda i: event("fcntl", 99, i & 1023, i),
    "keyctl": lambda i: event("keyctl", i % 37, i * 31, i & 1023, i, i * 17),
    "flags": lambda i: event("openat", -100, 0x7FFF0000, i),
    "protection": lambda i: event("mmap", 0, i, i % 11, i * 7, 3, i),
    "product": lambda i: event("socket", i % 21, i // 21 % 21, i // 441 % 21),
    "many calls": lambda i: select(SELECTORS[i % len(SELECTORS)], 5000 + i // len(SELECTORS)),
}


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_the_work_of_learning_grows_no_faster_than_what_is_seen(kind: str) -> None:
    def work(count: int) -> int:
        profile = cProfile.Profile()
        profile.runcall(lambda: generate(fold(map(KINDS[kind], range(count))), None, name="app"))
        return int(pstats.Stats(profile).total_calls)  # type: ignore[attr-defined]

    work(10)  # reads the tables
    small, large = work(4_000), work(8_000)
    assert large < 2.2 * small
    assert len(fold(map(KINDS[kind], range(8_000)))) <= MAX_COMBINATIONS_IN_ALL


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_all_that_was_seen_is_allowed(kind: str) -> None:
    seen = [*map(KINDS[kind], range(3_000))]
    policy = generate(fold(seen), None, name="app").document.policy
    assert all(evaluate(policy, one).allows for one in seen if one.number in CALLS.by_number)


def test_the_other_arguments_stay_constrained() -> None:
    document = generate(fold(event("socket", 2, i, 6) for i in range(MAX_COMBINATIONS + 1)), None, name="app").document
    (line,) = (line for line in document.text().splitlines() if line.startswith("socket"))
    assert line.split("  # ") == [
        "socket: family == AF_INET && protocol == IPPROTO_TCP",
        "many: any type, for too many values were seen to list them",
    ]


def test_what_a_given_up_argument_selects_is_given_up_too() -> None:
    """Whether fcntl's third argument is flags hangs on the second."""
    seen = fold([event("fcntl 3 F_SETFL", 0x800), *(event("fcntl", 3, i, 0x800) for i in range(100, 101 + MAX_COMBINATIONS))])
    assert {one.arguments[1:] for one in seen} == {(None, None)}


@pytest.mark.long
def test_many_values_of_many_calls_together_have_a_filter() -> None:
    seen = [select(name, 5000 + i) for i in range(MAX_COMBINATIONS) for name in SELECTORS]
    generated = generate(fold(seen), None, name="app")  # raises CompileError if there is none
    assert 0 < len(generated.given_up) < len(SELECTORS)


def test_numbers_that_are_no_call_are_counted_up_to_a_bound() -> None:
    aggregator = Aggregator()
    gaps: list[str] = []
    aggregator.gap = gaps.append  # type: ignore[method-assign]
    for i in range(2 * MAX_NUMBERS):
        aggregator.counter("/app", KINDS["number"](i), str)[0] += 1
    assert len(aggregator) == MAX_NUMBERS
    assert set(gaps) == {f"more than {MAX_NUMBERS} numbers that belong to no call: the others are not recorded"}


def test_runs_that_are_within_the_bound_alone_are_brought_within_it_together() -> None:
    runs = [run_of((KINDS["ioctl"](200 * run + i) for i in range(200)), str(run)) for run in range(5)]
    whole = merge(*runs)
    assert bounded(merge(*runs[:1])) == runs[0]
    less = bounded(whole)
    assert [(one.arguments, one.counts) for one in less.observations] == [((99, None, None), (200,) * 5)]
    assert bounded(less) == less


def test_an_observation_without_registers_has_no_argument_that_was_given_up() -> None:
    (seen,) = fold([event("ioctl", 0, 5, 0)])
    bare = seen._replace(arguments=(None, None, None), example=(0, 0, 0, 0, 0, 0))
    assert not arguments_given_up(bare, CALLS)
    assert arguments_given_up(bare._replace(example=seen.example), CALLS) == {1}


def test_a_call_without_registers_is_not_the_example_of_many() -> None:
    seen = fold(event("ioctl", 0, i, 0) for i in range(MAX_COMBINATIONS + 1))
    assert [arguments_given_up(one, CALLS) for one in seen] == [{1}]


def test_a_baseline_holds_what_it_allows_of_a_given_up_argument() -> None:
    base = parse("callfence 1\narch x86_64\ndefault errno EPERM\nsocket: family != 40\n").policy
    seen = fold(event("socket", i, 1, 0) for i in range(MAX_COMBINATIONS + 1))
    policy = generate_within(seen, None, base, name="app").document.policy
    assert evaluate(policy, event("socket", 2, 1, 0)).allows
    assert not evaluate(policy, event("socket", 40, 1, 0)).allows


def test_a_later_learn_keeps_the_note() -> None:
    first = generate(fold(map(KINDS["ioctl"], range(1000))), None, name="app").document
    later = generate(fold([event("socket", 2, 1, 6)]), first, name="app").document
    assert "ioctl: allow" in later.text()
    assert "# many: any cmd, for too many values were seen to list them" in later.text()
