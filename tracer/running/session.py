"""One run of learning: starts a program, and follows it until it has ended; passes signals on that are sent to this process.

The program gets the signals that it would get without learn.  The terminal's SIGINT, SIGQUIT and SIGTSTP reach the whole
foreground group, hence the program too, and so does a signal to the group: they are not passed on.  A signal to learn alone is.
All are blocked here, and one thread takes them with sigtimedwait(2), because siginfo names their sender.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING, Final

from callfence.tracer import kernel, linux
from callfence.tracer.abi import NATIVE, Arch, Event, table
from callfence.tracer.abi.waits import CANDIDATES, ENTER, NOTIFY, calls_of, is_ready
from callfence.tracer.aims import Aims
from callfence.tracer.errors import PtraceError, TracerError
from callfence.tracer.late.filter import UNSEEN
from callfence.tracer.loop import PLAIN, Loop, Settings
from callfence.tracer.named import NamedTuple
from callfence.tracer.proc import fields_of, handles, has_filter, proc, state_of
from callfence.tracer.processor import TICK
from callfence.tracer.running.launch import OPTIONS, TAKEN, Dispositions, Launch, Program, is_64_bit

if TYPE_CHECKING:
    from collections.abc import Callable

    from callfence.tracer.calls import Calls, Handler
    from callfence.tracer.faults import Injector
    from callfence.tracer.tally import Recorder
    from callfence.tracer.task import Task

ENDING: Final = frozenset((signal.SIGHUP, signal.SIGINT, signal.SIGTERM))
"""Signals by which a user ends a run."""
TERMINAL_STOPS: Final = frozenset((signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU))
FROM_TERMINAL: Final = frozenset((signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGWINCH))
"""Signals that the kernel sends for a terminal, besides TERMINAL_STOPS."""
GROUP_DELAY: Final = 0.02
"""Seconds within which the kernel has sent a signal to all members of a group, one after the other."""
GROUP_WINDOW: Final = 0.5
"""Seconds by which the thread that takes signals may get a processor later than the program got the same signal."""
PATIENCE: Final = 5.0
"""Seconds that are waited, at most, until it is known whether a signal reaches the program."""
POLL: Final = 0.005
"""Seconds between two looks at the program's threads."""
LINGERING: Final = 1.0
"""Seconds that other processes may outlive the initial one before `exited` is called."""


class Outcome(NamedTuple):
    """How a run ended."""

    status: int | None
    """Wait status of the initial process; None if we detached from it."""
    calls: int
    """The number of calls that have stopped for the tracer."""
    started: bool = True
    """False if it was killed within its execve: no instruction of it ran."""
    ended_by: int = 0
    """SIGHUP, SIGINT or SIGTERM, if this process got one from outside the program; else 0."""
    waits: tuple[int, ...] = ()
    """The sets of waits that processes had begun by their end, as bits of tracer.abi.waits, 0 among them; empty if not
    followed."""


class Hooks(NamedTuple):
    """The functions that are called during a run."""

    tick: Callable[[Loop], None] = lambda loop: None
    """Called by another thread, some times a second."""
    exited: Callable[[Loop], None] = lambda loop: None
    """Called once, if other processes outlive the initial one."""
    attach: Callable[[Calls], None] = lambda calls: None
    """Called before the run; may have the tracer call functions at the stops of calls (`Calls.also`)."""
    aimed: Callable[[bool], None] | None = None
    """Called for each process that is signalled or inspected; the argument is that of `tracer.aims.Aims`."""


NO_HOOKS: Final = Hooks()


def trace(
    program: Program, recorder: Recorder, settings: Settings = PLAIN, hooks: Hooks = NO_HOOKS, injector: Injector | None = None
) -> Outcome:
    """Run a program until it and all processes that it started have ended.

    `recorder` gets the calls.  If late filters (`settings.late`) are not possible in this run, every call stops.  Raises
    StartError if the execve of the program fails, and TracerError if the kernel does not permit tracing, or an earlier step of
    the start fails."""
    is_free = not has_filter(os.getpid())
    must_see_all = settings.filter or settings.waits or settings.from_entry or injector is not None
    can_be_late = not must_see_all and is_free and proc() == "/proc" and is_64_bit(program.path)
    settings = settings._replace(late=settings.late and can_be_late)
    loop = Loop(recorder, settings, injector)
    hooks.attach(loop.calls)
    if settings.waits:
        Waits(loop).attach()
    if hooks.aimed is not None:
        Aims(loop.tasks, hooks.aimed).attach(loop.calls)
    if proc() != "/proc":
        lacking = "which executable made a call, and where, nor all files that it named"
        recorder.gap(f"/proc is not mounted for this pid namespace: it is not known {lacking}")
    loop.calls.started = True
    dispositions = Dispositions()
    try:
        if settings.filter:
            loop.processor.disable()  # a known call does not stop, and may be one that reads the affinity
        launch = Launch(program, dispositions, UNSEEN if settings.late else settings.filter or kernel.RECORD_ALL)
        try:
            kernel.seize(launch.pid, OPTIONS)
        except PtraceError as error:
            os.kill(launch.pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):  # SIGCHLD is ignored; tracees report nevertheless
                os.waitpid(launch.pid, 0)
            raise TracerError(not_permitted(error), error.call, error.errno) from None
        loop.begin(launch.pid, is_free=is_free)
        launch.go()
        follow(loop, SignalThread(loop, hooks))
        launch.check()
    finally:
        dispositions.restore()
    initial = loop.initial
    if not initial.started and initial.status is not None and os.WIFEXITED(initial.status):
        raise TracerError("the kernel did not show the program's execve, so nothing of it was recorded")
    waits = tuple(sorted(loop.family.waits)) if settings.waits else ()
    return Outcome(initial.status, loop.family.calls, initial.started, loop.ended_by, waits)


def kill(loop: Loop) -> None:
    """Kill all processes of a run.  `tick` calls this again and again, since processes may start others in the meantime."""
    for tgid in {task.tgid for task in list(loop.tasks.values())}:
        send(tgid, signal.SIGKILL)


def follow(loop: Loop, signals: SignalThread) -> None:
    """Handle the stops of all tasks until none is left, while the thread `signals` takes the signals that are sent to this
    process."""
    signals.start()
    try:
        loop.run(signals.stop_with_program)
    finally:
        signals.end()
        loop.processor.disable()


def send(pid: int, signum: int) -> None:
    """Send a signal to a process; do nothing if it has ended, or may not be signalled."""
    with contextlib.suppress(OSError):
        os.kill(pid, signum)


def not_permitted(error: PtraceError) -> str:
    """Return a sentence about why the kernel refused PTRACE_SEIZE with `error`, and what to do."""
    reason = f"the kernel does not permit ptrace here ({os.strerror(error.errno)})"
    if (scope := linux.yama_scope()) in ("2", "3"):
        return f"{reason}: kernel.yama.ptrace_scope is {scope}; an administrator can lower it to 1"
    return f"{reason}: is it traced already, or is this a container without ptrace?  See `callfence doctor`"


# Signals


class SignalThread(threading.Thread):
    """Takes the signals of `TAKEN`, which the caller has blocked in every thread, for a program that we have started."""

    def __init__(self, loop: Loop, hooks: Hooks) -> None:
        """`hooks.tick` is called every TICK seconds."""
        super().__init__(daemon=True)
        self._loop = loop
        self._hooks = hooks
        self._has_exited = False
        """Whether `hooks.exited` was called."""
        self._ended = False
        self._must_stop = False
        """Whether this process was asked to stop, and has not stopped yet."""
        self._lock = threading.Lock()

    def start(self) -> None:
        """Start the thread.  Raises TracerError if a limit of processes or of memory prevents that."""
        try:
            super().start()
        except RuntimeError:
            message = "no thread can be started: the limit of processes (ulimit -u) or of memory (ulimit -v) is reached"
            raise TracerError(message, "clone", errno.EAGAIN) from None

    def run(self) -> None:
        try:
            self.tick()
            while not self._ended:
                info = kernel.wait_for_signal(TAKEN, TICK)
                if info is None:
                    self.tick()
                elif not self._ended:
                    self._take(*info)
        except Exception as error:  # signals are no longer passed on
            sys.excepthook(type(error), error, error.__traceback__)

    def tick(self) -> None:
        """Do the periodic work: let the processor release tasks, call `hooks.tick`, and call `hooks.exited` once if other
        processes outlive the initial one."""
        self._loop.processor.tick()
        self._hooks.tick(self._loop)
        initial = self._loop.initial
        if not self._has_exited and initial.status is not None and time.monotonic() - initial.ended > LINGERING:
            self._hooks.exited(self._loop)
            self._has_exited = True

    def send(self, signum: int, *, from_terminal: bool) -> None:
        """Send a signal to the initial process or, if that has ended, to all other processes of the program.

        With `from_terminal`, the kernel has sent the signal to the terminal's foreground group, so the initial process already
        has it; if that has ended, the others get it nevertheless, because they may be in another group."""
        if signum in ENDING:
            self._loop.ended_by = signum
        if self._loop.initial.status is None:
            if not from_terminal:
                send(self._loop.initial.pid, signum)
        else:
            for tgid in {task.tgid for task in list(self._loop.tasks.values())}:
                send(tgid, signum)

    def reaches_program(self, signum: int, sender: int) -> bool:
        """Return whether the initial process gets `signum` from the process `sender` (0: the kernel) as well.  Waits until that
        is known, at most PATIENCE seconds: either thread of this process may get a processor late."""
        since = time.monotonic() - GROUP_WINDOW
        time.sleep(GROUP_DELAY)
        initial, end = self._loop.initial, time.monotonic() + PATIENCE
        unknown: list[Task] | None = None
        """The program's threads that may be in the stop before this signal is delivered; None while the signal is pending."""
        while unknown != [] and initial.status is None and time.monotonic() < end:
            if unknown is None and handles(fields_of(initial.pid), signum, "ShdPnd"):
                if signum < signal.SIGRTMIN:
                    return True  # to send it once more changes nothing
            else:
                threads = self._loop.family.threads(initial.pid) if unknown is None else unknown
                unknown = [task for task in threads if not self._is_at_rest(task)]
            time.sleep(POLL)
        pid, when = initial.delivered.get(signum, (-1, 0.0))
        return pid == sender and when >= since

    def _is_at_rest(self, task: Task) -> bool:
        """Return whether a task of the program is in no stop that has not been handled yet."""
        return self._loop.tasks.get(task.tid) is not task or bool(task.stopped) or state_of(task.tid) != "t"

    def stopped(self) -> int:
        """Return the signal of the group-stop that the initial process is in; 0 if it is in none."""
        task = self._loop.tasks.get(self._loop.initial.pid)
        return task.stopped if task else 0

    def _take(self, signum: int, code: int, sender: int) -> None:
        """Pass a signal on or not.  `code` > 0: the kernel sent it."""
        if signum == signal.SIGCONT:
            # A shell continues the whole group, hence the program too; a signal to us alone does not reach it.
            time.sleep(GROUP_DELAY)
            if self.stopped():
                self.send(signum, from_terminal=False)
        elif signum in TERMINAL_STOPS and code > 0:
            self._must_stop = True
            self.stop_with_program()
        elif code > 0 and signum in FROM_TERMINAL and not (signum == signal.SIGHUP and os.getsid(0) == os.getpid()):
            self.send(signum, from_terminal=True)
        elif sender not in self._loop.tasks:
            # From the kernel: a hangup reaches only the leader of the session, an alarm(2) from before the execve only us.
            if not self.reaches_program(signum, 0 if code > 0 else sender):
                self.send(signum, from_terminal=False)
            if signum in TERMINAL_STOPS:
                self._must_stop = True
                self.stop_with_program()

    def stop_with_program(self) -> None:
        """Stop this process by the program's stop signal, which the shell waits for, if a stop was requested and the program
        has stopped.

        This process never stops before the program: while it is stopped, the program's tasks cannot get past a system call."""
        with self._lock:  # both threads call this
            signum = self.stopped()
            if not self._must_stop or not signum:
                return
            self._must_stop = False
        if signum != signal.SIGSTOP and signal.getsignal(signum) is signal.SIG_DFL:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signum])
            signal.pthread_kill(threading.get_ident(), signum)  # not to the process: sigtimedwait could take it
            signal.pthread_sigmask(signal.SIG_BLOCK, [signum])
        else:
            os.kill(os.getpid(), signal.SIGSTOP)

    def end(self) -> None:
        """End the thread, and wait until it has ended; no further signal is passed on."""
        self._ended = True
        signal.pthread_kill(self.ident or 0, signal.SIGCONT)
        self.join()


# Phases


class Waits:
    """Follows which of the waits in tracer.abi.waits each process has begun, so that observations before and after a wait are
    counted apart.  What other threads call beside one that begins a wait counts as made after it, too: another thread may be
    the first the next time.

    A server starts until it first waits for work.  The recorder's counters must have six elements (`tally`)."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop

    def attach(self) -> None:
        self._loop.tally.has_waits = True
        for bit, name in enumerate(CANDIDATES):
            for call in calls_of(name):
                self._loop.calls.also_named(call, self._handler(name, 1 << bit))

    def _handler(self, name: str, bit: int) -> Handler:
        def handle(task: Task, event: Event) -> None:
            if not (task.waited if task.pages else task.entered) & bit and _begins(name, task, event):
                self._enter(task, bit, event)

        return handle

    def _enter(self, task: Task, bit: int, event: Event) -> None:
        tally, is_first = self._loop.tally, not task.entered & bit
        task.waited |= bit
        for other in self._loop.family.threads(task.tgid):
            if other is not task:
                tally.note_beside(other, task, bit)
            if is_first:
                other.entered |= bit
                tally.turn(other)
        tally.note(task, event)


def _begins(name: str, task: Task, event: Event) -> bool:
    """Whether a call is the wait, or the message, of this name (tracer.abi.waits)."""
    if name == ENTER:
        return event.arguments[0] == linux.CALLFENCE_ENTER
    if name != NOTIFY:
        return True
    arch = Arch.from_audit(event.arch) or NATIVE
    is_sendmsg = table(arch).by_number[event.number].name == "sendmsg"

    def read(address: int, size: int) -> bytes:
        return kernel.read_memory(task.tid, address, size) if address >> 63 == 0 else b""

    return is_ready(event.arguments, read, pointer=arch.bits // 8, is_sendmsg=is_sendmsg)
