"""Processes that run already: follows them until they have ended; reads their filters back from the kernel."""

from __future__ import annotations

import errno
import os
import signal
import threading
from collections.abc import Callable, Sequence
from typing import Final

from callfence.tracer import kernel, linux
from callfence.tracer.errors import PtraceError, TracerError
from callfence.tracer.loop import Initial, Loop, Settings
from callfence.tracer.proc import executable_of, fields_of, kin_of, numbers_in
from callfence.tracer.running.launch import Dispositions
from callfence.tracer.running.session import ENDING, Hooks, Outcome, SignalThread, follow, not_permitted
from callfence.tracer.tally import Recorder

WAKE: Final = signal.SIGURG
"""The signal that interrupts the main thread's waitpid. It is ignored by default, so one that comes late does no harm."""


class _Attached(SignalThread):
    """Takes signals for processes that we have attached to: they get none of those that are sent to us."""

    def __init__(self, loop: Loop, tick: Callable[[Loop], None]) -> None:
        super().__init__(loop, Hooks(tick))
        self._main = threading.main_thread().ident or 0
        self._is_ending = False

    def send(self, signum: int, *, from_terminal: bool) -> None:
        self._is_ending |= signum in ENDING

    def reached(self, signum: int, sender: int, since: float) -> bool:
        return False

    def stopped(self) -> int:
        return 0

    def tick(self) -> None:
        super().tick()
        if self._is_ending:  # at each tick, since one that comes just before the waitpid interrupts nothing
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
    """Follow running processes, with all their threads, until they end, or until SIGINT, SIGTERM or SIGHUP asks this process to
    detach.

    Processes that they start from now on are followed; those that they started before are followed only with `tree`.
    `attached` is called once, before the first call is recorded; `tick` is called some times a second, by another thread.  The
    processes get no filter, and they survive the death of this process, since PTRACE_O_EXITKILL is not set.  The status of the
    outcome is that of the first process in `pids`.  Raises TracerError if none of the processes exists, or one may not be
    traced."""
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
    return Outcome(loop.initial.status, loop.family.calls)


def descendants(pids: Sequence[int]) -> dict[int, int]:
    """Return the running descendants of the processes `pids`, parents first: pid -> pid of the parent."""
    parents = {pid: kin_of(pid)[1] for pid in sorted(numbers_in(""))}
    below: dict[int, int] = {}
    new = set(pids)
    while new:
        children = {pid: parent for pid, parent in parents.items() if parent in new and pid not in below and pid not in pids}
        below |= children
        new = set(children)
    return below


def _seize_descendants(loop: Loop, pids: Sequence[int], recorder: Recorder) -> None:
    """Seize what the processes have started, and what those start meanwhile.  Raises TracerError if one may not be traced."""
    done: set[int] = set()
    while new := {pid: parent for pid, parent in descendants(pids).items() if pid not in done}:
        for pid, parent in new.items():
            _seize_threads(loop, pid)
            before, after = executable_of(parent), executable_of(pid)
            if before != after:
                recorder.executed(before, after)
        done |= new.keys()


def _seize_threads(loop: Loop, pid: int) -> None:
    """Seize every thread of a process, including those that start meanwhile.  Raises TracerError if one may not be traced."""
    options = kernel.OPTION_FOLLOW | linux.PTRACE_O_TRACESYSGOOD
    done: set[int] = set()
    while new := numbers_in(f"{pid}/task") - done:
        for tid in sorted(new):
            try:
                kernel.seize(tid, options)
                kernel.interrupt(tid)
            except PtraceError as error:
                if error.errno != errno.ESRCH and not _is_dead_or_ours(tid):
                    raise TracerError(f"cannot attach to {tid}: {not_permitted(error)}", error.call, error.errno) from None
                continue
            task = loop.family.add(tid, pid)
            task.filtered = task.covered = False
        done |= new


def _is_dead_or_ours(tid: int) -> bool:
    """Whether PTRACE_SEIZE failed because the thread is a zombie, or because the kernel has attached it for us already."""
    fields = fields_of(tid)
    return not fields or fields["State"][0] in "ZX" or fields["TracerPid"] == str(os.getpid())


# Filters


def read_filters(pid: int) -> list[bytes]:
    """Return the filters of a process or thread, each an array of struct sock_filter, in the order in which they were installed
    (kernel/seccomp.c, get_nth_filter; ptrace(2) says the opposite).  The process is stopped meanwhile, and not changed.

    Raises TracerError if the filters cannot be read: that needs CAP_SYS_ADMIN, no filter on this process itself, a kernel with
    CONFIG_CHECKPOINT_RESTORE (ptrace(2), PTRACE_SECCOMP_GET_FILTER), and a process that is not traced."""
    try:
        kernel.seize(pid, 0)
    except PtraceError as error:
        raise TracerError(f"process {pid} cannot be stopped: {_reason(error, pid)}", error.call, error.errno) from error
    pending = 0
    try:
        kernel.interrupt(pid)
        _, status = os.waitpid(pid, linux.WALL)
        if not os.WIFSTOPPED(status):
            raise TracerError(f"process {pid} has ended", "ptrace", errno.ESRCH)
        pending = 0 if status >> 16 else os.WSTOPSIG(status)  # a signal, which detaching must deliver
        return _filters(pid)
    except PtraceError as error:
        message = f"the filters of process {pid} cannot be read: {_reason(error, pid)}"
        raise TracerError(message, error.call, error.errno) from error
    finally:
        kernel.resume(linux.PTRACE_DETACH, pid, pending)


def filter_counts(pid: int) -> dict[int, int]:
    """Return the number of filters of each thread of a process, by tid (proc_pid_status(5), Seccomp_filters, since Linux 5.9).
    Threads for which the kernel does not report the number are left out."""
    fields = {tid: fields_of(tid) for tid in sorted(numbers_in(f"{pid}/task"))}
    return {tid: int(status["Seccomp_filters"]) for tid, status in fields.items() if "Seccomp_filters" in status}


def _filters(pid: int) -> list[bytes]:
    filters: list[bytes] = []
    while True:
        try:
            length = kernel.filter_length(pid, len(filters))
        except PtraceError as error:
            if error.errno in (errno.ENOENT, errno.EINVAL):  # no more of them; no filters at all
                return filters
            raise
        filters.append(kernel.filter_content(pid, len(filters), length))


def _reason(error: PtraceError, pid: int) -> str:
    reasons = {
        errno.ESRCH: "there is no such process",
        errno.EPERM: f"not permitted, or it is traced already (TracerPid in /proc/{pid}/status)",
        errno.EACCES: "it needs CAP_SYS_ADMIN, and no filter on this process",
        errno.EIO: "this kernel was built without CONFIG_CHECKPOINT_RESTORE",
        errno.EMEDIUMTYPE: "the kernel has not kept what they were made from",
    }
    return reasons.get(error.errno) or os.strerror(error.errno or errno.EINVAL)
