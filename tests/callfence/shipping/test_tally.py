"""Records become values: each denial once, what is missing, and bounds."""

from __future__ import annotations

import json
from typing import Any

import pytest

from callfence.shipping import tally as module
from callfence.shipping.metrics import (
    ANSWERS,
    DENIALS,
    ENDS,
    LOST,
    METRICS,
    REFUSALS,
    SHIP_CUT,
    SHIP_FORGOTTEN,
    SHIP_RECORDS,
    STARTS,
    WARNINGS,
    Metric,
)
from callfence.shipping.records import parsed
from callfence.shipping.tally import OTHER, UNDESCRIBED, Tally
from tests.callfence.shipping.conftest import line

APP, POLICY = "app.service", "/etc/callfence/app.policy"


def tally_of(*lines: bytes, is_received: bool = False) -> Tally:
    """A tally of lines, which is saved and loaded after each."""
    made = Tally(0)
    for number, text in enumerate(lines):
        made.fold(parsed(text, f"log:{number}", is_received=is_received))
        made = Tally.from_json(json.loads(json.dumps(made.to_json())))
    return made


def values(tally: Tally, metric: Metric) -> dict[tuple[str, ...], float]:
    return {sample.labels: sample.value for sample in tally.samples(1.0, {}) if sample.metric == metric}


def denial(sequence: int, count: int = 1, **fields: Any) -> bytes:
    return line("denied", sequence, count=count, **fields)


def test_a_run_from_its_start_to_its_end() -> None:
    tally = tally_of(
        line("start"), line("message", 2), line("message", 3, level="note"), denial(4), denial(5, 3), line("answered", 6),
        line("end", 7, denied=3),
    )  # fmt: skip
    assert values(tally, STARTS) == {(APP, "enforce"): 1}
    assert values(tally, DENIALS) == {(APP, POLICY, "ptrace", "enforced"): 3}
    assert values(tally, WARNINGS) == {(APP,): 1}
    assert values(tally, ANSWERS) == {(APP, "once"): 1}
    assert values(tally, ENDS) == {(APP, "0"): 1}
    assert values(tally, LOST) == {}
    assert sum(values(tally, SHIP_RECORDS).values()) == 7
    assert tally.to_json()["runs"] == {}
    assert {sample.metric.base: sample.value for sample in tally.samples(5.0, {})}["ship_written_timestamp"] == 5.0


def test_counts_are_of_each_kind_and_run() -> None:
    tally = tally_of(denial(2), denial(3, pid=8), denial(4, 10), denial(5, 2, pid=8), denial(1, run="ffffffff"))
    assert values(tally, DENIALS) == {(APP, POLICY, "ptrace", "enforced"): 10 + 2 + 1}


def test_a_helper_that_takes_over_counts_anew() -> None:
    tally = tally_of(denial(2, 5), denial(1, 1), denial(2, 4), line("end", 3, denied=4, complete=False))
    assert values(tally, DENIALS) == {(APP, POLICY, "ptrace", "enforced"): 5 + 4}
    assert values(tally, LOST) == {}


def test_audited_calls_are_apart() -> None:
    tally = tally_of(line("start", mode="audit"), denial(2, verdict="audited"), line("end", 3, denied=4))
    assert values(tally, DENIALS) == {
        (APP, POLICY, "ptrace", "audit"): 1, (APP, POLICY, UNDESCRIBED, "audit"): 3,
    }  # fmt: skip


def test_what_only_the_end_counts_is_not_described() -> None:
    tally = tally_of(line("start"), denial(2), line("end", 3, denied=100))
    assert values(tally, DENIALS)[APP, POLICY, UNDESCRIBED, "enforced"] == 99
    assert sum(values(tally, DENIALS).values()) == 100


@pytest.mark.parametrize(
    ("numbers", "lost", "expected"),
    [
        ([1, 2, 3], 0, 0), ([1, 3, 4], 0, 1), ([1, 5, 6], 0, 3), ([1, 5, 9], 6, 6), ([1, 2, 3], 4, 4), ([1, 5, 6], 5, 5),
        ([7, 8, 9], 0, 0),
    ],
)  # fmt: skip
def test_missing_records_are_counted_once(numbers: list[int], lost: int, expected: int) -> None:
    """Those that enforce lost have numbers, too; what it says at the end is not added to them."""
    first, second, last = numbers
    tally = tally_of(line("start", first), denial(second), line("end", last, lost=lost))
    assert sum(values(tally, LOST).values()) == expected


def test_refusals_and_endings() -> None:
    ends = [(0, None), (None, "SIGSYS"), (None, None), (None, "SIGRTMIN+3"), (True, None), (700, None), (None, "made up")]
    lines = [line("end", 1, status=status, signal=name, run=f"{run:08x}") for run, (status, name) in enumerate(ends)]
    tally = tally_of(line("refused", status=127), *lines)
    assert values(tally, REFUSALS) == {(APP, "127"): 1}
    assert values(tally, ENDS) == {(APP, "0"): 1, (APP, "SIGSYS"): 1, (APP, "SIGRTMIN"): 1, (APP, "unknown"): 4}


def test_policies_in_use_and_services_under_audit() -> None:
    def start(hour: int, digest: str, mode: str) -> bytes:
        policies = [{"file": "p", "sha256": digest}]
        return line("start", run=f"{hour:08x}", time=f"2026-03-01T{hour:02}:00:00.000+00:00", policies=policies, mode=mode)

    noon = 1772366400.0
    steps = [start(12, "a", "audit"), start(13, "a", "audit"), start(14, "b", "audit"), start(15, "b", "enforce")]
    seen = []
    for number in range(1, 5):
        tally = tally_of(*steps[:number])
        seen.append({
            sample.metric.base: (*sample.labels, sample.value) for sample in tally.samples(0, {})
            if sample.metric.base in ("policy_info", "policy_since_timestamp", "audit_since_timestamp")
        })  # fmt: skip
    a = {"policy_info": ("p", "a", 1), "policy_since_timestamp": ("p", noon), "audit_since_timestamp": (APP, noon)}
    b = {"policy_info": ("p", "b", 1), "policy_since_timestamp": ("p", noon + 7200)}
    assert seen == [a, a, b | {"audit_since_timestamp": (APP, noon)}, b]


def test_series_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RULES", 3)
    monkeypatch.setattr(module, "SERIES", 8)
    ports = [denial(1, ungranted=[f"tcp connect: {port}"], run=f"{port:08x}") for port in range(10)]
    tally = tally_of(*ports)
    assert values(tally, DENIALS) == {
        **{(APP, POLICY, f"tcp connect: {port}", "enforced"): 1 for port in range(3)}, (APP, POLICY, OTHER, "enforced"): 7,
    }  # fmt: skip
    others = [denial(1, unit=f"{name}.service", run=f"1{number:07x}") for number, name in enumerate("abcdefgh")]
    tally = tally_of(*ports, *others)
    assert values(tally, DENIALS)[OTHER, OTHER, OTHER, "enforced"] == 4
    assert sum(values(tally, DENIALS).values()) == 18
    assert len(values(tally, DENIALS)) == 9


def test_names_are_bounded() -> None:
    policy = {"file": "y" * 9000, "sha256": "z" * 9000}
    tally = tally_of(line("start", unit="x" * 9000 + ".service", mode="audit", policies=[policy]))
    assert max(len(label) for sample in tally.samples(0, {}) for label in sample.labels) == 256


def test_runs_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RUNS", 3)
    monkeypatch.setattr(module, "KINDS", 4)
    tally = tally_of(*[line("start", run=f"{run:08x}") for run in range(5)])
    assert (len(tally.to_json()["runs"]), values(tally, SHIP_FORGOTTEN)) == (3, {(): 2})
    tally = tally_of(line("start", run="1" * 8), *[denial(number, pid=number) for number in range(1, 8)])
    assert [*tally.to_json()["runs"]] == ["web1/0123abcd"]
    assert values(tally, SHIP_FORGOTTEN) == {(): 1}


def test_connections_that_ended_with_the_shipper() -> None:
    tally = tally_of(line("start"), line("start", run="1" * 8), line("end", 2, run="1" * 8), is_received=True)
    tally.fold(parsed(line("start", run="2" * 8), "log:1"))
    tally.cut()
    assert values(tally, SHIP_CUT) == {(): 1}
    assert [*tally.to_json()["runs"]] == ["web1/22222222"]


def test_names_are_as_prometheus_has_them() -> None:
    names = [metric.name for metric in METRICS]
    assert len({*names}) == len(names)
    for metric in METRICS:
        assert metric.is_counter == metric.name.endswith("_total")
        assert metric.help.endswith(".")
