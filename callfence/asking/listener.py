"""The Python API of whoever answers: a socket that `enforce --ask=unix:PATH` connects to, and programs run with it."""

from __future__ import annotations

import json
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Self

from callfence import start
from callfence.enforcer.reporting.asker import ANSWERS, NO
from callfence.policygen.values import frozen
from callfence.policygen.versions import QUESTIONS, unknown

Decide = Callable[["Question"], str | tuple[str, str]]

_MAX_QUESTION = 1 << 24
"""The most bytes of a question."""
_DELAY = 0.05
"""Seconds to wait if a connection cannot be accepted."""
_TEXT = 1000
"""The most characters of a reason or a name that an answer can have."""


@frozen
class Question:
    """A question of `enforce` (docs/asking.md)."""

    rule: tuple[Mapping[str, Any], ...]
    """The lines that policies lack, each with `file`, `line` and `risk`."""
    record: Mapping[str, Any]
    """The denied call and its process: the fields of an event `denied` (docs/events.schema.json)."""
    answers: tuple[str, ...]
    """The answers that may be given."""
    takes_effect: str
    """"now", or "next start" for files, which cannot be granted to a running program."""

    @property
    def lines(self) -> tuple[str, ...]:
        """The lines that would allow the call; before one of a section but the first, `arch NAME` and a line end."""
        return tuple(each["line"] for each in self.rule)

    @property
    def danger(self) -> str:
        """What lint says of the lines, if it calls one of them a danger; else ""."""
        risks = [each["risk"] for each in self.rule if each["risk"]]
        return "; ".join(f"it {risk['grants']}" for risk in risks if risk["level"] == "danger")


class Answers:
    """Answers the questions of a connection."""

    def __init__(self, decide: Decide, name: str) -> None:
        """`decide` and `name`: as for `Listener`."""
        self._decide = decide
        self._name = name[:_TEXT]

    def serve(self, connection: socket.socket) -> None:
        """Answer until the other end is closed, in a thread of its own."""
        threading.Thread(target=self._serve, args=[connection], daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        answered: set[int] = set()
        with connection, connection.makefile("rb") as lines, suppress(OSError):
            while line := lines.readline(_MAX_QUESTION):
                answer = None
                try:
                    fields = json.loads(line)
                    if fields["type"] == "question":
                        answer = self._answer(fields)
                        answered.add(fields["id"])
                    elif fields["type"] == "error" and fields["id"] in answered:  # it was not taken: BASE does not grant it
                        answered.remove(fields["id"])
                        answer = self._fields(fields["id"], NO, fields["message"])
                except (ValueError, LookupError, TypeError, RecursionError):  # another program has connected
                    return
                if answer:
                    connection.sendall(json.dumps(answer).encode() + b"\n")

    def _answer(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        if (version := fields.get("version")) != QUESTIONS:
            reason = f"a question whose {unknown(version, QUESTIONS)}"
            return self._fields(fields["id"], NO, reason)
        question = Question(tuple(fields["rule"]), fields["record"], tuple(fields["answers"]), fields["takes_effect"])
        try:
            answer, reason = _taken(self._decide(question))
        except Exception as error:
            threading.excepthook(threading.ExceptHookArgs((*sys.exc_info(), threading.current_thread())))
            answer, reason = NO, f"{type(error).__name__}: {error}"
        if answer not in question.answers:
            answer, reason = NO, f"the answer was {answer}, which this question does not take"
        return self._fields(fields["id"], answer, reason)

    def _fields(self, number: int, answer: str, reason: str) -> dict[str, Any]:
        return {"id": number, "answer": answer, "reason": reason[:_TEXT], "name": self._name}


class Listener:
    """Answers questions, in a thread a program, until it is closed."""

    def __init__(self, path: str | os.PathLike[str], decide: Decide, name: str = "a program") -> None:
        """Listen at `path`, in a folder that only this user can write to, and no program that this user confines.

        `decide` returns one of `Question.answers`, or that and a reason.  If it raises an exception, or returns anything else,
        the answer is no, and `threading.excepthook` gets the exception (it prints it).  An answer that this question does not
        take, such as `run` for files, is no.  Several threads may call `decide` at once.  `name` says who answered, in the
        policy and in the log.  Raises OSError."""
        self._answers = Answers(decide, name)
        self._is_closed = False
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._path = os.fspath(path)
        self._socket.bind(self._path)
        os.chmod(self._path, 0o600)
        self._socket.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Take no more programs; questions that are open are answered still."""
        self._is_closed = True
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
        self._socket.close()
        with suppress(OSError):
            os.unlink(self._path)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                if self._is_closed:
                    return
                time.sleep(_DELAY)  # any program of this user may take our descriptors, by connections
                continue
            user = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[1]
            try:
                if user == os.geteuid():
                    self._answers.serve(connection)
                    continue
            except RuntimeError:  # no thread can be started: RLIMIT_NPROC, the cgroup's pids.max
                time.sleep(_DELAY)
            connection.close()


def _taken(decided: object) -> tuple[str, str]:
    """Return the answer and the reason that `decide` has returned.  Raises ValueError for anything else."""
    answer, reason = decided if isinstance(decided, tuple) and len(decided) == 2 else (decided, "")
    if answer not in ANSWERS or not isinstance(reason, str):
        raise ValueError(f"`decide` returned {decided!r}: it must be one of {', '.join(ANSWERS)}, or that and a reason")
    return answer, reason


def run(
    argv: Sequence[str | os.PathLike[str]],
    policy: str | os.PathLike[str],
    decide: Decide,
    *,
    name: str = "a program",
    within: str | os.PathLike[str] | None = None,
    options: Sequence[str] = (),
    **settings: Any,
) -> subprocess.CompletedProcess[Any]:
    """Run a program confined by a policy, and return it when it has ended; `decide` answers questions about what the policy
    denies (`Listener`).

    `within`: the policy that bounds what the answer `always` writes, without which it cannot be given.  `options`: further
    options of `enforce`.  `settings`: those of `subprocess.run`."""
    ours, theirs = socket.socketpair()  # with a name, another confined program could answer
    Answers(decide, name).serve(ours)
    with theirs:
        bounds = [f"--within={os.fspath(within)}"] if within is not None else []
        command = start.command("enforce", f"--ask=fd:{theirs.fileno()}", *bounds, *options)
        settings["pass_fds"] = [*settings.get("pass_fds", ()), theirs.fileno()]
        return subprocess.run([*command, "-p", policy, "--", *argv], check=settings.pop("check", False), **settings)
