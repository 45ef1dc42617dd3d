"""The questions that are open: what is sent when, what an answer decides, and what becomes of all when nobody answers."""

from __future__ import annotations

import json
import socket
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from callfence.enforcer.reporting import asker
from callfence.enforcer.reporting.asker import ALWAYS, KILL, NO, ONCE, RUN, Asker

if TYPE_CHECKING:
    from collections.abc import Iterator

A, B = (("a", "getppid: allow"),), (("a", "getpid: allow"), ("b", "getpid: allow"))


class Case:
    """What asks, the other end of its socket, and what was decided and answered."""

    def __init__(self) -> None:
        ours, self.there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        self.there.settimeout(5)
        self.done: list[object] = []
        self.later: list[Any] = []
        self.read: Any = None
        self.waiting: list[tuple[str, Any, int]] = []

        def watch(_descriptor: int, _events: int, call: object) -> None:
            self.read = call

        hub = SimpleNamespace(watch=watch, forget=lambda _: self.done.append("forgotten"))
        hub.after = lambda _seconds, call: self.later.append(call)
        pending: Any = SimpleNamespace(hub=hub, add=lambda *call: self.waiting.append(call))
        pending.remove = lambda request: self.done.append(f"remove {request.name}")
        self.asker = Asker(ours.detach(), pending, lambda *answer: self.done.append(answer), lambda: self.done.append("ended"))

    def ask(self, name: str, rule: Any) -> None:
        request: Any = SimpleNamespace(name=name, finish=lambda result: self.done.append((name, result)))
        self.asker.ask(request, rule, lambda: {"call": name}, lambda answer: self.done.append((name, answer)))

    def question(self) -> dict[str, Any]:
        return json.loads(self.there.recv(1 << 16))  # type: ignore[no-any-return]

    def answer(self, text: str) -> list[object]:
        self.done.clear()
        self.there.send(text.encode())
        self.read()
        return self.done


@pytest.fixture
def case() -> Iterator[Case]:
    made = Case()
    yield made
    made.asker._close()
    made.there.close()


def test_calls_that_lack_the_same_rule_are_one_question(case: Case) -> None:
    for name, rule in (("one", A), ("two", A), ("three", B)):
        case.ask(name, rule)
    first, second = case.question(), case.question()
    assert first == {
        "id": 1, "rule": [{"file": "a", "line": "getppid: allow"}], "answers": [ONCE, RUN, ALWAYS, NO, KILL],
        "record": {"call": "one"},
    }  # fmt: skip
    assert (second["id"], len(second["rule"]), second["record"]) == (2, 2, {"call": "three"})
    assert case.answer("2 always me and you") == [(B, ALWAYS, "me and you", 1), "remove three", ("three", ALWAYS)]
    assert case.answer("2 no") == [], "it is answered already"
    for nonsense in ("x no", "3 no", "", "-1 no", "1"):
        if nonsense not in ("", "1"):
            assert case.answer(nonsense) == []
    assert case.answer("1 perhaps") == [(A, NO, "", 2), "remove one", ("one", NO), "remove two", ("two", NO)]


@pytest.mark.parametrize(("answer", "remembered"), [(ONCE, None), (RUN, RUN), (ALWAYS, ALWAYS), (NO, NO), (KILL, None)])
def test_an_answer_that_lasts_is_remembered(case: Case, answer: str, remembered: str | None) -> None:
    case.ask("one", A)
    case.question()
    case.answer(f"1 {answer} me")
    assert (case.asker.remembered(A), case.asker.remembered(A, holds=True)) == (remembered, remembered)
    case.done.clear()
    case.ask("two", A)
    assert case.done == ([("two", remembered)] if remembered else [])
    assert len(case.waiting) == (1 if remembered else 2)


def test_a_call_that_a_signal_interrupts_is_answered_once(case: Case) -> None:
    case.ask("one", A)
    _, interrupt, result = case.waiting[0]
    interrupt(result)
    interrupt(result)
    assert case.done == ["remove one", ("one", asker.RESTART_ALWAYS)]
    case.question()
    assert case.answer("1 once") == [(A, ONCE, "", 1)], "the answer is nobody's"


def test_questions_on_which_no_call_waits(case: Case) -> None:
    case.asker.suggest(A, lambda: {"call": "file"})
    case.asker.suggest(A, lambda: {"call": "file again"})
    case.asker.suggest(B, lambda: {"call": "name"}, is_lookup=True)
    assert [(asked["id"], asked["answers"]) for asked in (case.question(), case.question())] == [
        (1, [ALWAYS, NO]), (2, [RUN, ALWAYS, NO]),
    ]  # fmt: skip
    assert case.answer("1 no") == [(A, NO, "", 2)]
    case.asker.suggest(A, lambda: {"call": "file"})
    case.there.setblocking(False)
    with pytest.raises(BlockingIOError):
        case.question()


def test_of_each_kind_there_are_so_many_questions(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asker, "_MAX_QUESTIONS", 2)
    rules: list[Any] = [(("a", f"path /{number}: read"),) for number in range(3)]
    for rule in rules:
        case.asker.suggest(rule, dict)
    assert [case.asker.remembered(rule) for rule in rules] == [None, None, NO]
    case.ask("one", A)
    case.ask("two", B)
    case.ask("three", rules[2])
    assert case.done == [("three", NO)]
    assert [case.question()["id"] for _ in range(4)] == [1, 2, 3, 4]


def test_a_question_for_which_there_is_no_room_is_sent_later(case: Case) -> None:
    names = [f"{number} {'x' * 8000}" for number in range(100)]
    for name in names:
        case.ask(name, ((name, "getppid: allow"),))
    assert len(case.later) == 1
    asked = []
    while case.later:
        asked += [case.question()["record"]["call"] for _ in range(5)]
        case.later.pop()()
    while len(asked) < len(names):
        asked.append(case.question()["record"]["call"])
    assert asked == names


def test_when_the_other_end_is_closed_all_answers_are_no(case: Case) -> None:
    case.ask("one", A)
    case.ask("two", B)
    case.there.close()
    case.read()
    case.read()
    assert case.done == [
        "forgotten", "ended", (A, NO, "", 1), "remove one", ("one", NO), (B, NO, "", 1), "remove two", ("two", NO),
    ]  # fmt: skip
    case.done.clear()
    case.ask("three", (("a", "close: allow"),))
    assert case.done == [("three", NO)]
