"""One run of learning: starts a program or attaches to a process, and follows it until it has ended."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from tracer import kernel, linux
from tracer.errors import PtraceError, TracerError
from tracer.launch import OPTIONS, Launch
from tracer.loop import Loop
from tracer.processor import TICK
from tracer.signals import Dispositions, SignalThread
from tracer.task import has_filter, proc

if TYPE_CHECKING:
    from collections.abc import Callable

    from tracer.faults import Injector
    from tracer.launch import Program
    from tracer.tally import Recorder

LET_GO: Final = frozenset((signal.SIGHUP, signal.SIGINT, signal.SIGTERM))
"""Signals by which an attached session ends."""
LINGERING: Final = 1.0
"""Seconds that other processes may outlive the initial one before `exited` is called."""
WAKE: Final = signal.SIGURG
"""Interrupts the main thread's waitpid.  Ignored by default, so that one that comes late does no harm."""


class Outcome(NamedTuple):
    """How a run ended."""

    status: int | None
    """Wait status of the initial process; None if we detached from it."""
    processes: int
    calls: int
    started: bool = True
    """False if it was killed within its execve: no instruction of it ran."""
    asked: int = 0
    """SIGHUP, SIGINT or SIGTERM, if this process got one from outside the program; else 0."""


class _Started:
    """A program that we have started, as a target of signals."""

    def __init__(self, loop: Loop, tick: Callable[[Loop], None], exited: Callable[[Loop], None]) -> None:
        self._loop = loop
        self._tick = tick
        self._exited: Callable[[Loop], None] | None = exited

    def send(self, signum: int, *, from_terminal: bool) -> None:
        """Send a signal to the initial process, or, when that has ended, to the processes that it left: those may have left
        the terminal."""
        if signum in LET_GO:
            self._loop.asked = signum
        if self._loop.status is None:
            if not from_terminal:
                send(self._loop.initial, signum)
        else:
            for tgid in {task.tgid for task in list(self._loop.tasks.values())}:
                send(tgid, signum)

    def reached(self, signum: int, sender: int, since: float) -> bool:
        by, when = self._loop.delivered.get(signum, (-1, 0.0))
        return by == sender and when >= since

    def has(self, pid: int) -> bool:
        return pid in self._loop.tasks

    def stopped(self) -> int:
        task = self._loop.tasks.get(self._loop.initial)
        return task.stopped if task else 0

    def tick(self) -> None:
        self._loop.processor.tick()
        self._tick(self._loop)
        if self._exited and self._loop.status is not None and time.monotonic() - self._loop.ended > LINGERING:
            self._exited(self._loop)
            self._exited = None


class _Attached(_Started):
    """A process that we have attached to: it gets none of the signals that are sent to us."""

    def __init__(self, loop: Loop, tick: Callable[[Loop], None]) -> None:
        super().__init__(loop, tick, lambda loop: None)
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


def trace(
    program: Program,
    recorder: Recorder,
    *,
    allow_opaque: frozenset[str] = frozenset(),
    from_entry: bool = False,
    known: bytes = b"",
    tick: Callable[[Loop], None] = lambda loop: None,
    exited: Callable[[Loop], None] = lambda loop: None,
    injector: Injector | None = None,
) -> Outcome:
    """Run a program until it and all that it started have ended.

    `known` is a filter that lets known behaviour run and returns kernel.RET_RECORD for the rest; by default all is recorded.
    `tick` is called from another thread some times a second, `exited` once if processes outlive the initial one.
    Raises StartError when the program did not start, TracerError when it may not be traced.
    """
    loop = Loop(recorder, allow_opaque)
    loop.from_entry = from_entry
    if injector is not None:
        loop.injector = injector
        injector.attach(loop.calls, loop.is_loading)
    loop.strangers = _children()
    if proc() != "/proc":
        recorder.gap("/proc is not mounted for this pid namespace: it is not known which executable made a call, and where")
    dispositions = Dispositions()
    try:
        if known:
            loop.processor.disable()  # a known call does not stop, and may be one that reads the affinity
        launch = Launch(program, dispositions, known or kernel.RECORD_ALL)
        loop.initial = launch.pid
        try:
            kernel.seize(launch.pid, OPTIONS)
        except PtraceError as error:
            os.kill(launch.pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):  # SIGCHLD is ignored; tracees report nevertheless
                os.waitpid(launch.pid, 0)
            raise TracerError(_not_permitted(error), error.call, error.errno) from None
        task = loop.family.add(launch.pid, launch.pid)
        task.recorded = False
        if has_filter(os.getpid()):
            # Ours does not see what a filter in force refuses: stop before both, which costs two more stops a call.
            task.request, task.other_filter = linux.PTRACE_SYSCALL, True
        loop.processor.pin(task)
        launch.go()
        _run(loop, _Started(loop, tick, exited))
        launch.check()
    finally:
        dispositions.restore()
    if not loop.started and loop.status is not None and os.WIFEXITED(loop.status):
        raise TracerError("the kernel did not show the program's execve, so nothing of it was recorded")
    return Outcome(loop.status, loop.family.processes, loop.family.calls, loop.started, loop.asked)


def attach(
    pid: int,
    recorder: Recorder,
    *,
    allow_opaque: frozenset[str] = frozenset(),
    tick: Callable[[Loop], None] = lambda loop: None,
) -> Outcome:
    """Follow a running process until it ends, or until SIGINT, SIGTERM or SIGHUP asks us to detach.

    It gets no filter, and without PTRACE_O_EXITKILL it survives our death.
    Raises TracerError.
    """
    loop = Loop(recorder, allow_opaque)
    loop.initial = pid
    loop.strangers = _children()
    dispositions = Dispositions()
    former = signal.signal(WAKE, lambda signum, frame: loop.release())
    try:
        _seize_threads(loop, pid)
        loop.started = True
        recorder.executed("", next(iter(loop.tasks.values())).executable)
        _run(loop, _Attached(loop, tick))
    finally:
        signal.signal(WAKE, former)
        dispositions.restore()
    return Outcome(loop.status, loop.family.processes, loop.family.calls)


def kill(loop: Loop) -> None:
    """Kill all processes of a run, from `tick`; called again at the next tick for those that they start meanwhile."""
    for tgid in {task.tgid for task in list(loop.tasks.values())}:
        send(tgid, signal.SIGKILL)


def _run(loop: Loop, target: _Started) -> None:
    signals = SignalThread(target, TICK)
    loop.on_stop = signals.stop_with_program
    signals.start()
    try:
        loop.run()
    finally:
        signals.end()
        loop.processor.disable()


def _seize_threads(loop: Loop, pid: int) -> None:
    """Seize every thread of a process, including those that start meanwhile.  Raises TracerError."""
    options = kernel.OPTION_FOLLOW | linux.PTRACE_O_TRACESYSGOOD
    seen: set[int] = set()
    while new := _threads(pid) - seen:
        for tid in sorted(new):
            try:
                kernel.seize(tid, options)
                kernel.interrupt(tid)
            except PtraceError as error:
                if error.errno != errno.ESRCH and not _is_dead_or_ours(tid):
                    raise TracerError(f"cannot attach to {tid}: {_not_permitted(error)}", error.call, error.errno) from None
                continue
            task = loop.family.add(tid, pid)
            task.filtered = False
            task.request = linux.PTRACE_SYSCALL
        seen |= new
    if not loop.tasks:
        raise TracerError(f"no process {pid}, or it has ended", "ptrace", errno.ESRCH)


def _threads(pid: int) -> set[int]:
    try:
        return {int(name) for name in os.listdir(f"{proc()}/{pid}/task")}
    except OSError:
        return set()


def _is_dead_or_ours(tid: int) -> bool:
    """Whether PTRACE_SEIZE failed because the thread is a zombie, or because the kernel has attached it for us already."""
    try:
        status = Path(f"{proc()}/{tid}/status").read_text(errors="replace")
    except OSError:
        return True
    return "\nState:\tZ" in status or "\nState:\tX" in status or f"\nTracerPid:\t{os.getpid()}\n" in status


def send(pid: int, signum: int) -> None:
    """Send a signal to a process that may have ended."""
    try:
        os.kill(pid, signum)
    except OSError:
        return  # it has ended


def _children() -> frozenset[int]:
    """The children of this process, for instance of the shell that it was before its execve."""
    try:
        return frozenset(map(int, Path(f"{proc()}/thread-self/children").read_text().split()))
    except OSError:
        return frozenset()


def _not_permitted(error: PtraceError) -> str:
    """Why PTRACE_SEIZE may have failed, and what to do."""
    reason = f"the kernel does not permit ptrace here ({os.strerror(error.errno)})"
    if (scope := linux.yama_scope()) in ("2", "3"):
        return f"{reason}: kernel.yama.ptrace_scope is {scope}; an administrator can lower it to 1"
    return f"{reason}: is it traced already, or is this a container without ptrace?  See `callfence doctor`"
