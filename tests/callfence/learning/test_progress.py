"""What `learn` says while a program runs."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest

from callfence.learning.progress import Attached, plain_lines, progress


def loop(processes: int, calls: int) -> Any:
    return SimpleNamespace(family=SimpleNamespace(processes=processes, calls=calls))


def test_without_a_terminal_a_line_is_printed_every_ten_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    now = [100.0]
    tick = plain_lines(lambda: 7, 100.0, lambda: now[0])
    for seconds, processes, calls in ((9.9, 1, 1), (10, 1, 1), (19.9, 2, 12345), (20.4, 2, 12345)):
        now[0] = 100 + seconds
        tick(loop(processes, calls))
    assert capsys.readouterr().err.splitlines() == [
        "learn: learning  10 s  1 process  1 call  7 distinct",
        "learn: learning  20 s  2 processes  12,345 calls  7 distinct",
    ]


@pytest.mark.parametrize(("options", "lines"), [({"quiet": True}, 0), ({"quiet": False}, 0), ({"plainly": True}, 1)])
def test_it_is_printed_only_if_it_is_asked_for(
    options: dict[str, bool], lines: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("callfence.learning.progress.PLAIN_REFRESH", 0.0)
    with progress(lambda: 7, **({"quiet": False, "warm": False} | options)) as tick:
        tick(loop(1, 1))
    assert len(capsys.readouterr().err.splitlines()) == lines


@pytest.mark.parametrize(
    ("calls", "gap"),
    [
        (0, "calls: none was made while learn was attached; perhaps other processes of the program do the work"),
        (9, "calls: 9 in 10 seconds; perhaps other processes of the program do the work"),
        (11, ""),
    ],
)
def test_few_calls_of_attached_processes_are_a_gap(calls: int, gap: str, monkeypatch: pytest.MonkeyPatch) -> None:
    gaps: list[str] = []
    attached = Attached(SimpleNamespace(pids=(), quiet=True, tree=True), gaps.append)  # type: ignore[arg-type]
    began = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: began)
    attached.begin(SimpleNamespace(tasks={}, family=SimpleNamespace(processes=0)))  # type: ignore[arg-type]
    monkeypatch.setattr(time, "monotonic", lambda: began + 10)
    attached.end(SimpleNamespace(calls=calls))  # type: ignore[arg-type]
    assert gaps == [gap] * bool(gap)
