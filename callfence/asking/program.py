"""Put questions to a program, over a unix socket."""

from __future__ import annotations

import errno
import json
import os
import socket
import sys
from contextlib import suppress
from typing import Any

from callfence.asking.questions import MAX_LINE, Given, Question, answer_of
from callfence.policygen.versions import QUESTIONS
from callfence.tracer.errors import UserError

_LAST = 10.0
"""How many seconds the program may take at most to read the last messages."""
_MAX_UNREAD = 1 << 28
"""The most bytes of messages that it has not read, after which it is asked nothing more."""


class Program:
    """The program at the other end of a socket."""

    at_once = 2000  # all that there are
    outlives = True
    name = "a program"

    def __init__(self, path: str, descriptor: int = -1) -> None:
        """Connect to the socket at `path` (`@` and a name for an abstract one), or use the connected one that `descriptor`
        is.  Raises OSError, also if another user than root or that of this process listens there: it would decide."""
        if descriptor >= 0:
            self._socket = socket.socket(fileno=descriptor)
        else:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self._socket.connect(b"\0" + os.fsencode(path[1:]) if path.startswith("@") else os.fsencode(path))
            credentials = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)  # struct ucred
            if int.from_bytes(credentials[4:8], sys.byteorder) not in (0, os.geteuid()):
                raise OSError(errno.EPERM, "another user listens there")
        self._socket.setblocking(False)
        self._data = b""
        self._unsent = bytearray()
        """What the program has not read yet: it may ask somebody else, while more questions come."""

    def rehearse(self) -> None:
        json.dumps({})

    def fileno(self) -> int:
        return self._socket.fileno()

    def descriptors(self) -> tuple[int, ...]:
        return (self.fileno(),)

    @property
    def is_behind(self) -> bool:
        return bool(self._unsent)

    def send(self) -> None:
        with suppress(BlockingIOError):
            del self._unsent[: self._socket.send(self._unsent)]

    def finish(self) -> None:
        self._socket.settimeout(_LAST)
        self._socket.sendall(self._unsent)

    def put(self, question: Question, timeout: float) -> None:
        self._send(question.fields(timeout))

    def read(self) -> list[Given]:
        try:
            part = self._socket.recv(MAX_LINE)
        except BlockingIOError:
            return []
        if not part:
            raise EOFError
        *lines, self._data = (self._data + part).split(b"\n")
        if len(self._data) > MAX_LINE:
            raise EOFError
        answers = []
        for line in lines:
            try:
                answers.append(answer_of(line))
            except UserError as error:
                self._send({"type": "error", "id": None, "message": str(error)})
        return answers

    def done(self, question: Question, answer: str, problem: str) -> None:
        if problem:
            self._send({"type": "error", "id": question.id, "message": problem})
        else:
            self._send({"type": "done", "id": question.id, "answer": answer})

    def expired(self, question: Question) -> None:
        self._send({"type": "expired", "id": question.id})

    def _send(self, fields: dict[str, Any]) -> None:
        self._unsent += json.dumps({"version": QUESTIONS, **fields}).encode() + b"\n"
        if len(self._unsent) > _MAX_UNREAD:
            raise EOFError
        self.send()
