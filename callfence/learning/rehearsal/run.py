"""The program run again and again, each time with one thing other than in the plain run, and what that brings."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Final, NamedTuple

from callfence.learning.rehearsal.clock import Clock, free_space
from callfence.learning.rehearsal.news import key_of, new_in, sorted_out
from callfence.learning.rehearsal.streams import Input, Streams
from callfence.learning.watch import Recorder
from policygen.recording.runs import Recording, Run
from tracer import session
from tracer.errors import CallfenceError
from tracer.faults import Injector

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from callfence.learning.rehearsal.news import News
    from callfence.learning.rehearsal.plan import Rehearsal
    from callfence.learning.rehearsal.scratch import Scratch
    from policygen.model import Policy
    from policygen.recording.fold import Slot
    from policygen.recording.observation import Observation
    from tracer.abi import Event
    from tracer.launch import Program

QUIET: Final = 40
"""Failing calls in a row that bring nothing new, after which the others are left out."""
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
    known = {key for seen in recording.observations if (key := key_of(seen, setting.names)) is not None}
    executables = {seen.executable for seen in recording.observations}
    floor = free_space() // 2
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
            made = _made(setting, one, budget.seconds - spent, floor)
        except (CallfenceError, OSError) as error:
            failed.append(f"{one.says}: {error}")
            continue
        if not made.fired and one.group == "faults":
            unreached.add(one.place)
        new = tuple(new_in(made.observations, known, policy(), setting.names))
        quiet = 0 if new else quiet + 1
        if new:
            news += len(new)
            keep(sorted_out(one, made.run, new, executables, setting.allow_opaque))
        if made.asked:
            reason = "it was interrupted"
            break
        if made.is_full:
            reason = "a run has filled half of the free space of the disk; --scratch drops what a run writes"
            break
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
    is_full: bool
    """Whether it has left less free space than there must be."""


class _Recorder(Recorder):
    """Records what runs in a copy of the current folder as if it ran in the folder itself."""

    def __init__(self, renamed: Callable[[str], str]) -> None:
        super().__init__()
        self._renamed = renamed

    def executed(self, before: str, after: str) -> None:
        super().executed(self._renamed(before), self._renamed(after))

    def slot(self, executable: str, event: Event, site: Callable[[], str], unknown: Collection[int] = ()) -> Slot:
        return super().slot(self._renamed(executable), event, lambda: self._renamed(site()), unknown)


def _made(setting: Setting, one: Rehearsal, seconds: float, floor: int) -> _Made:
    """Raises StartError, TracerError, OSError."""
    circumstance, scratch = one.circumstance, setting.scratch
    renamed = scratch.renamed if scratch else str
    recorder = _Recorder(renamed)
    streams = Streams(setting.input, circumstance.streams if circumstance else {})
    injector = Injector(one.fault, circumstance.exhaust if circumstance else (), renamed)

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
    clock = Clock(setting.seconds, seconds, floor, streams.start)
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
    return _Made(run, recorder.observations(), injector.fired, bool(outcome.asked), free_space() < floor)
