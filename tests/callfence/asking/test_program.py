"""A program that is asked."""

from __future__ import annotations

import json
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from callfence.asking.program import Program
from callfence.asking.questions import Given, Question


def test_a_program_that_reads_nothing_holds_nothing_up() -> None:
    """It may ask somebody else, while the confined program has ever new questions."""
    ours, theirs = socket.socketpair()
    with ours:
        front = Program("", theirs.detach())
        before = time.monotonic()
        for number in range(1000):
            front.put(Question(number, (), holds=True, record={"call": "x" * 1000}, answers=("no",)), 60)
        assert time.monotonic() - before < 5
        assert front.is_behind
        assert front.read() == []
        received = b""
        while received.count(b"\n") < 1000:
            received += ours.recv(1 << 20)
            front.send()
        assert not front.is_behind
        assert [json.loads(line)["id"] for line in received.splitlines()] == [*range(1000)]
        front._socket.close()


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, Program]]:
    """The program's end of a socket, and what asks it."""
    ours, theirs = socket.socketpair()
    ours.settimeout(5)
    front = Program("", theirs.detach())
    with ours:
        yield ours, front
        front._socket.close()


def test_answers_are_read_line_by_line(pair: tuple[socket.socket, Program]) -> None:
    ours, front = pair
    ours.sendall(b'{"id": 1, "answer": "no"}\n{"id": 2, "answ')
    assert front.read() == [Given(1, "no")]
    ours.sendall(b'er": "once"}\nnonsense\n{"id": 3, "answer": "run"}\n')
    assert front.read() == [Given(2, "once"), Given(3, "run")]
    message = "an answer is a JSON object on one line"
    assert json.loads(ours.recv(1000)) == {"version": 1, "type": "error", "id": None, "message": message}
    assert front.read() == []
    ours.shutdown(socket.SHUT_WR)
    with pytest.raises(EOFError):
        front.read()


def test_an_answer_has_at_most_64_kib(pair: tuple[socket.socket, Program]) -> None:
    ours, front = pair
    line = b'{"id": 1, "answer": "no", "more": "%b"}' % (b"x" * ((1 << 16) - 37))
    assert len(line) == 1 << 16
    answers = []
    for part in (line[:40_000], line[40_000:], b"\n"):
        ours.sendall(part)
        answers += front.read()
    assert answers == [Given(1, "no")]
    ours.sendall(line)
    assert front.read() == []
    ours.sendall(b"x")
    with pytest.raises(EOFError):
        front.read()


def test_what_became_of_a_question(pair: tuple[socket.socket, Program]) -> None:
    ours, front = pair
    question = Question(7, (), holds=True, record={}, answers=("no",))
    front.done(question, "no", "")
    front.done(question, "", "not granted")
    front.expired(question)
    assert [json.loads(line) for line in ours.recv(1000).splitlines()] == [
        {"version": 1, "type": "done", "id": 7, "answer": "no"},
        {"version": 1, "type": "error", "id": 7, "message": "not granted"},
        {"version": 1, "type": "expired", "id": 7},
    ]


def test_who_reads_nothing_is_asked_nothing_more(
    pair: tuple[socket.socket, Program], monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, front = pair
    monkeypatch.setattr("callfence.asking.program._MAX_UNREAD", 1 << 20)
    question = Question(7, (), holds=True, record={"call": "x" * 100_000}, answers=("no",))
    with pytest.raises(EOFError):
        for _ in range(100):
            front.put(question, 60)
    assert front.is_behind
    received: list[bytes] = []
    reader = threading.Thread(target=lambda: received.extend(iter(lambda: ours.recv(1 << 20), b"")))
    reader.start()
    front.finish()
    front._socket.close()
    reader.join()
    whole = b"".join(received)
    assert 1 << 20 < len(whole) < 1 << 21 and whole.endswith(b"\n")


def test_the_program_may_be_at_the_other_end_of_standard_input() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        code = "from callfence.asking.program import Program; Program('fd:0', 0).finish()"
        done = subprocess.run([sys.executable, "-c", code], stdin=theirs, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("pid", "user", "group", "is_asked"),
    [(9, 0, 7, True), (9, 5, 7, True), (0, 6, 0, False), (5, 6, 5, False), (5, 5 + (1 << 24), 5, False)],
)
def test_the_user_who_listens_decides_whether_a_program_is_asked(
    pid: int, user: int, group: int, is_asked: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    credentials = struct.pack("3i", pid, user, group)
    monkeypatch.setattr(os, "geteuid", lambda: 5)
    monkeypatch.setattr(socket.socket, "getsockopt", lambda *_: credentials)
    for path, address in ((str(tmp_path / "socket"), str(tmp_path / "socket")), (f"@it-{os.getpid()}", f"\0it-{os.getpid()}")):
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(address)
            listener.listen()
            if is_asked:
                Program(path)._socket.close()
            else:
                with pytest.raises(PermissionError, match="another user listens there"):
                    Program(path)
