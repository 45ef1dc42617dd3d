"""What `Listener` answers if `decide` fails, or answers what the question does not take."""

from __future__ import annotations

import json
import os
import socket
import threading
from typing import TYPE_CHECKING, Any

import pytest

from callfence.asking.listener import Listener
from callfence.asking.program import Program

if TYPE_CHECKING:
    from pathlib import Path

QUESTION = {
    "version": 1, "type": "question", "id": 7, "rule": [], "record": {}, "answers": ["run", "no"], "takes_effect": "now",
}  # fmt: skip
NONE_OF_THEM = "it must be one of once, run, always, no, kill, or that and a reason"


def fail(question: object) -> str:
    raise KeyError("what")


@pytest.mark.parametrize(
    ("decided", "answer", "reason", "reported"),
    [
        ("run", "run", "", None),
        (("run", "tests"), "run", "tests", None),
        ("always", "no", "the answer was always, which this question does not take", None),
        ("yes", "no", f"ValueError: `decide` returned 'yes': {NONE_OF_THEM}", ValueError),
        (None, "no", f"ValueError: `decide` returned None: {NONE_OF_THEM}", ValueError),
        (("run", None), "no", f"ValueError: `decide` returned ('run', None): {NONE_OF_THEM}", ValueError),
        (fail, "no", "KeyError: 'what'", KeyError),
    ],
)
def test_a_mistake_of_the_caller_is_no_and_is_reported(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, decided: Any, answer: str, reason: str, reported: type | None
) -> None:
    reports: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", reports.append)
    decide = decided if callable(decided) else lambda question: decided
    with Listener(tmp_path / "ask", decide, "me"), socket.socket(socket.AF_UNIX) as enforce:
        enforce.connect(str(tmp_path / "ask"))
        enforce.sendall(json.dumps(QUESTION).encode() + b"\n")
        with enforce.makefile("rb") as lines:
            given = json.loads(lines.readline())
    assert given == {"id": 7, "answer": answer, "reason": reason, "name": "me"}
    assert [each.exc_type for each in reports] == ([reported] if reported else [])


@pytest.mark.skipif(os.geteuid() != 0, reason="listening as another user takes root")
@pytest.mark.parametrize("user", [0, 65534])
def test_another_user_does_not_answer(tmp_path: Path, user: int) -> None:
    path = str(tmp_path / "ask")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        os.seteuid(user)
        listener.listen()  # whose credentials are those of SO_PEERCRED
        os.seteuid(0)
        if user:
            with pytest.raises(PermissionError, match="another user listens there"):
                Program(path)
        else:
            assert Program(path).fileno() >= 0
