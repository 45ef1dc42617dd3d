"""Calls that are answered later: what they wait for, and signals that end them before."""

from __future__ import annotations

import errno
import time

from callfence.enforcer.hub import Hub
from callfence.tracer import TYPE_CHECKING
from callfence.tracer.proc import fields_of, signals

if TYPE_CHECKING:
    from collections.abc import Callable

    from callfence.enforcer.listener import Request, Waiting

Rule = tuple[tuple[str, str], ...]
"""The policies' files, and the line that each of them lacks to allow a call; "" where no line would."""
RESTART = -512
"""The kernel fails the call with EINTR, or makes it again, as the handler of the task's signal says (ERESTARTSYS,
linux/errno.h)."""
RESTART_ALWAYS = -513
"""The kernel makes the call again when the handler of the task's signal has returned (ERESTARTNOINTR)."""
_SWEEP, _SHARE = 0.02, 20
"""Seconds between two looks for signals of tasks that wait: at least, and as a multiple of the time that a look takes."""


class Pending:
    """The calls that are answered later, and the descriptors and moments that they wait for."""

    def __init__(self, waiting: Waiting) -> None:
        """`waiting` gets the ids of the calls."""
        self.hub = Hub()
        self._waiting = waiting
        self._interrupts: dict[int, tuple[Request, Callable[[int], None], int]] = {}
        """By key: the call, and what to call with what when its task has a signal."""
        self._signalled: set[int] = set()
        """The keys of those whose processes had a signal when they were last looked at."""

    @property
    def count(self) -> int:
        """How many calls wait."""
        return len(self._interrupts)

    def add(self, request: Request, interrupt: Callable[[int], None], result: int) -> None:
        """Note that a call is answered later.  `interrupt` is called with `result` (negative, RESTART for instance), or with
        -EINTR, when a signal ends it before, or its task has been killed."""
        if not request.is_stopped:  # else the stand-in can answer nothing: its task ends with the helper
            self._waiting.add(request.call.id)
        if not self._interrupts:
            self.hub.after(_SWEEP, self._sweep)
        self._interrupts[_key(request)] = request, interrupt, result

    def remove(self, request: Request) -> None:
        """Note that a call is no longer waited for."""
        self._waiting.remove(request.call.id)
        self._interrupts.pop(_key(request), None)

    def _sweep(self) -> None:
        """End the calls that wait no more, for their tasks were killed, and those whose tasks have a signal: the kernel knows
        that they are being answered, and wakes them for no signal but SIGKILL (SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV)."""
        begin = time.monotonic()
        for key, (request, interrupt, result) in [*self._interrupts.items()]:
            if not request.is_waiting():
                interrupt(result)
                continue
            fields = fields_of(request.call.task)
            blocked = signals(fields, "SigBlk", "SigIgn")
            if signals(fields, "SigPnd") & ~blocked:
                interrupt(result)
            elif signals(fields, "ShdPnd") & ~blocked:  # it may be another thread's to take
                if fields["Threads"] == "1":
                    interrupt(result)
                elif key in self._signalled:
                    interrupt(result if result == RESTART_ALWAYS else -errno.EINTR)
                else:
                    self._signalled.add(key)
        self._signalled &= self._interrupts.keys()
        if self._interrupts:
            self.hub.after(max(_SWEEP, _SHARE * (time.monotonic() - begin)), self._sweep)


def _key(request: Request) -> int:
    """Return a number that no other call has which waits: the id, or, of a call whose task is stopped, one below 0."""
    return -request.call.task if request.is_stopped else request.call.id
