"""One run of learning from processes that run already: attaches to them, and follows them until they have ended."""

from __future__ import annotations

import errno
import os
import signal
import threading
from typing import TYPE_CHECKING, Final

from tracer import kernel, linux
from tracer.errors import PtraceError, TracerError
from tracer.loop import Initial, Loop, Settings
from tracer.proc import executable_of, fields_of, kin_of, numbers_in
from tracer.session import LET_GO, Hooks, Outcome, Started, follow, not_permitted
from tracer.signals import Dispositions

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tracer.tally import Recorder

WAKE: Final = signal.SIGURG
"""Interrupts the main thread's waitpid.  Ignored by default, so that one that comes late does no harm."""


class _Attached(Started):
    """Processes that we have attached to: they get none of the signals that are sent to us."""

    def __init__(self, loop: Loop, tick: Callable[[Loop], None]) -> None:
        super().__init__(loop, Hooks(tick))
        self._main = threading.main_thread().ident or 0
        self._let_go = False

    def send(self, signum: int, *, from_terminal: bool) -> None:
        self._let_go |= signum in LET_GO

    def reached(self, signum: int, sender: int, since: float) -> bool:
        return False

    def stopped(self) -> int:
        return 0

    def tick(self) -> None:
        super().tick()
        if self._let_go:  # at each tick, since one that comes just before the waitpid interrupts nothing
            signal.pthread_kill(self._main, WAKE)


def attach(
    pids: Sequence[int],
    recorder: Recorder,
    *,
    tree: bool = False,
    allow_opaque: frozenset[str] = frozenset(),
    attached: Callable[[Loop], None] = lambda loop: None,
    tick: Callable[[Loop], None] = lambda loop: None,
) -> Outcome:
    """Follow running processes, with all their threads, until they end, or until SIGINT, SIGTERM or SIGHUP asks us to detach.

    What they start from now on is followed; what they started before only if `tree`.  `attached` is called once, before the
    first call is seen.  The processes get no filter, and without PTRACE_O_EXITKILL they survive our death.  The status of the
    outcome is that of the first one.  Raises TracerError.
    """
    loop = Loop(recorder, Settings(allow_opaque))
    loop.initial = Initial(pids[0], started=True)
    dispositions = Dispositions()
    former = signal.signal(WAKE, lambda signum, frame: loop.release())
    try:
        for pid in pids:
            _seize_threads(loop, pid)
            recorder.executed("", executable_of(pid))
        if tree:
            _seize_descendants(loop, pids, recorder)
        if not loop.tasks:
            raise TracerError(f"no process {pids[0]}, or it has ended", "ptrace", errno.ESRCH)
        attached(loop)
        follow(loop, _Attached(loop, tick))
    finally:
        signal.signal(WAKE, former)
        dispositions.restore()
    return Outcome(loop.initial.status, loop.family.processes, loop.family.calls)


def descendants(pids: Sequence[int]) -> dict[int, int]:
    """The processes that these have started and that still run, with the parent of each, parents first."""
    parents = {pid: kin_of(pid)[1] for pid in sorted(numbers_in(""))}
    found: dict[int, int] = {}
    new = set(pids)
    while new:
        below = {pid: parent for pid, parent in parents.items() if parent in new and pid not in found and pid not in pids}
        found |= below
        new = set(below)
    return found


def _seize_descendants(loop: Loop, pids: Sequence[int], recorder: Recorder) -> None:
    """Seize what the processes have started, and what those start meanwhile.  Raises TracerError."""
    done: set[int] = set()
    while new := {pid: parent for pid, parent in descendants(pids).items() if pid not in done}:
        for pid, parent in new.items():
            _seize_threads(loop, pid)
            before, after = executable_of(parent), executable_of(pid)
            if before != after:
                recorder.executed(before, after)
        done |= new.keys()


def _seize_threads(loop: Loop, pid: int) -> None:
    """Seize every thread of a process, including those that start meanwhile.  Raises TracerError."""
    options = kernel.OPTION_FOLLOW | linux.PTRACE_O_TRACESYSGOOD
    seen: set[int] = set()
    while new := numbers_in(f"{pid}/task") - seen:
        for tid in sorted(new):
            try:
                kernel.seize(tid, options)
                kernel.interrupt(tid)
            except PtraceError as error:
                if error.errno != errno.ESRCH and not _is_dead_or_ours(tid):
                    raise TracerError(f"cannot attach to {tid}: {not_permitted(error)}", error.call, error.errno) from None
                continue
            loop.family.add(tid, pid).update(filtered=False, covered=False)
        seen |= new


def _is_dead_or_ours(tid: int) -> bool:
    """Whether PTRACE_SEIZE failed because the thread is a zombie, or because the kernel has attached it for us already."""
    fields = fields_of(tid)
    return not fields or fields["State"][0] in "ZX" or fields["TracerPid"] == str(os.getpid())
