"""How sure one may be that a policy learned from some runs fits the next one.

Runs are taken as draws from all the ways in which the program is used.  If they were all alike (the same input each
time), the estimate speaks of runs like these, and of no others.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from policygen.floor import FLOOR
from policygen.generalise import learned
from policygen.rule import join, key
from tracer.abi import Arch, table

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from policygen.observation import Observation
    from policygen.recording import Recording, Run
    from policygen.rule import Rule


class Unseen(StrEnum):
    """What no run has exercised, as far as a recording can tell: it knows the calls, not their results."""

    SIGNAL = "no signal handler returned"
    SHUTDOWN = "no run was observed to its own exit: each was ended by a signal or not followed to the end"
    FAILURE = "no run ended with a failure status"
    VARIETY = "every run had the same command line"


@dataclass(frozen=True, slots=True)
class Confidence:
    """What a recording's runs say about the next one."""

    runs: int
    chance: float | None
    """Estimated chance that one more run needs a rule that the others do not give: the share of the runs of which that
    is true, seen from all others (Good and Turing's estimate, with runs for draws).  None for fewer than two runs, of
    which nothing can be said.  What a warm run needs of the policy it ran with is not recorded, so that no rule
    from before one counts as needed by a single run: the estimate is then that of the runs since."""
    at_most: float | None
    """With no such run, the chance that would still give that outcome one time in twenty: 1 - 0.05**(1/runs);
    with warm runs, only those since the last new rule are counted."""
    last_new: Run | None
    """The run that brought the last rule, or part of one, that no earlier run gave."""
    single: tuple[tuple[int, int], ...]
    """The calls (arch, number) that have a rule seen in one run only, as far as is known; ascending."""
    unseen: tuple[Unseen, ...]


def confidence(recording: Recording, *, names_only: bool = False) -> Confidence:
    """With `names_only`, for a policy that was learned so."""
    runs = recording.runs
    lonely: set[int] = set()
    last, single = -1, set()
    # From here on it is known that no later run needed the same.
    known_from = max((column for column, run in enumerate(runs) if run.warm), default=0)
    for (arch, number), rules in _by_rule(recording.observations, names_only):
        columns = sorted(rules)
        last = max(last, _last_new(columns, rules))
        if len(columns) == 1 and columns[0] >= known_from:
            single.add((arch, number))
        lonely.update(column for column in _needed(columns, rules) if column >= known_from)
    several = len(runs) > 1
    quiet = len(runs) - 1 - last if known_from else len(runs)
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

Column = int
"""Index of a run in its recording."""


def _by_rule(observations: Iterable[Observation], names_only: bool) -> list[tuple[tuple[int, int], dict[Column, Rule]]]:
    """For each rule that all runs together give: its call, and how much of it each run gives that has some.

    Without the floor, which a policy has in any case.
    """
    found: dict[tuple[int, int, tuple[object, ...]], dict[Column, Rule]] = {}
    for observation in observations:
        rule = _rule(observation, names_only)
        if rule is None:
            continue
        runs = found.setdefault((observation.arch, observation.number, key(rule)), {})
        for column, count in enumerate(observation.counts):
            if count:
                runs[column] = join(runs.get(column, rule), rule)
    return [((arch, number), runs) for (arch, number, _), runs in found.items()]


def _rule(observation: Observation, names_only: bool) -> Rule | None:
    """The rule that an observation needs; None for the floor."""
    arch = Arch.from_audit(observation.arch)
    calls = table(arch) if arch else None
    if calls is None or observation.number not in calls.by_number:
        return ()
    if calls.by_number[observation.number].name in FLOOR:
        return None
    return () if names_only else learned(observation.fitted(calls), calls)


def _last_new(columns: Sequence[Column], rules: dict[Column, Rule]) -> Column:
    """The last run that widened the rule, the runs taken in their order."""
    last, so_far = columns[0], rules[columns[0]]
    for column in columns[1:]:
        wider = join(so_far, rules[column])
        if wider != so_far:
            last, so_far = column, wider
    return last


def _needed(columns: Sequence[Column], rules: dict[Column, Rule]) -> list[Column]:
    """The runs without which the rule would be missing, or narrower."""
    if len(columns) == 1:
        return list(columns)
    before = [rules[columns[0]]]  # before[i]: of the runs up to i
    for column in columns[1:]:
        before.append(join(before[-1], rules[column]))
    after = [rules[columns[-1]]]
    for column in reversed(columns[:-1]):
        after.append(join(rules[column], after[-1]))
    after.reverse()  # after[i]: of the runs from i on
    others = [after[1], *(join(before[i - 1], after[i + 1]) for i in range(1, len(columns) - 1)), before[-2]]
    return [column for column, rule in zip(columns, others, strict=True) if rule != before[-1]]
