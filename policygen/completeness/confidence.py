"""Estimates of how likely a policy learned from some runs fits the next one.

Runs are treated as random draws from all uses of the program.  If they were all alike (the same input each
time), the estimate holds only for runs like these.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

from policygen.completeness.needs import known_from, last_new, needed, needs
from policygen.values import frozen
from tracer.abi import Arch

if TYPE_CHECKING:
    from policygen.recording.runs import Recording, Run


class Unseen(StrEnum):
    """What no run has exercised, as far as a recording knows: it has the calls, not their results."""

    START = "no start: every run was that of a process that ran already, or is known from a log"
    SIGNAL = "no signal handler returned"
    SHUTDOWN = "no run was observed to its own exit: each was ended by a signal or not followed to the end"
    FAILURE = "no run ended with a failure status"
    VARIETY = "every run had the same command line"


@frozen
class Confidence:
    """Estimates from a recording's runs about the next run."""

    runs: int
    chance: float | None
    """Estimated chance that one more run needs a new rule: the share of the runs that need a rule which the other runs
    do not give (Good and Turing's estimate, with runs as draws).  None for fewer than two runs.  A warm run does not
    record which rules of its policy it needs, so a rule from before a warm run never counts as needed by a single
    run: the estimate is then that of the runs since."""
    at_most: float | None
    """If `chance` is 0: one more run needs something new in at most this share of cases (95 % confidence):
    1 - 0.05**(1/runs).  With warm runs, only those since the last new rule are counted."""
    last_new: Run | None
    """The last run with a rule, or part of one, that no earlier run gave."""
    single: tuple[tuple[int, int], ...]
    """The calls (arch, number) with a rule that only one run is known to need; ascending."""
    unseen: tuple[Unseen, ...]


def confidence(recording: Recording, *, names_only: bool = False) -> Confidence:
    """Return the estimates; `names_only`: for a policy learned with names of calls only."""
    runs = recording.runs
    lonely: set[int] = set()
    last, single = -1, set()
    start = known_from(runs)
    for need in needs(recording.observations, names_only=names_only):
        last = max(last, last_new(need))
        if len(need.rules) == 1 and need.columns[0] >= start:
            single.add((need.arch, need.number))
        lonely.update(column for column in needed(need) if column >= start)
    several = len(runs) > 1
    quiet = len(runs) - 1 - last if start else len(runs)
    return Confidence(
        runs=len(runs),
        chance=len(lonely) / len(runs) if several else None,
        at_most=1 - 0.05 ** (1 / quiet) if several and quiet and not lonely else None,
        last_new=runs[last] if last >= 0 else None,
        single=tuple(sorted(single)),
        unseen=unseen(recording),
    )


def unseen(recording: Recording) -> tuple[Unseen, ...]:
    runs = recording.runs
    numbers = {(observation.arch, observation.number) for observation in recording.observations}
    found = {
        Unseen.START: bool(runs) and not any(run.complete for run in runs),
        Unseen.SIGNAL: numbers.isdisjoint(_SIGNAL_RETURNS),
        Unseen.SHUTDOWN: not any(run.complete and run.status is not None and run.status >= 0 for run in runs),
        Unseen.FAILURE: not any(run.status is not None and run.status > 0 for run in runs),
        Unseen.VARIETY: len(runs) > 1 and len({run.command for run in runs}) == 1,
    }
    return tuple(what for what, is_unseen in found.items() if is_unseen)


# asm/unistd_64.h, asm/unistd_32.h (sigreturn and rt_sigreturn), asm-generic/unistd.h
_SIGNAL_RETURNS = {
    (Arch.X86_64.audit, 15),
    (Arch.I386.audit, 119),
    (Arch.I386.audit, 173),
    (Arch.AARCH64.audit, 139),
}
