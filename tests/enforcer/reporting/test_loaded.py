"""What judges and reports fails: the call does not run, and it is said that a report may be missing."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from callfence.enforcer.reporting import loaded
from callfence.enforcer.reporting.asker import ALWAYS, NO, ONCE, RUN
from callfence.enforcer.reporting.loaded import Loaded


def fails(*_: object) -> Any:
    raise RuntimeError("why")


def made(monkeypatch: pytest.MonkeyPatch, said: list[str], **parts: Any) -> Loaded:
    reporting: Any = SimpleNamespace(complain=said.append, reach=None, asking=-1, hosts=None)
    monkeypatch.setattr(Loaded, "_load", lambda _self: (parts.get("verdicts"), parts.get("reports")))
    return Loaded(reporting, None, 1)  # type: ignore[arg-type]


@pytest.mark.parametrize("what", ["judging", "reporting"])
def test_a_call_that_cannot_be_judged_or_reported_is_killed(monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    said: list[str] = []
    request: Any = SimpleNamespace(event=lambda: None, phase="")
    verdict: Any = SimpleNamespace(action="its action")
    good = made(monkeypatch, said, verdicts=SimpleNamespace(of=lambda *_: verdict), reports=SimpleNamespace(report=print))
    assert (good.verdict(request), good.report(request, verdict)) == (verdict, "its action")
    assert (good.may_lack_reports, said) == (False, [])
    bad = made(monkeypatch, said, verdicts=SimpleNamespace(of=fails), reports=SimpleNamespace(report=fails))
    assert (bad.verdict(request) if what == "judging" else bad.report(request, verdict)) is None
    assert (bad.may_lack_reports, said) == (True, ["a call could not be judged, so its process is killed: RuntimeError: why"])


@pytest.mark.parametrize(("answer", "lasts"), [(ALWAYS, True), (RUN, True), (ONCE, False), (NO, False)])
def test_an_answer_takes_effect_for_calls_and_hosts_and_has_a_record(
    monkeypatch: pytest.MonkeyPatch, answer: str, lasts: bool
) -> None:
    done: list[object] = []
    said: list[str] = []
    reports = SimpleNamespace(decided=lambda *record: done.append(record))
    one = made(monkeypatch, said, verdicts=SimpleNamespace(grant=done.append), reports=reports)
    rule = (("a", "tcp connect x: 1"), ("b", "tcp connect x: 2"))
    one.reporting.hosts = SimpleNamespace(grant=lambda *line: done.append(line))  # type: ignore[assignment]
    one._decided(rule, answer, "me", 2)
    assert done == [*([rule, *rule] if lasts else []), (rule, answer, "me", 2)]
    one = made(monkeypatch, said, verdicts=SimpleNamespace(grant=fails), reports=SimpleNamespace(decided=fails))
    one._decided(rule, answer, "me", 2)
    assert said == ["an answer may be without effect: RuntimeError: why"]


def test_who_attempts_a_report_goes_on() -> None:
    loaded.attempt(fails)
