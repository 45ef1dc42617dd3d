"""What `Listener` answers if `decide` fails, or answers what the question does not take."""

from __future__ import annotations

import json
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from callfence.asking.listener import Listener
from callfence.asking.program import Program

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


def test_a_question_of_another_version_is_answered_no(tmp_path: Path) -> None:
    with Listener(tmp_path / "ask", lambda question: "run"), socket.socket(socket.AF_UNIX) as enforce:
        enforce.settimeout(20)
        enforce.connect(str(tmp_path / "ask"))
        enforce.sendall(json.dumps(QUESTION | {"version": 9}).encode() + b"\n")
        with enforce.makefile("rb") as lines:
            given = json.loads(lines.readline())
    assert (given["id"], given["answer"]) == (7, "no")
    assert given["reason"].startswith("a question whose version 9 is of a newer callfence")


def test_an_answer_that_is_not_taken_is_no_once(tmp_path: Path) -> None:
    """`always` beyond the policy of --within: the question would be open until its time is over."""
    error = json.dumps({"version": 1, "type": "error", "id": 7, "message": "BASE does not grant it"}).encode() + b"\n"
    with Listener(tmp_path / "ask", lambda question: "run", "n" * 1001) as _, socket.socket(socket.AF_UNIX) as enforce:
        enforce.connect(str(tmp_path / "ask"))
        enforce.sendall(json.dumps(QUESTION).encode() + b"\n" + error + error)
        enforce.shutdown(socket.SHUT_WR)
        with enforce.makefile("rb") as lines:
            given = [json.loads(line) for line in lines]
    assert [(each["answer"], each["reason"]) for each in given] == [("run", ""), ("no", "BASE does not grant it")]
    assert {each["name"] for each in given} == {"n" * 1000}


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


@pytest.mark.parametrize(("pid", "more", "group", "is_answered"), [(1, 0, 1, True), (0, 1, 0, False)])
def test_the_user_who_connects_decides_whether_it_is_answered(
    pid: int, more: int, group: int, is_answered: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = os.geteuid()
    credentials = struct.pack("3i", user + pid, user + more, user + group)
    monkeypatch.setattr(socket.socket, "getsockopt", lambda *_: credentials)
    with Listener(tmp_path / "ask", lambda question: "run"), socket.socket(socket.AF_UNIX) as enforce:
        enforce.settimeout(20)
        enforce.connect(str(tmp_path / "ask"))
        received = b""
        with suppress(BrokenPipeError, ConnectionResetError):
            enforce.sendall(json.dumps(QUESTION).encode() + b"\n")
            received = enforce.recv(1 << 16)
    assert bool(received) == is_answered


@pytest.mark.parametrize("line", [b"[" * 100_000 + b"\n", b"{}\n", b"5\n", b"x\n", b'{"type": "question"}\n', b"x" * (1 << 25)])
def test_what_is_no_question_ends_its_connection(tmp_path: Path, line: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any program of the user may connect, a confined one too."""
    reports: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", reports.append)
    with Listener(tmp_path / "ask", lambda question: "run"), socket.socket(socket.AF_UNIX) as other:
        other.settimeout(20)
        other.connect(str(tmp_path / "ask"))
        with suppress(BrokenPipeError, ConnectionResetError):
            other.sendall(line)
            assert other.recv(1) == b""
    assert not reports


@pytest.mark.parametrize(
    "limit",
    [
        "resource.RLIMIT_NOFILE, 20",
        "resource.RLIMIT_AS, (100 << 20) + 4096 * int(open('/proc/self/statm').read().split()[0])",
    ],
)
def test_connections_without_end_do_not_end_the_listener(tmp_path: Path, limit: str) -> None:
    """Afterwards it answers as before.  Each takes a descriptor, and a thread with 8 MiB for its stack."""
    script = (
        "import resource, socket, sys; from callfence import Listener;"
        "listener = Listener(sys.argv[1], lambda question: 'run'); print('ready', flush=True);"
        f"kind, most = {limit}; resource.setrlimit(kind, (most, most)); sys.stdin.read()"
    )
    path = str(tmp_path / "ask")
    with subprocess.Popen([sys.executable, "-c", script, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        many = [socket.socket(socket.AF_UNIX) for _ in range(30)]
        for each in many:
            each.connect(path)
        time.sleep(0.5)
        for each in many:
            each.close()
        with socket.socket(socket.AF_UNIX) as enforce:
            enforce.settimeout(20)
            enforce.connect(path)
            enforce.sendall(json.dumps(QUESTION).encode() + b"\n")
            assert json.loads(enforce.recv(1 << 16))["answer"] == "run"
