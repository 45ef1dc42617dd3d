"""One run of learning: starts a program, and follows it until it has ended."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from typing import TYPE_CHECKING, Final

from tracer import kernel, linux
from tracer.abi import Arch, table
from tracer.abi.waits import CANDIDATES, ENTER, NOTIFY, calls_of, is_ready
from tracer.errors import PtraceError, TracerError
from tracer.late.filter import UNSEEN
from tracer.loop import PLAIN, Loop, Settings
from tracer.named import NamedTuple
from tracer.proc import has_filter, proc
from tracer.processor import TICK
from tracer.signals import Dispositions, SignalThread
from tracer.starting.launch import OPTIONS, Launch, is_64_bit
from tracer.watch.aims import Aims

if TYPE_CHECKING:
    from collections.abc import Callable

    from tracer.abi import Event
    from tracer.calls import Calls, Handler
    from tracer.starting.launch import Program
    from tracer.tally import Recorder
    from tracer.task import Task
    from tracer.watch.faults import Injector

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


class Hooks(NamedTuple):
    """What is called during a run."""

    tick: Callable[[Loop], None] = lambda loop: None
    """From another thread, some times a second."""
    exited: Callable[[Loop], None] = lambda loop: None
    """Once if processes outlive the initial one."""
    attach: Callable[[Calls], None] = lambda calls: None
    """Before the run; may have the tracer call functions at the stops of calls (`Calls.also`)."""
    aimed: Callable[[bool], None] | None = None
    """For each process that is signalled or looked at (`tracer.watch.aims`)."""


NO_HOOKS: Final = Hooks()


class Started:
    """A program that we have started, as a target of signals."""

    def __init__(self, loop: Loop, hooks: Hooks) -> None:
        self._loop = loop
        self._hooks = hooks
        self._has_told = False
        """Whether `exited` was called."""

    def send(self, signum: int, *, from_terminal: bool) -> None:
        """Send a signal to the initial process, or, when that has ended, to the processes that it left: those may have left
        the terminal."""
        if signum in LET_GO:
            self._loop.asked = signum
        if self._loop.initial.status is None:
            if not from_terminal:
                send(self._loop.initial.pid, signum)
        else:
            for tgid in {task.tgid for task in list(self._loop.tasks.values())}:
                send(tgid, signum)

    def reached(self, signum: int, sender: int, since: float) -> bool:
        by, when = self._loop.initial.delivered.get(signum, (-1, 0.0))
        return by == sender and when >= since

    def has(self, pid: int) -> bool:
        return pid in self._loop.tasks

    def stopped(self) -> int:
        task = self._loop.tasks.get(self._loop.initial.pid)
        return task.stopped if task else 0

    def tick(self) -> None:
        self._loop.processor.tick()
        self._hooks.tick(self._loop)
        initial = self._loop.initial
        if not self._has_told and initial.status is not None and time.monotonic() - initial.ended > LINGERING:
            self._hooks.exited(self._loop)
            self._has_told = True


def trace(
    program: Program,
    recorder: Recorder,
    settings: Settings = PLAIN,
    hooks: Hooks = NO_HOOKS,
    injector: Injector | None = None,
) -> Outcome:
    """Run a program until it and all that it started have ended.

    `settings.late` holds where that is possible; else each call stops nevertheless.  Raises StartError when the program did not
    start, TracerError when it may not be traced.
    """
    is_free = not has_filter(os.getpid())
    must_see_all = settings.known or settings.waits or settings.from_entry or injector is not None
    can_be_late = not must_see_all and is_free and proc() == "/proc" and is_64_bit(program.path)
    settings = settings._replace(late=settings.late and can_be_late)
    loop = Loop(recorder, settings, injector)
    hooks.attach(loop.calls)
    reached = Waits(loop).reached if settings.waits else {}
    if hooks.aimed is not None:
        Aims(loop.tasks, hooks.aimed).attach(loop.calls)
    if proc() != "/proc":
        recorder.gap("/proc is not mounted for this pid namespace: it is not known which executable made a call, and where")
    loop.calls.started = True
    dispositions = Dispositions()
    try:
        if settings.known:
            loop.processor.disable()  # a known call does not stop, and may be one that reads the affinity
        launch = Launch(program, dispositions, UNSEEN if settings.late else settings.known or kernel.RECORD_ALL)
        try:
            kernel.seize(launch.pid, OPTIONS)
        except PtraceError as error:
            os.kill(launch.pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):  # SIGCHLD is ignored; tracees report nevertheless
                os.waitpid(launch.pid, 0)
            raise TracerError(not_permitted(error), error.call, error.errno) from None
        loop.begin(launch.pid, is_free=is_free)
        launch.go()
        follow(loop, Started(loop, hooks))
        launch.check()
    finally:
        dispositions.restore()
    initial = loop.initial
    if not initial.started and initial.status is not None and os.WIFEXITED(initial.status):
        raise TracerError("the kernel did not show the program's execve, so nothing of it was recorded")
    outcome = Outcome(initial.status, loop.family.processes, loop.family.calls, initial.started, loop.asked)
    return outcome._replace(waits=tuple(sorted({0, *reached.values()}))) if settings.waits else outcome


def kill(loop: Loop) -> None:
    """Kill all processes of a run, from `tick`; called again at the next tick for those that they start meanwhile."""
    for tgid in {task.tgid for task in list(loop.tasks.values())}:
        send(tgid, signal.SIGKILL)


def follow(loop: Loop, target: Started) -> None:
    """Follow all tasks until none is left.  Signals to this process go to the target."""
    signals = SignalThread(target, TICK)
    signals.start()
    try:
        loop.run(signals.stop_with_program)
    finally:
        signals.end()
        loop.processor.disable()


def send(pid: int, signum: int) -> None:
    """Send a signal to a process that may have ended."""
    try:
        os.kill(pid, signum)
    except OSError:
        return  # it has ended


def not_permitted(error: PtraceError) -> str:
    """Why PTRACE_SEIZE may have failed, and what to do."""
    reason = f"the kernel does not permit ptrace here ({os.strerror(error.errno)})"
    if (scope := linux.yama_scope()) in ("2", "3"):
        return f"{reason}: kernel.yama.ptrace_scope is {scope}; an administrator can lower it to 1"
    return f"{reason}: is it traced already, or is this a container without ptrace?  See `callfence doctor`"


class Waits:
    """Which waits each process of a loop has begun: what it did before and after each is counted apart.

    A server starts until it first waits for work.  Only a recorder whose counters have five elements takes this: count, call
    site, example, and the waits (bits of tracer.abi.waits) after which, and before which, the observation was made."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self.reached: dict[int, int] = {}
        """By process, the waits that it and those that it comes from have begun, also when it has ended."""
        loop.tally.has_waits = True
        for bit, name in enumerate(CANDIDATES):
            for arch in (Arch.X86_64, Arch.I386):
                for call in filter(None, map(table(arch).by_name.get, calls_of(name))):
                    loop.calls.also(arch.audit, call.number, self._handler(1 << bit, _WHEN.get(name, _always)))

    def _handler(self, bit: int, begins: Callable[[Task, Event], bool]) -> Handler:
        def handle(task: Task, event: Event) -> None:
            if not task.entered & bit and begins(task, event):
                self._enter(task, bit, event)

        return handle

    def _enter(self, task: Task, bit: int, event: Event) -> None:
        for other in list(self._loop.tasks.values()):
            if other.tgid == task.tgid:
                other.entered |= bit
                other.hot = self._loop.tally.hot(other.executable, other.entered)
        self.reached[task.tgid] = task.entered
        self._loop.tally.note(task, event)


def _always(_task: Task, _event: Event) -> bool:
    return True


def _enters(_task: Task, event: Event) -> bool:
    return event.arguments[0] == linux.CALLFENCE_ENTER


def _notifies(task: Task, event: Event) -> bool:
    arch = Arch.from_audit(event.arch) or Arch.X86_64
    is_sendmsg = table(arch).by_number[event.number].name == "sendmsg"

    def read(address: int, size: int) -> bytes:
        return kernel.read_memory(task.tid, address, size) if address >> 63 == 0 else b""

    return is_ready(event.arguments, read, pointer=arch.bits // 8, is_sendmsg=is_sendmsg)


_WHEN = {ENTER: _enters, NOTIFY: _notifies}
"""Of triggers that are some calls only."""
