"""One run in which a call fails or the circumstances differ; and its end, if it does not end by itself, or not in time."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import tempfile
import time
from typing import TYPE_CHECKING, Final

from callfence.learning.rehearsal.surroundings import Streams
from callfence.learning.watch import Recorder
from tracer.faults import Injector
from tracer.loop import Settings
from tracer.named import NamedTuple
from tracer.proc import is_caught, state_of
from tracer.running import session

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from callfence.learning.options import LearnOptions
    from callfence.learning.rehearsal.plan import Rehearsal
    from callfence.learning.rehearsal.surroundings import Input, Scratch
    from policygen.evidence.facts import Places
    from policygen.recording.fold import EventCounter
    from policygen.recording.model import Observation, Run
    from tracer.abi import Event
    from tracer.loop import Loop
    from tracer.running.launch import Program

MULTIPLE: Final = 3
"""A run is ended after this many times as long as the plain run took,"""
SHORTEST: Final = 3.0
"""but not before it has had this many seconds;"""
IDLE: Final = 1.5
"""and when it has waited for this many seconds: no client will connect to a server, and no user will type."""
FEW: Final = 100
"""Calls that a program which waits makes in that time at most: some wake up now and then."""
BUSY: Final = ("R", "D", "t")
"""States of a task that does more than wait: it runs, it waits for a disk, or its tracer has yet to take its stop."""
CROWD: Final = 16
"""Tasks above which the state of none is read, which takes 15 us each."""
TIMEOUT: Final = 1.0
"""Seconds that a run gets for ending on SIGTERM, and processes that outlive their program for ending by themselves."""
SIGTERM: Final = 15
_OTHER_USER: Final = 65534
"""nobody and nogroup."""


class Setting(NamedTuple):
    """What all runs have in common."""

    program: Program
    input: Input
    seconds: float
    """How long the plain run took."""
    scratch: Scratch | None
    options: LearnOptions
    places: Callable[[], Places] | None
    """What `watch.places_of` returns."""
    min_free: int
    """Free bytes on the disk below which a run is ended."""


class Rehearsed(NamedTuple):
    """A run that was made."""

    run: Run
    observations: tuple[Observation, ...]
    fired: bool
    """Whether its fault happened."""
    is_interrupted: bool
    """Whether the user asked for the end."""
    is_full: bool
    """Whether it has left less free space than there must be."""


class Clock:
    """Ends a run that hangs, leaves daemons, fills the disk, or that the user does not want any more."""

    def __init__(self, setting: Setting, seconds: float, distinct: Callable[[], int], start: Callable[[], None]) -> None:
        """`seconds`: those of the budget; `distinct` returns how many observations there are.  `start` is called once the
        program runs."""
        self.is_ended = False
        """Whether the run was ended from here."""
        self._start: Callable[[], None] | None = start
        self._distinct = distinct
        self._began = time.monotonic()
        self._busy = self._began
        """When it was last observed to do more than wait."""
        self._counts = (0, 0)
        """Calls and distinct ones at that time."""
        self._limit = min(max(MULTIPLE * setting.seconds, SHORTEST), seconds)
        self._ending = 0.0
        self._min_free = setting.min_free

    def tick(self, loop: Loop) -> None:
        """Called again and again by the tracer."""
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
        """Ask for the end, as an operator would, before killing."""
        self.is_ended, self._ending = True, now
        task = loop.tasks.get(loop.initial.pid)
        if task is not None and is_caught(task.tid, SIGTERM):
            session.send(task.tgid, SIGTERM)
        else:
            self._ending -= TIMEOUT
            session.kill(loop)


def free_space() -> int:
    """Return the free bytes where the program most likely writes."""
    try:
        return min(shutil.disk_usage(folder).free for folder in (".", tempfile.gettempdir()))
    except OSError:  # the current folder was removed
        return 0


class _Recorder(Recorder):
    """Records what runs in a copy of the current folder as if it ran in the folder itself."""

    def __init__(self, renamed: Callable[[str], str], places: Callable[[], Places] | None) -> None:
        super().__init__(places)
        self._renamed = renamed

    def executed(self, before: str, after: str) -> None:
        super().executed(self._renamed(before), self._renamed(after))

    def counter(self, executable: str, event: Event, site: Callable[[], str], unknown: Collection[int] = ()) -> EventCounter:
        return super().counter(self._renamed(executable), event, lambda: self._renamed(site()), unknown)


def run(setting: Setting, rehearsal: Rehearsal, seconds: float) -> Rehearsed:
    """Run the program once, for at most that many seconds.  Raises StartError, TracerError, OSError."""
    circumstance, scratch = rehearsal.circumstance, setting.scratch
    renamed = scratch.renamed if scratch else str
    recorder = _Recorder(renamed, setting.places)
    streams = Streams(setting.input, circumstance.streams if circumstance else {})
    injector = Injector(rehearsal.fault, circumstance.exhaust if circumstance else (), renamed)
    is_elsewhere = circumstance is not None and circumstance.is_elsewhere

    def enter() -> None:
        if scratch:
            scratch.enter()
        if elsewhere:
            os.chdir(elsewhere)
        streams.enter()
        _, hard = resource.getrlimit(resource.RLIMIT_CORE)
        resource.setrlimit(resource.RLIMIT_CORE, (0, hard))  # some runs are meant to abort
        if circumstance and circumstance.is_other_user:
            os.setgroups([])
            os.setgid(_OTHER_USER)
            os.setuid(_OTHER_USER)

    environment = circumstance.environment(setting.program.environment) if circumstance else setting.program.environment
    path = os.path.abspath(setting.program.path) if is_elsewhere else setting.program.path
    program = setting.program._replace(path=path, environment=environment, prepare=enter)
    started = time.time_ns()
    clock = Clock(setting, seconds, recorder.__len__, streams.start)
    settings = Settings(setting.options.allow_opaque, from_entry=setting.options.arm == "entry")
    try:
        if scratch:
            scratch.begin()
        with tempfile.TemporaryDirectory() if is_elsewhere else contextlib.nullcontext() as elsewhere:
            outcome = session.trace(program, recorder, settings, session.Hooks(clock.tick), injector)
    finally:
        streams.close()
        if scratch:
            scratch.end()
    run = recorder.run(setting.options.command, started, outcome, complete=not clock.is_ended, rehearsed=rehearsal.description)
    return Rehearsed(run, recorder.observations(), injector.fired, bool(outcome.ended_by), free_space() < setting.min_free)
