"""One run of learning: a program started, or a process attached to, and followed until it has ended."""

from __future__ import annotations

import os
import signal
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tracer import kernel
from tracer.errors import TracerError
from tracer.kernel import PtraceError
from tracer.launch import OPTIONS, Launch
from tracer.loop import Loop
from tracer.processor import TICK
from tracer.signals import Dispositions, SignalThread

if TYPE_CHECKING:
    from collections.abc import Callable

    from tracer.launch import Program
    from tracer.tally import Recorder


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended."""

    status: int | None
    """Wait status of the initial process; None when we let go of it."""
    processes: int
    calls: int


def trace(
    program: Program,
    recorder: Recorder,
    *,
    allow_opaque: frozenset[str] = frozenset(),
    from_entry: bool = False,
    tick: Callable[[Loop], None] = lambda loop: None,
    exited: Callable[[Loop], None] = lambda loop: None,
) -> Outcome:
    """Run a program to its end, and all that it started to theirs.

    `tick` is called from another thread some times a second, `exited` when the initial process has ended and others go on.
    Raises StartError when the program did not start, TracerError when it may not be traced.
    """
    loop = Loop(recorder, allow_opaque)
    loop.from_entry = from_entry
    loop.strangers = _children()
    dispositions = Dispositions()
    try:
        launch = Launch(program, dispositions)
        loop.initial = launch.pid
        try:
            kernel.seize(launch.pid, OPTIONS)
        except PtraceError as error:
            os.kill(launch.pid, signal.SIGKILL)
            os.waitpid(launch.pid, 0)
            raise TracerError(_not_permitted(error)) from None
        task = loop.add(launch.pid, launch.pid)
        task.recorded = False
        loop.processor.pin(task)
        launch.go()

        def forward(signum: int, from_terminal: bool) -> None:
            if loop.status is None:
                if not from_terminal:
                    _send(loop.initial, signum)
            else:
                for tgid in {task.tgid for task in list(loop.tasks.values())}:
                    _send(tgid, signum)

        signals = _signal_thread(loop, forward, tick)
        loop.on_exit = lambda: exited(loop) if loop.tasks else None
        try:
            loop.run()
        finally:
            signals.end()
            loop.processor.release_all()
        launch.check()
    finally:
        dispositions.restore()
    return Outcome(loop.status, loop.processes, loop.calls_counted)


def attach(
    pid: int,
    recorder: Recorder,
    *,
    allow_opaque: frozenset[str] = frozenset(),
    tick: Callable[[Loop], None] = lambda loop: None,
) -> Outcome:
    """Follow a running process until it ends, or SIGINT, SIGTERM or SIGHUP asks to let go of it.

    No filter is left behind, and without PTRACE_O_EXITKILL the process survives even our sudden end.
    Raises TracerError.
    """
    loop = Loop(recorder, allow_opaque)
    loop.initial = pid
    loop.strangers = _children()
    dispositions = Dispositions()
    main = threading.main_thread().ident or 0
    former = signal.signal(signal.SIGURG, lambda signum, frame: loop.release())

    def let_go(signum: int, from_terminal: bool) -> None:
        if signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.pthread_kill(main, signal.SIGURG)

    try:
        _seize_threads(loop, pid)
        signals = _signal_thread(loop, let_go, tick)
        try:
            loop.run()
        finally:
            signals.end()
            loop.processor.release_all()
    finally:
        signal.signal(signal.SIGURG, former)
        dispositions.restore()
    return Outcome(loop.status, loop.processes, loop.calls_counted)


def _seize_threads(loop: Loop, pid: int) -> None:
    """Seize every thread of a process, those included that start meanwhile."""
    options = kernel.OPTION_FOLLOW | kernel.OPTION_SYSGOOD
    while True:
        try:
            tids = sorted(int(name) for name in os.listdir(f"/proc/{pid}/task"))
        except OSError:
            raise TracerError(f"no process {pid}") from None
        new = [tid for tid in tids if tid not in loop.tasks]
        if not new:
            return
        for tid in new:
            try:
                kernel.seize(tid, options)
                kernel.interrupt(tid)
            except PtraceError as error:
                if error.errno == 3:  # ESRCH: it has ended meanwhile
                    if tid == pid:
                        raise TracerError(f"process {pid} has ended") from None
                    continue
                raise TracerError(f"cannot attach to {tid}: {_not_permitted(error)}") from None
            task = loop.add(tid, pid)
            task.filtered = False
            task.request = kernel.PTRACE_SYSCALL


def _signal_thread(loop: Loop, target: Callable[[int, bool], None], tick: Callable[[Loop], None]) -> SignalThread:
    def both() -> None:
        loop.processor.tick()
        tick(loop)

    def stopped() -> bool:
        task = loop.tasks.get(loop.initial)
        return task is not None and task.stopped

    signals = SignalThread(target, lambda sender: sender in loop.tasks, stopped, both, TICK)
    loop.on_stop = signals.stop_with_program
    signals.start()
    return signals


def _send(pid: int, signum: int) -> None:
    try:
        os.kill(pid, signum)
    except OSError:
        return  # it has ended


def _children() -> frozenset[int]:
    """The children of this process, e.g. those of a shell that exec'd it."""
    try:
        return frozenset(map(int, Path("/proc/thread-self/children").read_text().split()))
    except OSError:
        return frozenset()


def _not_permitted(error: PtraceError) -> str:
    """Why PTRACE_SEIZE may have been refused, and the way out."""
    reason = f"the kernel does not permit ptrace here ({os.strerror(error.errno)})"
    try:
        scope = Path("/proc/sys/kernel/yama/ptrace_scope").read_text().strip()
    except OSError:
        scope = "0"
    if scope in "23":
        return f"{reason}: kernel.yama.ptrace_scope is {scope}; an administrator can lower it to 1"
    return f"{reason}: is the program traced already, or a container's seccomp profile without ptrace? See `callfence doctor`"
