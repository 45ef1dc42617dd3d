"""One run of learning: starts a program, and follows it until it has ended."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tracer import kernel, linux
from tracer.errors import PtraceError, TracerError
from tracer.late.filter import UNSEEN
from tracer.loop import Loop
from tracer.named import NamedTuple
from tracer.processor import TICK
from tracer.reach.aims import Aims
from tracer.signals import Dispositions, SignalThread
from tracer.starting.launch import OPTIONS, Launch, is_64_bit
from tracer.task import has_filter, proc
from tracer.waits import Waits

if TYPE_CHECKING:
    from collections.abc import Callable

    from tracer.calls import Calls
    from tracer.faults import Injector
    from tracer.starting.launch import Program
    from tracer.tally import Recorder

LET_GO: Final = frozenset((signal.SIGHUP, signal.SIGINT, signal.SIGTERM))
"""Signals by which a user ends a run."""
LINGERING: Final = 1.0
"""Seconds that other processes may outlive the initial one before `exited` is called."""


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
    waits: tuple[int, ...] = ()
    """The sets of waits that processes have begun, as bits of tracer.abi.waits, 0 among them; empty if not followed."""


class Started:
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
    attach: Callable[[Calls], None] = lambda calls: None,
    waits: bool = False,
    aimed: Callable[[bool], None] | None = None,
    late: bool = False,
    late_after: int | None = None,
) -> Outcome:
    """Run a program until it and all that it started have ended.

    `known` is a filter that lets known behaviour run and returns kernel.RET_RECORD for the rest; by default all is recorded.
    With `waits`, the recorder's slots take the waits after which an observation was made (`tracer.waits`).
    `late`: known calls may run after a while, so that counts are lower bounds (`tracer.late`); where that is not possible, each
    call stops nevertheless.  `late_after` is for tests: how many calls a process makes before.
    `tick` is called from another thread some times a second, `exited` once if processes outlive the initial one, `aimed` for
    each process that is signalled or looked at (`tracer.reach.aims`).
    `attach` may have the tracer call functions at the stops of calls (`Calls.also`).
    Raises StartError when the program did not start, TracerError when it may not be traced.
    """
    loop = Loop(recorder, allow_opaque)
    loop.from_entry = from_entry
    if injector is not None:
        loop.injector = injector
        injector.attach(loop.calls, loop.is_loading)
    attach(loop.calls)
    reached = Waits(loop).reached if waits else {}
    if aimed is not None:
        Aims(loop.tasks, aimed).attach(loop.calls)
    loop.strangers = children()
    if proc() != "/proc":
        recorder.gap("/proc is not mounted for this pid namespace: it is not known which executable made a call, and where")
    is_free = not has_filter(os.getpid())
    must_see_all = known or waits or from_entry or injector is not None
    if late and not must_see_all and is_free and proc() == "/proc" and is_64_bit(program.path):
        loop.filter_late(late_after)
    loop.calls.started = True
    dispositions = Dispositions()
    try:
        if known:
            loop.processor.disable()  # a known call does not stop, and may be one that reads the affinity
        launch = Launch(program, dispositions, UNSEEN if loop.late else known or kernel.RECORD_ALL)
        loop.initial = launch.pid
        try:
            kernel.seize(launch.pid, OPTIONS)
        except PtraceError as error:
            os.kill(launch.pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):  # SIGCHLD is ignored; tracees report nevertheless
                os.waitpid(launch.pid, 0)
            raise TracerError(not_permitted(error), error.call, error.errno) from None
        task = loop.family.add(launch.pid, launch.pid)
        task.recorded = False
        if loop.late:
            loop.late.begin(task)
        elif not is_free:
            # Ours does not see what a filter in force refuses: stop before both, which costs two more stops a call.
            task.request, task.other_filter = linux.PTRACE_SYSCALL, True
        loop.processor.pin(task)
        launch.go()
        follow(loop, Started(loop, tick, exited))
        launch.check()
    finally:
        dispositions.restore()
    if not loop.started and loop.status is not None and os.WIFEXITED(loop.status):
        raise TracerError("the kernel did not show the program's execve, so nothing of it was recorded")
    outcome = Outcome(loop.status, loop.family.processes, loop.family.calls, loop.started, loop.asked)
    return outcome._replace(waits=tuple(sorted({0, *reached.values()}))) if waits else outcome


def kill(loop: Loop) -> None:
    """Kill all processes of a run, from `tick`; called again at the next tick for those that they start meanwhile."""
    for tgid in {task.tgid for task in list(loop.tasks.values())}:
        send(tgid, signal.SIGKILL)


def follow(loop: Loop, target: Started) -> None:
    """Follow all tasks until none is left.  Signals to this process go to the target."""
    signals = SignalThread(target, TICK)
    loop.on_stop = signals.stop_with_program
    signals.start()
    try:
        loop.run()
    finally:
        signals.end()
        loop.processor.disable()


def send(pid: int, signum: int) -> None:
    """Send a signal to a process that may have ended."""
    try:
        os.kill(pid, signum)
    except OSError:
        return  # it has ended


def children() -> frozenset[int]:
    """The children of this process, for instance of the shell that it was before its execve."""
    try:
        return frozenset(map(int, Path(f"{proc()}/thread-self/children").read_bytes().split()))
    except OSError:
        return frozenset()


def not_permitted(error: PtraceError) -> str:
    """Why PTRACE_SEIZE may have failed, and what to do."""
    reason = f"the kernel does not permit ptrace here ({os.strerror(error.errno)})"
    if (scope := linux.yama_scope()) in ("2", "3"):
        return f"{reason}: kernel.yama.ptrace_scope is {scope}; an administrator can lower it to 1"
    return f"{reason}: is it traced already, or is this a container without ptrace?  See `callfence doctor`"
