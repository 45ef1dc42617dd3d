"""Recordings: what one or more runs were observed to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from policygen.observation import Key, Observation, Registers

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a program under observation."""

    id: str
    """Unique among all runs everywhere: random, made by whoever records."""
    started: int
    """Nanoseconds since the epoch.  Runs are ordered by it, and then by id."""
    command: tuple[str, ...]
    """Bytes that are not UTF-8 are surrogate-escaped."""
    status: int | None
    """Exit status 0-255, or -N if signal N ended it; None if its end was not observed."""
    complete: bool
    """Whether it was observed from its execve to its end."""
    gaps: tuple[str, ...] = ()
    """What could not be observed, ascending."""
    warm: bool = False
    """Whether what the policy allowed then ran unrecorded: only what was new to it is here."""

    @property
    def order(self) -> tuple[int, str]:
        return (self.started, self.id)


@dataclass(frozen=True, slots=True)
class Recording:
    """Runs, ascending by `Run.order`, and their observations, ascending by `Observation.order`.

    Every observation counts for each of the runs, and was seen in at least one.
    """

    runs: tuple[Run, ...] = ()
    observations: tuple[Observation, ...] = ()

    def __post_init__(self) -> None:
        wrong = first_wrong_run(self.runs), first_wrong_observation(self.observations, len(self.runs))
        if wrong != (None, None):
            raise ValueError(f"run or observation {wrong} out of order, given twice, or not counted for each run")

    def of_run(self, run_id: str) -> tuple[Observation, ...]:
        """What one of the runs did, with the counts of all of them."""
        column = [run.id for run in self.runs].index(run_id)
        return tuple(observation for observation in self.observations if observation.counts[column])


def merge(*recordings: Recording) -> Recording:
    """All runs of the recordings: commutative, associative, idempotent.

    A run that several have is taken once (the complete one, if they differ), with the greater of its counts.
    Call site and example of an observation are those of the earliest run that it was seen in.
    """
    found: dict[str, Run] = {}
    for run in (run for recording in recordings for run in recording.runs):
        found[run.id] = max(run, found.get(run.id, run), key=_completeness)
    runs = tuple(sorted(found.values(), key=lambda run: run.order))
    column = {run.id: index for index, run in enumerate(runs)}
    rows: dict[Key, list[int]] = {}
    firsts: dict[Key, tuple[int, str, Registers]] = {}
    for recording in recordings:
        columns = [column[run.id] for run in recording.runs]
        for observation in recording.observations:
            key = observation.key
            row = rows.setdefault(key, [0] * len(runs))
            earliest = len(runs)
            for index, count in zip(columns, observation.counts, strict=True):
                if count:
                    row[index] = max(row[index], count)
                    earliest = min(earliest, index)
            first = (earliest, observation.site, observation.example)
            firsts[key] = min(first, firsts.get(key, first))
    observations = [Observation(*key, tuple(row), *firsts[key][1:]) for key, row in rows.items()]
    return Recording(runs, tuple(sorted(observations, key=lambda observation: observation.order)))


def _completeness(run: Run) -> tuple[object, ...]:
    """Which of two accounts of one run is the better one; a total order, so that merging has none."""
    return (run.complete, run.status is not None, run.status or 0, run.started, run.command, run.gaps, run.warm)


def first_wrong_run(runs: Sequence[Run]) -> int | None:
    """Index of a run that cannot stand where it stands."""
    known: set[str] = set()
    for index, run in enumerate(runs):
        if run.id in known or (index and runs[index - 1].order >= run.order):
            return index
        known.add(run.id)
    return None


def first_wrong_observation(observations: Sequence[Observation], runs: int) -> int | None:
    """Index of an observation that cannot stand where it stands, in a recording of that many runs."""
    before: tuple[object, ...] = ()
    for index, observation in enumerate(observations):
        order = observation.order
        if order <= before or len(observation.counts) != runs or not any(observation.counts):
            return index
        before = order
    return None
