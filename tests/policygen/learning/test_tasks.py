"""Calls about a task: 0 is the caller itself, and is learned as such."""

from __future__ import annotations

from itertools import permutations
from typing import TYPE_CHECKING

import pytest
from calls import event

from policygen.evaluate import evaluate
from policygen.language.document import parse
from policygen.learning.extend import Options
from policygen.learning.generate import generate
from policygen.lint.findings import lint
from policygen.model import ALLOW
from policygen.recording.fold import EVIDENCE, Aggregator
from tracer.abi import Arch, Event, constants, table

if TYPE_CHECKING:
    from policygen.recording.model import Observation

ARCH = Arch.X86_64
STACK = constants.value("RLIMIT_STACK", ARCH)


def observed(*events: Event) -> tuple[Observation, ...]:
    aggregator = Aggregator()
    for one in events:
        aggregator.counter("/app", one, str)[0] += 1
    return aggregator.observations()


def lines(*events: Event, implied: int = 0) -> list[str]:
    name = next(name for name, call in table(ARCH).by_name.items() if call.number == events[0].number)
    text = generate(observed(*events), None, name="app", options=Options(implied=implied)).document.text()
    return [line for line in text.splitlines() if line.startswith(f"{name}:")]


@pytest.mark.parametrize("implied", [0, 1])
@pytest.mark.parametrize(
    ("seen", "learned"),
    [
        ([event("sched_setaffinity", 0, 8)], ["sched_setaffinity: pid == 0"]),
        ([event("sched_setaffinity", 4711, 8)], ["sched_setaffinity: allow"]),
        ([event("sched_setaffinity", 0, 8), event("sched_setaffinity", 4711, 8)], ["sched_setaffinity: allow"]),
        ([event("setpriority", 0, 0, 5)], ["setpriority: which == PRIO_PROCESS && who == 0"]),
        ([event("prlimit64", 4711, STACK or 0)], ["prlimit64: resource == RLIMIT_STACK"]),
    ],
)
def test_only_a_call_on_itself_is_held_to_that(seen: list[Event], learned: list[str], implied: int) -> None:
    assert lines(*seen, implied=implied) == learned


def test_limits_of_itself_are_implied() -> None:
    assert lines(event("prlimit64", 0, STACK or 0), implied=1) == []
    assert lines(event("prlimit64", 0, STACK or 0)) == ["prlimit64: pid == 0 && resource == RLIMIT_STACK"]


def test_the_caller_is_known_among_many_tasks() -> None:
    calls = [event("prlimit64", pid, 3) for pid in (0, *range(100, 101 + EVIDENCE))]
    for order in (calls, calls[::-1]):
        assert {one.arguments[0] for one in observed(*order)} == {0, None}


@pytest.mark.parametrize("which", ["setpriority", "ioprio_set"])
def test_a_pid_where_a_kind_is_meant_is_any_wrong_kind(which: str) -> None:
    calls = [event(which, pid, 0, 5) for pid in (4242, 4243, -7)]
    texts = {generate(observed(*order), None, name="app").document.text() for order in permutations(calls)}
    assert len(texts) == 1
    policy = parse(texts.pop()).policy
    assert evaluate(policy, event(which, 999, 0, 5)) == ALLOW
    assert evaluate(policy, event(which, 1, 0, 5)) != ALLOW


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("prlimit64: resource == RLIMIT_STACK", {"limits-of-others"}),
        ("prlimit64: pid == 0", set()),
        ("sched_setaffinity: allow", {"scheduling-of-others"}),
        ("sched_setaffinity: pid == 0", set()),
        ("setpriority: which == PRIO_PROCESS", {"priority-of-others"}),
        ("setpriority: which == PRIO_PROCESS && who == 0", set()),
        ("scope none\nkill: sig == SIGTERM", {"signals-outside", "signals-to-others"}),
        ("kill: pid == 0", set()),
        ("tgkill: sig == SIGUSR1", set()),
        ("scope abstract sockets\ntgkill: allow", {"signals-outside", "signals-to-others-threads"}),
        ("kill: allow\ntgkill: allow", set()),
        ("scope signals\nkill: allow\ntgkill: allow", set()),
    ],
)
def test_lint_names_other_tasks(text: str, found: set[str]) -> None:
    assert {one.rule for one in lint(parse(f"implied 1\n{text}\n"))} == found
