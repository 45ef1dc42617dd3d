"""Calls about a task: 0 is the caller itself, and is learned as such."""

from __future__ import annotations

from itertools import permutations

import pytest
from calls import event, parse

from callfence.policygen.evaluate import evaluate
from callfence.policygen.learning.extend import Options
from callfence.policygen.learning.generate import generate
from callfence.policygen.lint.findings import lint
from callfence.policygen.merging import unite
from callfence.policygen.model import ALLOW
from callfence.policygen.recording.fold import FREE_VALUES, Aggregator
from callfence.policygen.recording.model import Observation, Recording, Run
from callfence.policygen.review.why import Origin, provenance
from callfence.tracer.abi import Arch, Event, constants, table

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
    calls = [event("prlimit64", pid, 3) for pid in (0, *range(100, 101 + FREE_VALUES))]
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


RUNS = (
    ("setpgid 0 0", "setpgid 405056 405056"),
    ("setpriority PRIO_PROCESS 0 5", "setpriority PRIO_PROCESS 405056 5"),
    ("sched_setaffinity 0 8", "sched_setaffinity 405056 8"),
    ("sched_setscheduler 0 SCHED_FIFO", "sched_setscheduler 405056 SCHED_FIFO"),
    ("ioprio_set IOPRIO_WHO_PROCESS 0 0", "ioprio_set IOPRIO_WHO_PROCESS 405056 0"),
    ("prlimit64 0 RLIMIT_CORE", "prlimit64 405056 RLIMIT_CORE"),
    ("migrate_pages 0 8", "migrate_pages 405056 8"),
    ("perf_event_open 0 0 -1 -1 0", "perf_event_open 0 405056 -1 -1 0"),
    ("fcntl 3 F_SETSIG SIGIO", "fcntl 3 F_SETOWN 405056"),
    ("fcntl 3 F_SETLEASE F_RDLCK", "fcntl 3 F_SETOWN 405056"),
    ("prctl PR_SET_CHILD_SUBREAPER 1", "prctl PR_SET_PTRACER 405056"),
)


@pytest.mark.parametrize("implied", [0, 1])
@pytest.mark.parametrize("calls", RUNS, ids=lambda one: one[1])
def test_no_run_leaves_a_process_id_in_the_policy_whatever_the_order(calls: tuple[str, str], implied: int) -> None:
    texts = set()
    for runs in permutations((*calls, calls[1].replace("405056", "405078"))):
        document = None
        for call in runs:
            document = generate(observed(event(call)), document, name="app", options=Options(implied=implied)).document
        assert document is not None
        assert "4050" not in document.text()
        texts.add(document.text())
    assert texts == {generate(observed(*map(event, calls)), None, name="app", options=Options(implied=implied)).document.text()}


@pytest.mark.parametrize(
    ("written", "call", "after"),
    [
        ("setpgid: pid == 0 && pgid == 0", "setpgid 4711 4711", "setpgid: allow"),
        ("setpgid: pid == 0 && pgid == 0", "setpgid 4711 0", "setpgid: pgid == 0"),
        ("kill: pid == 0 && sig == SIGUSR1", "kill 4711 SIGUSR1", "kill: sig == SIGUSR1"),
        ("setuid: uid == 33", "setuid 34", "|| uid == 34"),
        ("fcntl: fd == 3 && cmd == F_SETSIG && arg == SIGIO", "fcntl 4 F_SETOWN 4711", "fd == 4 && cmd == F_SETOWN\n"),
    ],
)
def test_what_a_person_narrowed_is_held_unless_it_names_a_task(written: str, call: str, after: str) -> None:
    text = generate(observed(event(call)), parse(written + "\n"), name="app").document.text()
    assert after in text
    assert "4711" not in text


def test_two_policies_merge_without_process_ids() -> None:
    a, b = (
        generate(observed(event(call)), None, name="app", options=Options(implied=1)).document
        for call in ("sched_setaffinity 0 8", "sched_setaffinity 405056 8")
    )
    for one in (unite(a, b), unite(b, a)):
        assert [line for line in one.text().splitlines() if line.startswith("sched_")] == ["sched_setaffinity: allow"]


@pytest.mark.parametrize("implied", [0, 1])
def test_a_rule_for_any_task_was_learned(implied: int) -> None:
    runs = (observed(event("setpgid 0 0")), observed(event("setpgid 4711 4711")))
    document = None
    for run in runs:
        document = generate(run, document, name="app", options=Options(implied=implied)).document
    assert document is not None
    run = Run("a", 0, ("/app",), 0, True)
    seen = sorted((one for each in runs for one in each), key=lambda one: one.order)
    recording = Recording((run,), tuple(seen))
    number = table(ARCH).by_name["setpgid"].number
    assert {one.origin for one in provenance(document, recording, ARCH, number)} == {Origin.LEARNED}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("prlimit64: resource == RLIMIT_STACK", {"limits-of-others"}),
        ("prlimit64: pid == 0", set()),
        ("prlimit64: pid != 1", {"limits-of-others"}),
        ("prlimit64: errno EPERM if pid == 1\n  else allow", {"limits-of-others"}),
        ("prlimit64: errno EPERM if pid != 0\n  else allow", set()),
        ("scope none\nkill: pid > 1", {"signals-outside", "signals-to-others"}),
        ("sched_setaffinity: allow", {"scheduling-of-others"}),
        ("sched_setaffinity: pid == 0", set()),
        ("setpriority: which == PRIO_PROCESS", {"priority-of-others"}),
        ("setpriority: which == PRIO_PROCESS && who == 0", set()),
        ("scope none\nkill: sig == SIGTERM", {"signals-outside", "signals-to-others"}),
        ("kill: pid == 0", set()),
        ("tgkill: sig == SIGUSR1", set()),
        ("scope abstract sockets\ntgkill: allow", {"signals-outside", "signals-to-others-threads"}),
        ("scope none\npidfd_send_signal: allow", {"signals-outside", "signals-to-others-threads"}),
        ("kill: allow\ntgkill: allow\npidfd_send_signal: allow", set()),
        ("scope signals\nkill: allow\ntgkill: allow", set()),
    ],
)
def test_lint_names_other_tasks(text: str, found: set[str]) -> None:
    assert {one.rule for one in lint(parse(f"implied 1\n{text}\n"))} == found
