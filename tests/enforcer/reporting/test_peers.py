"""Calls to other hosts that cannot be judged, or whose socket no line is about: none of them runs."""

from __future__ import annotations

import errno
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from callfence.enforcer.hosts import targets
from callfence.enforcer.listener import Notification
from callfence.enforcer.reporting import peers
from callfence.enforcer.reporting.peers import Peers

if TYPE_CHECKING:
    from collections.abc import Callable

LOST = "a call to another host could not be judged, so it fails: RuntimeError: why"


def fails(*_: Any, **__: Any) -> Any:
    raise RuntimeError("why")


class Case:
    """A call, what takes it, and what became of both."""

    def __init__(self, **hosts: Any) -> None:
        self.done: list[object] = []
        note = self.done.append
        self.request: Any = SimpleNamespace(call=Notification(), phase="", fail=note)
        self.loaded: Any = SimpleNamespace(lose=lambda *error: note(("lost", *map(str, error))), asker=None)
        self.loaded.reporting = SimpleNamespace(hosts=SimpleNamespace(is_audit=False, **hosts), complain=note, asking=-1)
        self.peers = Peers(self.loaded)


def test_a_call_that_cannot_be_judged_fails() -> None:
    case = Case(refused=fails)
    assert case.peers.take(case.request)
    assert case.done == [("lost",), LOST, errno.EACCES]
    case.request.fail = fails  # it has died
    assert case.peers.take(case.request)


def test_one_of_a_stopped_task_too() -> None:
    case = Case(are_judged=fails)
    request = case.peers.make_call(Notification(), "")
    assert request is not None and request.result == -errno.EACCES and not request.runs
    assert case.done == [("lost",), LOST]
    case = Case(are_judged=lambda _request, **_: False)
    assert (case.peers.make_call(Notification(), ""), case.done) == (None, [])


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (0x7FFF0000, ["reported", errno.EPERM]),
        (0x7FFC0000, ["reported", errno.EPERM]),
        (0x00050011, [errno.EEXIST]),
        (0x00030000, ["trapped", errno.ENOSYS]),
        (0x7FC00000, None),
        (0x80000000, None),
    ],
    ids=["allow", "log", "errno", "trap", "notify", "kill"],
)
def test_a_socket_that_no_line_is_about(monkeypatch: pytest.MonkeyPatch, answer: int, expected: list[object] | None) -> None:
    filters = {"": SimpleNamespace(answer=lambda *_: answer)}
    case = Case(refused=lambda _call: errno.EPERM, filters=filters, are_judged=lambda *_, **__: False)
    monkeypatch.setattr(targets, "refusal_of", lambda *_: SimpleNamespace(rule=(), error="EACCES"))
    monkeypatch.setattr(peers, "trap", lambda _request: case.done.append("trapped"))
    case.loaded.verdict = lambda _request: "verdict"
    case.loaded.reports = SimpleNamespace(report_peer=lambda *_: case.done.append("reported"))
    assert case.peers.take(case.request) is (expected is not None)
    assert case.done == (expected or [])
    case.done.clear()
    case.loaded.reporting.hosts.is_audit = True
    assert (case.peers.take(case.request), case.done) == (False, [])


@pytest.mark.parametrize(("verdict", "done"), [(fails, [("lost", "why")]), (lambda _request: None, [])])
def test_a_denial_that_cannot_be_reported_stays_one(verdict: Callable[..., object], done: list[object]) -> None:
    case = Case()
    case.loaded.verdict = verdict
    assert case.peers._deny(case.request, SimpleNamespace(rule=(), error="EACCES")) is False
    assert case.done == done


@pytest.mark.parametrize(
    ("answer", "done"),
    [
        ("once", ["made again"]),
        ("always", ["made again"]),
        ("no", ["reported", errno.EACCES]),
        ("kill", ["reported", "killed"]),
    ],
)
def test_an_answer_is_carried_out_though_it_cannot_be_reported(
    monkeypatch: pytest.MonkeyPatch, answer: str, done: list[object]
) -> None:
    case = Case()

    def report(*_: object) -> None:
        case.done.append("reported")
        fails()

    case.loaded.reports = SimpleNamespace(report_peer=report)
    case.peers._mediator = SimpleNamespace(
        make_again=lambda *_: case.done.append("made again"), refuse=lambda _request, number: case.done.append(number)
    )
    monkeypatch.setattr(peers, "end_process", lambda _request: case.done.append("killed"))
    verdict = SimpleNamespace(_replace=lambda **_: None)
    case.peers._answered(case.request, verdict, targets.Refusal([]), answer)
    assert case.done == done


@pytest.mark.parametrize(
    ("line", "error", "remembered", "waits", "done"),
    [
        ("tcp connect: 80", "EACCES", None, True, ["asked"]),
        ("tcp connect: 80", "EACCES", "no", True, ["asked"]),  # who asks knows the answer
        ("udp look-up: x", "REFUSED", None, True, ["suggested"]),
        ("udp look-up: x", "REFUSED", "no", False, ["reported"]),
        ("", "EACCES", None, False, ["reported"]),  # no line would allow it
    ],
)
def test_somebody_is_asked_about_what_a_line_would_allow(
    line: str, error: str, remembered: str | None, waits: bool, done: list[object]
) -> None:
    case = Case()
    case.loaded.verdict = lambda _request: "verdict"
    case.loaded.reports = SimpleNamespace(report_peer=lambda *_: case.done.append("reported"))
    refusal: Any = SimpleNamespace(rule=(("a.policy", line),), error=error)
    asker = SimpleNamespace(ask=lambda *_: case.done.append("asked"), remembered=lambda _rule: remembered)
    asker.suggest = lambda *_, is_lookup: case.done.append("suggested" if is_lookup else "put")
    case.loaded.asker = asker
    assert (case.peers._deny(case.request, refusal), case.done) == (waits, done)
    case.loaded.asker = None
    case.done.clear()
    assert (case.peers._deny(case.request, refusal), case.done) == (False, ["reported"])
