"""Estimates of how likely a policy learned from some runs fits the next one.

Runs are treated as random draws from all uses of the program.  If they were all alike (the same input each
time), the estimate holds only for runs like these: `seen_only` says what all runs had in common, `run_next` what to run next.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

from policygen.learning.floor import FLOOR
from policygen.learning.generalise import learned
from policygen.learning.rule import join, key
from policygen.values import frozen
from tracer.abi import Arch, table

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from policygen.learning.rule import Rule
    from policygen.recording.model import Observation, Recording, Run

Column = int
"""Index of a run in its recording."""


@frozen
class Need:
    """A rule learned from all runs together."""

    arch: int
    """AUDIT_ARCH_*."""
    number: int
    rules: Mapping[Column, Rule]
    """The part of the rule that each run gives, for the runs that give some; ascending by run."""

    @property
    def columns(self) -> list[Column]:
        return list(self.rules)


def needs(observations: Iterable[Observation], *, names_only: bool = False) -> list[Need]:
    """Return all needs, in the order of their first observations.  Without the floor, which every policy has."""
    found: dict[tuple[int, int, tuple[object, ...]], dict[Column, Rule]] = {}
    for observation in observations:
        rule = needed_by(observation, names_only=names_only)
        if rule is None:
            continue
        runs = found.setdefault((observation.arch, observation.number, key(rule)), {})
        for column, count in enumerate(observation.counts):
            if count:
                runs[column] = join(runs.get(column, rule), rule)
    return [Need(arch, number, dict(sorted(runs.items()))) for (arch, number, _), runs in found.items()]


def needed_by(observation: Observation, *, names_only: bool = False) -> Rule | None:
    """Return the rule that an observation needs; None for the floor."""
    arch = Arch.from_audit(observation.arch)
    calls = table(arch) if arch else None
    if calls is None or observation.number not in calls.by_number:
        return ()
    if calls.by_number[observation.number].name in FLOOR:
        return None
    return () if names_only else learned(observation.fitted(calls), calls)


def known_from(runs: Sequence[Run]) -> Column:
    """Return the last warm run, or 0: of earlier runs it is not known whether a later run needs the same, since a warm run
    does not record what is already allowed."""
    return max((column for column, run in enumerate(runs) if run.warm), default=0)


def widened_by(need: Need) -> list[Column]:
    """Return the runs that gave the rule, or made it wider than the runs before them."""
    first, *later = need.columns
    found, so_far = [first], need.rules[first]
    for column in later:
        wider = join(so_far, need.rules[column])
        if wider != so_far:
            found.append(column)
            so_far = wider
    return found


def last_new(need: Need) -> Column:
    """Return the last run, in their order, that widened the rule."""
    return widened_by(need)[-1]


def needed(need: Need) -> list[Column]:
    """Return the runs that are needed for the rule: without one of them it would be missing, or narrower."""
    columns, rules = need.columns, need.rules
    if len(columns) == 1:
        return columns
    before = [rules[columns[0]]]  # before[i]: of the runs up to i
    for column in columns[1:]:
        before.append(join(before[-1], rules[column]))
    after = [rules[columns[-1]]]
    for column in reversed(columns[:-1]):
        after.append(join(rules[column], after[-1]))
    after.reverse()  # after[i]: of the runs from i on
    others = [after[1], *(join(before[i - 1], after[i + 1]) for i in range(1, len(columns) - 1)), before[-2]]
    return [column for column, rule in zip(columns, others, strict=True) if rule != before[-1]]


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


_STREAMS = (("input", "standard input"), ("output", "standard output"), ("error", "standard error"))
_OUTPUTS = ("a terminal", "a file", "a pipe", "/dev/null")
"""What programs write to, that behave differently on it, the commonest first."""
_PEERS = ("accept", "accept4", "connect", "socketpair")


def seen_only(runs: Sequence[Run]) -> tuple[str, ...]:
    """Return what was the same in every run, of what is known of them; none of no runs."""
    found = []
    by_kind: dict[str, list[str]] = {}
    for name, says in _STREAMS:
        (kind, *others) = sorted({getattr(run.circumstances, name) for run in runs}) or ("",)
        if kind and not others:
            by_kind.setdefault(kind, []).append(says)
    found += [f"{', '.join(says).replace(f', {says[-1]}', f' and {says[-1]}')} {kind}" for kind, says in by_kind.items()]
    users, locales = ({getattr(run.circumstances, name) for run in runs} for name in ("user", "locale"))
    if len(users) == 1 and "" not in users:
        found.append("as root" if users == {"root"} else "not as root")
    if len(locales) == 1 and "" not in locales:
        found.append(f"locale {min(locales)}")
    if len(runs) == 1 and runs[0].complete:
        found.append("one start")
    return tuple(found)


def run_next(recording: Recording) -> tuple[str, ...]:
    """Return what to run next, the most useful first: each follows `run it`.

    Whether a peer hung up, or a call failed, no recording knows: it has the calls, not their results."""
    runs, missing = recording.runs, unseen(recording)
    if not runs:
        return ()
    steps = {
        "from its start": Unseen.START in missing,
        "to its own exit": Unseen.SHUTDOWN in missing,
        "again, on the data that it left": len(runs) == 1,
        "with other arguments": Unseen.VARIETY in missing,
        "so that it fails": Unseen.FAILURE in missing,
        "with a peer that hangs up": _has_peers(recording),
        "with signals that it handles": Unseen.SIGNAL in missing,
        **dict.fromkeys(_other_outputs(runs), True),
        "as another user than root": {run.circumstances.user for run in runs} == {"root"},
        "in another locale": len({run.circumstances.locale for run in runs}) == 1 and runs[0].circumstances.locale != "",
    }
    return tuple(step for step, is_useful in steps.items() if is_useful)


def _other_outputs(runs: Sequence[Run]) -> tuple[str, ...]:
    """What standard output has not been, if it is known what it was."""
    outputs = {run.circumstances.output for run in runs}
    others = [kind for kind in _OUTPUTS if kind not in outputs]
    return (f"with its output to {', '.join(others)}",) if others and "" not in outputs else ()


def _has_peers(recording: Recording) -> bool:
    """Whether it had connections: an error of one is a result, which is not recorded."""
    for seen in recording.observations:
        arch = Arch.from_audit(seen.arch)
        call = table(arch).by_number.get(seen.number) if arch else None
        if call is not None and call.name in _PEERS:
            return True
    return False
