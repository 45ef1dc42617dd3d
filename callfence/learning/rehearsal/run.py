"""The program run again and again, each time with one thing other than in the plain run, and what that brings."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from typing import TYPE_CHECKING, Final, NamedTuple

from callfence.learning.rehearsal.streams import Input, Streams
from callfence.learning.watch import Recorder
from policygen.completeness.needs import needed_by
from policygen.evaluate import evaluate
from policygen.recording.runs import Recording, Run
from policygen.review.catalogue import Level
from policygen.review.risk import dangers_of
from tracer import session
from tracer.abi import Arch, table
from tracer.errors import CallfenceError
from tracer.faults import Injector
from tracer.linux import OPAQUE
from tracer.task import is_caught

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

    from callfence.learning.rehearsal.plan import Rehearsal
    from callfence.learning.rehearsal.scratch import Scratch
    from policygen.model import Policy
    from policygen.recording.observation import Observation
    from tracer.launch import Program
    from tracer.loop import Loop

QUIET: Final = 40
"""Failing calls in a row that bring nothing new, after which the others are left out."""
MULTIPLE: Final = 3
"""A run is ended after this many times as long as the plain run took,"""
SHORTEST: Final = 3.0
"""but not before it has had so many seconds;"""
IDLE: Final = (2.0, 5.0)
"""and when it has made no call for as long as the plain run took, but not sooner and not later than this."""
GRACE: Final = 1.0
"""Seconds that a run gets for ending on SIGTERM, and processes that outlive their program for ending by themselves."""
SIGTERM: Final = 15
_OTHER_USER: Final = 65534
"""nobody and nogroup."""


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


class Budget(NamedTuple):
    runs: int
    seconds: float


class News(NamedTuple):
    """What one run brought that neither the policy allows nor an earlier run had."""

    rehearsal: Rehearsal
    run: Run
    observations: tuple[Observation, ...]
    held: tuple[Observation, ...]
    """Those of them that would be a dangerous grant, and are left for a person to decide."""


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


def rehearse(
    setting: Setting,
    recording: Recording,
    policy: Callable[[], Policy],
    plan: Sequence[Rehearsal],
    budget: Budget,
    tell: Callable[[Progress], None],
    keep: Callable[[News], None],
) -> Ended:
    """Make the runs; `policy` is the policy as it is then, `keep` is called with what one of them has brought.

    Leaves no process.  Ends early when the budget is used up, nothing new comes any more, or the user asks for it.
    """
    known = {key for seen in recording.observations if (key := _key(seen, setting)) is not None}
    unreached: set[object] = set()
    failed: list[str] = []
    began, runs, quiet, news = time.monotonic(), 0, 0, 0
    reason = ""
    for one in plan:
        spent = time.monotonic() - began
        if (one.place is not None and one.place in unreached) or (quiet >= QUIET and one.group == "faults"):
            continue
        if runs >= budget.runs or spent >= budget.seconds:
            reason = f"the budget of {budget.runs} runs and {budget.seconds:.0f} seconds is used up"
            break
        runs += 1
        tell(Progress(runs, min(len(plan), budget.runs), one, news))
        try:
            made = _made(setting, one, budget.seconds - spent)
        except (CallfenceError, OSError) as error:
            failed.append(f"{one.says}: {error}")
            continue
        if made.asked:
            reason = "it was interrupted"
            break
        if not made.fired and one.group == "faults":
            unreached.add(one.place)
        new = tuple(_new(made.observations, known, policy(), setting))
        quiet = 0 if new else quiet + 1
        if new:
            news += len(new)
            held = tuple(seen for seen in new if _is_held(seen, setting.allow_opaque))
            keep(News(one, made.run, new, held))
    if quiet >= QUIET and not reason:
        reason = f"{quiet} runs in a row brought nothing new"
    return Ended(runs, len(plan), time.monotonic() - began, reason, tuple(failed))


class _Made(NamedTuple):
    """A run that was made."""

    run: Run
    observations: tuple[Observation, ...]
    fired: bool
    """Whether its fault happened."""
    asked: bool
    """Whether the user asked for the end."""


def _made(setting: Setting, one: Rehearsal, seconds: float) -> _Made:
    """Raises StartError, TracerError, OSError."""
    circumstance, scratch = one.circumstance, setting.scratch
    recorder = Recorder(scratch.renamed if scratch else str)
    streams = Streams(setting.input, circumstance.streams if circumstance else {})
    injector = Injector(one.fault, circumstance.exhaust if circumstance else ())

    def enter() -> None:
        if scratch:
            scratch.enter()
        streams.enter()
        if circumstance and circumstance.is_other_user:
            os.setgroups([])
            os.setgid(_OTHER_USER)
            os.setuid(_OTHER_USER)

    environment = circumstance.environment(setting.program.environment) if circumstance else setting.program.environment
    program = setting.program._replace(environment=environment, prepare=enter)
    started = time.time_ns()
    clock = _Clock(setting.seconds, seconds, streams.start)
    try:
        if scratch:
            scratch.begin()
        outcome = session.trace(
            program,
            recorder,
            allow_opaque=setting.allow_opaque,
            from_entry=setting.from_entry,
            tick=clock.tick,
            injector=injector,
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
    return _Made(run, recorder.observations(), injector.fired, bool(outcome.asked))


class _Clock:
    """Ends a run that hangs, leaves daemons, fills the disk, or that the user does not want any more."""

    def __init__(self, plain: float, left: float, start: Callable[[], None]) -> None:
        """`plain`: the seconds of the plain run; `left`: those of the budget.  `start` is called once the program runs."""
        self.is_ended = False
        """Whether the run was ended from here."""
        self._start: Callable[[], None] | None = start
        self._began = self._called = time.monotonic()
        self._limit = min(max(MULTIPLE * plain, SHORTEST), left)
        self._idle = min(max(IDLE[0], plain), IDLE[1])
        self._calls = 0
        self._ending = 0.0
        self._free = _free()

    def tick(self, loop: Loop) -> None:
        now = time.monotonic()
        if self._start is not None:
            self._start()
            self._start = None
        if loop.family.calls != self._calls:
            self._calls, self._called = loop.family.calls, now
        if self._ending:
            if now - self._ending > GRACE or loop.asked:
                session.kill(loop)
        elif loop.asked or _free() < self._free // 2:
            self.is_ended = True
            self._ending = now - GRACE
            session.kill(loop)
        elif loop.status is not None:
            if now - loop.ended > GRACE:
                self._end(loop, now)
        elif now - self._began > self._limit or now - self._called > self._idle:
            self._end(loop, now)

    def _end(self, loop: Loop, now: float) -> None:
        """Ask for the end, as an operator would, before killing."""
        self.is_ended, self._ending = True, now
        task = loop.tasks.get(loop.initial)
        if task is not None and is_caught(task.tid, SIGTERM):
            os.kill(task.tgid, SIGTERM)
        else:
            self._ending -= GRACE
            session.kill(loop)


def _free() -> int:
    """Free bytes where the program most likely writes."""
    return min(shutil.disk_usage(folder).free for folder in (".", tempfile.gettempdir()))


def _key(seen: Observation, setting: Setting) -> object | None:
    """What a policy would need for an observation; None if nothing."""
    rule = needed_by(seen, names_only=setting.names)
    return None if rule is None else (seen.arch, seen.number, rule)


def _new(found: Collection[Observation], known: set[object], policy: Policy, setting: Setting) -> Iterator[Observation]:
    """What the policy does not allow and no run had; `known` then has it."""
    for seen in found:
        key = _key(seen, setting)
        if key is not None and key not in known:
            known.add(key)
            if not evaluate(policy, seen.event).lets_run:
                yield seen


def _is_held(seen: Observation, allow_opaque: frozenset[str]) -> bool:
    """Whether it would be a grant that the catalogue warns of; a call that is learned to fail grants nothing."""
    arch = Arch.from_audit(seen.arch)
    name = table(arch).by_number[seen.number].name if arch and seen.number in table(arch).by_number else ""
    if name in OPAQUE and name not in allow_opaque:
        return False
    return any(danger.level.rank >= Level.WARNING.rank for danger in dangers_of(seen))
