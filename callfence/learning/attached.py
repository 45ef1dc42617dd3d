"""What `learn -p` says of the processes that it has attached to, and of those that it does not see."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

from callfence.shared.text import plural, printable
from tracer.running.attach import descendants
from tracer.task import executable_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from callfence.learning.options import LearnOptions
    from tracer.loop import Loop
    from tracer.session import Outcome


class Attached:
    """Tells what is followed, and notes in the recording what is not."""

    def __init__(self, options: LearnOptions, gap: Callable[[str], None]) -> None:
        self._options = options
        self._gap = gap

    def begins(self, loop: Loop) -> None:
        """Say what was attached to, and which processes that it has started are not followed."""
        pids = self._options.pids
        names = ", ".join(f"{os.path.basename(executable_of(pid))} (pid {pid})" for pid in pids)
        if not self._options.quiet:
            threads = plural(len(loop.tasks), "thread")
            _say(f"learn: attached to {names}: {plural(loop.family.processes, 'process', 'processes')}, {threads}; ^C lets go")
        left = {} if self._options.tree else descendants(pids)
        if left:
            started = "it has started" if len(pids) == 1 else "they have started"
            _say(f"learn: not followed: {plural(len(left), 'process', 'processes')} that {started} before; --tree follows them")
            programs = sorted({executable_of(pid) for pid in left} - {"?"})
            what = f"processes that were started before learn attached: {', '.join(programs)}"
            self._gap(f"{what} (--tree follows them)")

    def ended(self, outcome: Outcome) -> None:
        """Note if nothing of what was attached to was seen to make a call."""
        if not outcome.calls:
            self._gap("calls: none was made while learn was attached; perhaps other processes do the work")


def _say(text: str) -> None:
    if sys.stderr is not None:
        with suppress(OSError):  # it has hung up
            print(printable(text), file=sys.stderr, flush=True)
