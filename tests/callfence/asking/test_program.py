"""A program that is asked."""

from __future__ import annotations

import json
import socket
import time

from callfence.asking.program import Program
from callfence.asking.questions import Question


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
