"""The program run again and again, each time with one thing other than in the plain run, and what that brings; and the end of a
run that does not end by itself, or not in time."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import tempfile
import time
from typing import TYPE_CHECKING, Final

from callfence.learning.rehearsal.surroundings import Input, Streams
from callfence.learning.watch import Recorder
from callfence.shared.text import plural
from policygen.completeness import needed_by
from policygen.evaluate import evaluate
from policygen.recording.model import Recording, Run
from tracer import session
from tracer.errors import CallfenceError
from tracer.loop import Settings
from tracer.named import NamedTuple
from tracer.proc import is_caught, state_of
from tracer.watch.faults import Injector

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

    from callfence.learning.rehearsal.plan import Place, Rehearsal
    from callfence.learning.rehearsal.surroundings import Scratch
    from policygen.evidence.facts import Places
    from policygen.model import Policy
    from policygen.recording.fold import EventCounter
    from policygen.recording.model import Observation
    from tracer.abi import Event
    from tracer.loop import Loop
    from tracer.starting.launch import Program

MULTIPLE: Final = 3
"""A run is ended after this many times as long as the plain run took,"""
SHORTEST: Final = 3.0
"""but not before it has had so many seconds;"""
IDLE: Final = 1.5
"""and when it has waited for so many seconds: nobody will connect to a server, or type."""
FEW: Final = 100
"""Calls that a program which waits makes in that time at most: some wake up now and then."""
BUSY: Final = ("R", "D", "t")
"""States of a task that does more than wait: it runs, it waits for a disk, or its tracer has yet to take its stop."""
CROWD: Final = 16
"""Tasks above which none is asked what it does, which takes 15 us each."""
GRACE: Final = 1.0
"""Seconds that a run gets for ending on SIGTERM, and processes that outlive their program for ending by themselves."""
SIGTERM: Final = 15
QUIET: Final = 40
"""Failing calls in a row that bring nothing new, after which the others are left out."""
_INTERRUPTED: Final = "it was interrupted"
_OTHER_USER: Final = 65534
"""nobody and nogroup."""


class Clock:
    """Ends a run that hangs, leaves daemons, fills the disk, or that the user does not want any more."""

    def __init__(self, plain: float, left: float, floor: int, distinct: Callable[[], int], start: Callable[[], None]) -> None:
        """`plain`: the seconds of the plain run; `left`: those of the budget; `floor`: free bytes below which the run is
        ended; `distinct`: how many observations there are.  `start` is called once the program runs."""
        self.is_ended = False
        """Whether the run was ended from here."""
        self._start: Callable[[], None] | None = start
        self._distinct = distinct
        self._began = self._busy = time.monotonic()
        """`_busy`: when it was last known to do more than wait."""
        self._limit = min(max(MULTIPLE * plain, SHORTEST), left)
        self._seen = (0, 0)
        """Calls and distinct ones at that time."""
        self._ending = 0.0
        self._floor = floor

    def tick(self, loop: Loop) -> None:
        now = time.monotonic()
        if self._start is not None:
            self._start()
            self._start = None
        if self._is_busy(loop):
            self._busy, self._seen = now, (loop.family.calls, self._distinct())
        if self._ending:
            if now - self._ending > GRACE or loop.asked:
                session.kill(loop)
        elif loop.asked or free_space() < self._floor:
            self.is_ended = True
            self._ending = now - GRACE
            session.kill(loop)
        elif loop.initial.status is not None:
            if now - loop.initial.ended > GRACE:
                self._end(loop, now)
        elif now - self._began > self._limit or now - self._busy > IDLE:
            self._end(loop, now)

    def _is_busy(self, loop: Loop) -> bool:
        calls, distinct = self._seen
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
            self._ending -= GRACE
            session.kill(loop)


def free_space() -> int:
    """Free bytes where the program most likely writes."""
    try:
        return min(shutil.disk_usage(folder).free for folder in (".", tempfile.gettempdir()))
    except OSError:  # the current folder was removed
        return 0


class News(NamedTuple):
    """What one run brought that neither the policy allows nor an earlier run had."""

    rehearsal: Rehearsal
    run: Run
    observations: tuple[Observation, ...]


def key_of(seen: Observation, names_only: bool) -> object | None:
    """What a policy would need for an observation; None if nothing."""
    rule = needed_by(seen, names_only=names_only)
    return None if rule is None else (seen.arch, seen.number, rule)


def new_in(
    found: Collection[Observation], known: set[object], policy: Policy, names_only: bool
) -> Iterator[Observation]:
    """What the policy does not allow and no run had; `known` then has it."""
    for seen in found:
        key = key_of(seen, names_only)
        if key is not None and key not in known:
            known.add(key)
            if not evaluate(policy, seen.event).allows:
                yield seen


class Setting(NamedTuple):
    """What all runs have in common."""

    program: Program
    command: tuple[str, ...]
    input: Input
    seconds: float
    """How long the plain run took."""
    scratch: Scratch | None
    allow_opaque: frozenset[str]
    from_entry: bool
    names: bool
    """Whether only names are learned."""
    where: Callable[[], Places] | None
    """What patterns of names call by a sign; None records no evidence."""


class Budget(NamedTuple):
    runs: int
    seconds: float


class Progress(NamedTuple):
    """Where a rehearsal is."""

    number: int
    """Which run begins: 1 is the first."""
    of: int
    rehearsal: Rehearsal
    news: int


class Ended(NamedTuple):
    """How a rehearsal ended."""

    runs: int
    planned: int
    seconds: float
    reason: str
    """Why not all that was planned was run; '' if it was."""
    failed: tuple[str, ...]
    """Runs that could not be made, and why."""


class Rehearsing:
    """A rehearsal that goes on."""

    def __init__(
        self,
        setting: Setting,
        recording: Recording,
        policy: Callable[[], Policy],
        tell: Callable[[Progress], None],
        keep: Callable[[News], None],
    ) -> None:
        """`policy` is the policy as it is when a run ends, and `keep` is called with what the run has brought."""
        self._setting = setting
        self._policy = policy
        self._tell = tell
        self._keep = keep
        self._known = {key for seen in recording.observations if (key := key_of(seen, setting.names)) is not None}
        self._unreached: set[Place] = set()
        """Places that no call of a run was at after its entry point."""
        self._floor = free_space() // 2
        self._began = time.monotonic()
        self._runs = self._quiet = self._news = 0
        self._failed: list[str] = []

    def make(self, plan: Sequence[Rehearsal], budget: Budget) -> Ended:
        """Make the runs, until the budget is used up, nothing new comes any more, or the user asks for the end.

        Leaves no process.
        """
        reason = ""
        try:
            for one in plan:
                if one.place in self._unreached or (self._quiet >= QUIET and one.group == "faults"):
                    continue
                left = budget.seconds - (time.monotonic() - self._began)
                if self._runs >= budget.runs or left <= 0:
                    reason = f"the budget of {plural(budget.runs, 'run')} and {budget.seconds:.0f} seconds is used up"
                    break
                self._runs += 1
                self._tell(Progress(self._runs, min(len(plan), budget.runs), one, self._news))
                if reason := self._make(one, left):
                    break
        except KeyboardInterrupt:
            reason = _INTERRUPTED
        if self._quiet >= QUIET and not reason:
            reason = f"{self._quiet} runs in a row brought nothing new"
        return Ended(self._runs, len(plan), time.monotonic() - self._began, reason, tuple(self._failed))

    def _make(self, one: Rehearsal, seconds: float) -> str:
        """Make one run.  Return why it has to be the last one, or ''."""
        try:
            made = _made(self._setting, one, seconds, self._floor)
        except (CallfenceError, OSError) as error:
            self._failed.append(f"{one.says}: {error}")
            return ""
        if one.place is not None and one.is_first and not made.fired:
            self._unreached.add(one.place)
        new = tuple(new_in(made.observations, self._known, self._policy(), self._setting.names))
        self._quiet = 0 if new else self._quiet + (one.group == "faults")
        if new:
            self._news += len(new)
            self._keep(News(one, made.run, new))
        if made.asked:
            return _INTERRUPTED
        if made.is_full:
            return "a run has filled half of the free space of the disk; --scratch drops what a run writes"
        return ""


class _Made(NamedTuple):
    """A run that was made."""

    run: Run
    observations: tuple[Observation, ...]
    fired: bool
    """Whether its fault happened."""
    asked: bool
    """Whether the user asked for the end."""
    is_full: bool
    """Whether it has left less free space than there must be."""


class _Recorder(Recorder):
    """Records what runs in a copy of the current folder as if it ran in the folder itself."""

    def __init__(self, renamed: Callable[[str], str], where: Callable[[], Places] | None) -> None:
        super().__init__(where)
        self._renamed = renamed

    def executed(self, before: str, after: str) -> None:
        super().executed(self._renamed(before), self._renamed(after))

    def counter(self, executable: str, event: Event, site: Callable[[], str], unknown: Collection[int] = ()) -> EventCounter:
        return super().counter(self._renamed(executable), event, lambda: self._renamed(site()), unknown)


def _made(setting: Setting, one: Rehearsal, seconds: float, floor: int) -> _Made:
    """Raises StartError, TracerError, OSError."""
    circumstance, scratch = one.circumstance, setting.scratch
    renamed = scratch.renamed if scratch else str
    recorder = _Recorder(renamed, setting.where)
    streams = Streams(setting.input, circumstance.streams if circumstance else {})
    injector = Injector(one.fault, circumstance.exhaust if circumstance else (), renamed)

    is_elsewhere = circumstance is not None and circumstance.is_elsewhere
    empty = tempfile.TemporaryDirectory() if is_elsewhere else contextlib.nullcontext()

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
    clock = Clock(setting.seconds, seconds, floor, recorder.__len__, streams.start)
    try:
        if scratch:
            scratch.begin()
        with empty as elsewhere:
            outcome = session.trace(
                program,
                recorder,
                Settings(setting.allow_opaque, setting.from_entry),
                session.Hooks(clock.tick),
                injector,
            )
    finally:
        streams.close()
        if scratch:
            scratch.end()
    run = Run(
        id=os.urandom(8).hex(),
        started=started,
        command=setting.command,
        status=None if outcome.status is None else os.waitstatus_to_exitcode(outcome.status),
        complete=not clock.is_ended,
        gaps=tuple(sorted(recorder.gaps)),
        executed=tuple(sorted(recorder.execs)),
        rehearsed=one.says,
    )
    return _Made(run, recorder.observations(), injector.fired, bool(outcome.asked), free_space() < floor)
