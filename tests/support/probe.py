"""What the running kernel does with a filter: see probe.c."""

from __future__ import annotations

import signal
import struct
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

from callfence.policygen.model import Action, ActionKind
from callfence.tracer.abi import Arch, Event

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_ALLOW = struct.pack("=HBBI", 0x06, 0, 0, 0x7FFF0000)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one call."""

    error: int
    """errno with which the filter was refused, or 0."""
    returned: bool
    result: int
    handled: bool
    signal: int


@dataclass(frozen=True, slots=True)
class Probe:
    path: Path
    """probe.c, compiled."""

    def run(self, jobs: Sequence[tuple[bytes, Sequence[Event]]]) -> list[list[Outcome]]:
        """The outcomes of making each call under its filter, whose i386 calls are made with `int 0x80`."""
        stream = bytearray()
        for program, events in jobs:
            stream += struct.pack("=I", len(program) // 8) + program + struct.pack("=I", len(events))
            for event in events:
                stream += struct.pack("=II6Q", event.arch == Arch.I386.audit, event.number, *event.arguments)
        # pipes, so that lseek fails on each of the three whatever the test's own are
        done = subprocess.run([self.path], input=stream, capture_output=True, check=True, timeout=120)
        lines = iter(done.stdout.decode().splitlines())
        outcomes = []
        for _, events in jobs:
            fields = [[int(field) for field in next(lines).split()] for _ in events]
            outcomes.append([Outcome(e, bool(r), result, bool(h), s) for e, r, result, h, s in fields])
        return outcomes

    def agrees(self, program: bytes, expected: Sequence[tuple[Event, Action]]) -> None:
        """Asserts that under the filter each call meets its action."""
        events = [event for event, _ in expected]
        free, confined = self.run([(_ALLOW, events), (program, events)])
        for (event, action), without, outcome in zip(expected, free, confined, strict=True):
            assert outcome.error == 0
            match action.kind:
                case ActionKind.ALLOW | ActionKind.LOG:
                    wanted = (True, without.result, False, signal.SIGILL)
                case ActionKind.ERRNO:
                    wanted = (True, -action.errno, False, signal.SIGILL)
                case ActionKind.NOTIFY:  # nobody holds a listener: ENOSYS
                    wanted = (True, -38, False, signal.SIGILL)
                case ActionKind.TRAP:
                    wanted = (False, 0, True, signal.SIGILL)
                case ActionKind.KILL:
                    wanted = (False, 0, False, signal.SIGSYS)
            assert (outcome.returned, outcome.result, outcome.handled, outcome.signal) == wanted, (event, action)
