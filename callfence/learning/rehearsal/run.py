"""Makes one rehearsed run, in which a call fails or the circumstances differ, and ends it if it takes too long."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import tempfile
import time
from typing import TYPE_CHECKING, Final

from callfence.learning.rehearsal.surroundings import Input, Scratch, Streams
from callfence.learning.watch import Recorder, watch_files, watch_hosts
from callfence.tracer.faults import Injector
from callfence.tracer.loop import Loop, Settings
from callfence.tracer.named import NamedTuple
from callfence.tracer.proc import is_caught, state_of
from callfence.tracer.running import session

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from callfence.learning.options import LearnOptions
    from callfence.learning.rehearsal.plan import Rehearsal
    from callfence.policygen.evidence.facts import Places
    from callfence.policygen.recording.model import Observation, Run
    from callfence.tracer.abi import Event, EventCounter
    from callfence.tracer.running.launch import Program

MULTIPLE: Final = 3
"""A run is ended after this many times the seconds of the plain run, but not before SHORTEST."""
SHORTEST: Final = 3.0
"""The least seconds that a run gets before MULTIPLE ends it."""
IDLE: Final = 1.5
"""A run is ended after it has waited for this many seconds: no client connects to a server, and no user types."""
FEW: Final = 100
"""A program that makes at most this many calls in IDLE seconds counts as waiting: some wake up from time to time."""
BUSY: Final = ("R", "D", "t")
"""States of a task that does not wait for others: running, waiting for a disk, or stopped for its tracer."""
CROWD: Final = 16
"""If a run has more tasks than this, their states are not read, which takes 15 us each."""
TIMEOUT: Final = 1.0
"""Seconds that a run gets to end after SIGTERM, and that processes get to end by themselves after their program's end."""
SIGTERM: Final = 15
_OTHER_USER: Final = 65534
"""The ids of nobody and nogroup."""


class Setting(NamedTuple):
    """The values that all runs of a rehearsal share."""

    program: Program
    input: Input
    seconds: float
    """How long the plain run took."""
    scratch: Scratch | None
    options: LearnOptions
    places: Callable[[], Places] | None
    """The result of `watch.places_of`."""
    min_free: int
    """Free bytes on the disk below which a run is ended."""
    with_files: bool = False
    """Whether to record files."""
    with_hosts: bool = False
    """Whether to record hosts and unix sockets."""


class Rehearsed(NamedTuple):
    """The result of a rehearsed run."""

    run: Run
    observations: tuple[Observation, ...]
    fired: bool
    """Whether its fault happened."""
    is_interrupted: bool
    """Whether the user asked for the end."""
    is_full: bool
    """Whether less than `Setting.min_free` bytes of the disk are free after it."""


class Clock:
    """Ends a run that takes too long, only waits for IDLE seconds, or has processes left TIMEOUT seconds after its first one
    ended: by SIGTERM if the first process handles it, and by killing it TIMEOUT seconds later; else by killing it at once.

    A run that fills the disk, or that the user interrupts, is killed at once."""

    def __init__(self, setting: Setting, seconds: float, distinct: Callable[[], int], start: Callable[[], None]) -> None:
        """`seconds`: the most seconds of the run.  `distinct` returns the number of observations.  `start` is called once, when
        the program runs."""
        self.is_ended = False
        """Whether the clock has ended the run."""
        self._start: Callable[[], None] | None = start
        self._distinct = distinct
        self._began = time.monotonic()
        self._busy = self._began
        """When the program last did more than wait, in seconds of time.monotonic."""
        self._counts = (0, 0)
        """The numbers of calls and of observations at that time."""
        self._limit = min(max(MULTIPLE * setting.seconds, SHORTEST), seconds)
        self._ending = 0.0
        self._min_free = setting.min_free

    def tick(self, loop: Loop) -> None:
        """End the run if it is time to; the tracer calls this several times a second."""
        now = time.monotonic()
        if self._start is not None:
            self._start()
            self._start = None
        if self._is_busy(loop):
            self._busy, self._counts = now, (loop.family.calls, self._distinct())
        if self._ending:
            if now - self._ending > TIMEOUT or loop.ended_by:
                session.kill(loop)
        elif loop.ended_by or free_space() < self._min_free:
            self.is_ended = True
            self._ending = now - TIMEOUT
            session.kill(loop)
        elif loop.initial.status is not None:
            if now - loop.initial.ended > TIMEOUT:
                self._end(loop, now)
        elif now - self._began > self._limit or now - self._busy > IDLE:
            self._end(loop, now)

    def _is_busy(self, loop: Loop) -> bool:
        calls, distinct = self._counts
        if self._distinct() > distinct or loop.family.calls > calls + FEW:
            return True
        tasks = [task for task in list(loop.tasks.values()) if not task.stopped]
        return len(tasks) <= CROWD and any(state_of(task.tid) in BUSY for task in tasks)

    def _end(self, loop: Loop, now: float) -> None:
        """Send SIGTERM to the program if it has a handler for it; else kill the run."""
        self.is_ended, self._ending = True, now
        task = loop.tasks.get(loop.initial.pid)
        if task is not None and is_caught(task.tid, SIGTERM):
            session.send(task.tgid, SIGTERM)
        else:
            self._ending -= TIMEOUT
            session.kill(loop)


def free_space() -> int:
    """Return the free bytes for the current folder or for temporary files, whichever are less; 0 if unknown."""
    try:
        return min(shutil.disk_usage(folder).free for folder in (".", tempfile.gettempdir()))
    except OSError:  # the current folder was removed
        return 0


class _Recorder(Recorder):
    """A recorder that replaces paths in the copy of the current folder by those in the folder itself."""

    def __init__(self, renamed: Callable[[str], str], places: Callable[[], Places] | None) -> None:
        super().__init__(places, renamed)
        self._renamed = renamed

    def executed(self, before: str, after: str) -> None:
        super().executed(self._renamed(before), self._renamed(after))

    def counter(self, executable: str, event: Event, site: Callable[[], str], unknown: Collection[int] = ()) -> EventCounter:
        return super().counter(self._renamed(executable), event, lambda: self._renamed(site()), unknown)


def _as_here(folder: str, renamed: Callable[[str], str]) -> Callable[[str], str]:
    """Return `renamed`, but for paths in a folder, which it returns as those in the current one."""
    there, here = os.path.realpath(folder), os.getcwd()

    def result(path: str) -> str:
        return here + path.removeprefix(there) if path == there or path.startswith(f"{there}/") else renamed(path)

    return result


def run(setting: Setting, rehearsal: Rehearsal, seconds: float) -> Rehearsed:
    """Make a rehearsed run of at most `seconds`, and return its result.  Raises StartError, TracerError, OSError."""
    circumstance, scratch = rehearsal.circumstance, setting.scratch
    renamed = scratch.renamed if scratch else str
    recorder = _Recorder(renamed, setting.places)
    streams = Streams(setting.input, circumstance.streams if circumstance else {})
    injector = Injector(rehearsal.fault, circumstance.exhaust if circumstance else (), renamed)
    emptied = circumstance.empty if circumstance else ""
    is_other_user = circumstance is not None and circumstance.is_other_user

    def enter() -> None:
        if scratch:
            scratch.enter()
        if emptied == ".":
            os.chdir(empty)
        streams.enter()
        _, hard = resource.getrlimit(resource.RLIMIT_CORE)
        resource.setrlimit(resource.RLIMIT_CORE, (0, hard))  # some runs are meant to abort
        if is_other_user:
            os.setgroups([])
            os.setgid(_OTHER_USER)
            os.setuid(_OTHER_USER)

    environment = circumstance.environment(setting.program.environment) if circumstance else setting.program.environment
    path = os.path.abspath(setting.program.path) if emptied == "." else setting.program.path
    started = time.time_ns()
    clock = Clock(setting, seconds, recorder.__len__, streams.start)
    settings = Settings(setting.options.allow_opaque, from_entry=setting.options.arm == "entry")
    try:
        if scratch:
            scratch.begin()
        with tempfile.TemporaryDirectory() if emptied else contextlib.nullcontext("") as empty:
            if emptied == "TMPDIR":
                environment = (*environment, b"TMPDIR=" + os.fsencode(empty))
            program = setting.program._replace(path=path, environment=environment, prepare=enter)
            if setting.with_hosts:
                watch_hosts(environment, recorder, renamed)
            if setting.with_files and not is_other_user:  # for whom the modes of files are others
                watch_files(program, recorder, _as_here(empty, renamed) if emptied == "." else renamed)
            hooks = session.Hooks(clock.tick, attach=recorder.attach)
            outcome = session.trace(program, recorder, settings, hooks, injector)
            command, done = setting.options.command, not clock.is_ended
            run = recorder.run(command, started, outcome, complete=done, rehearsed=rehearsal.description)
    finally:
        streams.close()
        if scratch:
            scratch.end()
    return Rehearsed(run, recorder.observations(), injector.fired, bool(outcome.ended_by), free_space() < setting.min_free)
