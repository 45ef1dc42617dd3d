"""What `learn --pid` says of the processes that it has attached to, and of those that it does not see."""

from __future__ import annotations

import os
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from callfence.shared.text import plural, printable
from tracer.proc import executable_of, proc
from tracer.running.attach import descendants

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from callfence.learning.options import LearnOptions
    from tracer.loop import Loop
    from tracer.running.session import Outcome

_NAMED = 8
"""Most processes that are named."""


class Attached:
    """Tells what is followed, and notes in the recording what is not."""

    def __init__(self, options: LearnOptions, gap: Callable[[str], None]) -> None:
        self._options = options
        self._gap = gap
        self._since = 0.0

    def begins(self, loop: Loop) -> None:
        """Say what was attached to, and which processes that it has started are not followed."""
        self._since = time.monotonic()
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

        followed = {task.tgid for task in loop.tasks.values()} | left.keys()
        if others := _like(pids, followed):
            named = ", ".join(map(str, others[:_NAMED])) + (" ..." if len(others) > _NAMED else "")
            what = f"{plural(len(others), 'other process', 'other processes')} of the same program ({named})"
            _say(f"learn: not followed: {what}; --pid can be given several times")

    def ended(self, outcome: Outcome) -> None:
        """Note if what was attached to made hardly any calls."""
        seconds = time.monotonic() - self._since
        if outcome.calls < seconds:
            few = f"{outcome.calls} in {seconds:.0f} seconds" if outcome.calls else "none was made while learn was attached"
            self._gap(f"calls: {few}; perhaps other processes do the work")


def _like(pids: tuple[int, ...], followed: Collection[int]) -> list[int]:
    """Processes that are not followed, execute the same files, and belong together with one that is: by their session or their
    control group, unless that is this process's, too, which may hold anything of the same interpreter."""
    programs = {executable_of(pid) for pid in pids} - {"?"}
    groups = {group for pid in pids for group in _groups(pid)}.difference(_groups(os.getpid()))
    try:
        names = sorted(int(name) for name in os.listdir(proc()) if name.isdecimal())
    except OSError:
        return []
    others = (pid for pid in names if pid not in followed)
    return [pid for pid in others if executable_of(pid) in programs and groups & set(_groups(pid))]


def _groups(pid: int) -> list[object]:
    """The session of a process, and its control group unless that is the root."""
    found: list[object] = []
    with suppress(OSError):
        found.append(os.getsid(pid))
    with suppress(OSError):
        group = Path(f"{proc()}/{pid}/cgroup").read_text(errors="replace").strip()
        found += [] if group.endswith(":/") else [group]
    return found


def _say(text: str) -> None:
    if sys.stderr is not None:
        with suppress(OSError):  # it has hung up
            print(printable(text), file=sys.stderr, flush=True)
