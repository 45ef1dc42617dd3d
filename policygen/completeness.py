"""Estimate how likely the next run needs a rule that the recorded runs do not give, and suggest which runs to record next.

Runs are treated as random draws from all uses of the program.  If all runs were alike, the estimate holds only for runs like
these: `run_next` suggests others.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import reduce

from callfence.policygen.learning.floor import FLOOR
from callfence.policygen.learning.generalise import learned
from callfence.policygen.learning.rule import Rule, join, key
from callfence.policygen.recording.model import Observation, Recording
from callfence.policygen.values import frozen
from callfence.tracer.abi import table_of


@frozen
class Estimate:
    """The estimated chance that one more run needs a new rule, and the calls that only one run needed."""

    runs: int
    chance: float | None
    """Estimated chance that one more run needs a new rule: the share of runs that need a rule which no other run gives (Good
    and Turing's estimate, with runs as draws).  None for fewer than two runs.  An incremental run does not record which
    existing rules it needs, so only rules that are newer than the last incremental run count."""
    at_most: float | None
    """If `chance` is 0: an upper bound of the share of cases in which one more run needs something new (95 % confidence): 1 -
    0.05**(1/runs). If there are incremental runs, only the runs since the last new rule are counted.  Else None."""
    single: tuple[tuple[int, int], ...]
    """The calls (AUDIT_ARCH_*, number) with a rule that only one run is known to need; ascending."""


def estimate(recording: Recording, *, names_only: bool = False) -> Estimate:
    """Return the estimate for the next run from the recorded runs.  `names_only`: rules are only names."""
    runs = recording.runs
    since = max((index for index, run in enumerate(runs) if run.warm), default=0)
    needed: set[int] = set()
    single: set[tuple[int, int]] = set()
    newest = -1
    for call, rules in _rules_by_run(recording, names_only=names_only):
        newest = max(newest, _last_new(rules))
        alone = [run for run in _needed(rules) if run >= since]
        needed.update(alone)
        if alone and len(rules) == 1:
            single.add(call)
    several = len(runs) > 1
    quiet = len(runs) - 1 - newest if since else len(runs)
    at_most = 1 - 0.05 ** (1 / quiet) if several and quiet and not needed else None
    return Estimate(len(runs), len(needed) / len(runs) if several else None, at_most, tuple(sorted(single)))


def _rules_by_run(recording: Recording, *, names_only: bool) -> Iterator[tuple[tuple[int, int], Mapping[int, Rule]]]:
    """Yield each learned rule: its call, and by index of the run, ascending, the part of it that each run gives."""
    rules: defaultdict[tuple[int, int, tuple[object, ...]], dict[int, Rule]] = defaultdict(dict)
    for observation in recording.observations:
        rule = needed_by(observation, names_only=names_only)
        if rule is not None:
            by_run = rules[observation.arch, observation.number, key(rule)]
            for run, count in enumerate(observation.counts):
                if count:
                    by_run[run] = join(by_run.get(run, rule), rule)
    return (((arch, number), dict(sorted(by_run.items()))) for (arch, number, _), by_run in rules.items())


def needed_by(observation: Observation, *, names_only: bool = False) -> Rule | None:
    """Return the rule that an observation needs.  It is () with `names_only`, and for a call that the tables do not have.  None
    for calls that every learned policy allows."""
    calls = table_of(observation.arch, observation.number)
    if calls is None:
        return ()
    if calls.by_number[observation.number].name in FLOOR:
        return None
    return () if names_only else learned(observation.fitted(calls), calls)


def _needed(rules: Mapping[int, Rule]) -> list[int]:
    """Return the indexes of the runs without which the rule would be missing, or narrower."""
    runs: defaultdict[Rule, list[int]] = defaultdict(list)
    for run, rule in rules.items():
        runs[rule].append(run)
    whole = reduce(join, runs)
    others = {rule: [other for other in runs if other != rule] for rule in runs if len(runs[rule]) == 1}
    return [runs[rule][0] for rule, rest in others.items() if not rest or reduce(join, rest) != whole]


def _last_new(rules: Mapping[int, Rule]) -> int:
    """Return the index of the last run that gave the rule, or made it wider."""
    newest, *later = rules
    so_far = rules[newest]
    for run in later:
        wider = join(so_far, rules[run])
        if wider != so_far:
            newest, so_far = run, wider
    return newest


_OUTPUTS = ("a terminal", "a file", "a pipe", "/dev/null")
"""Kinds of standard output on which programs behave differently, the commonest first."""
_PEERS = {"accept", "accept4", "connect", "socketpair"}
_SIGNAL_RETURNS = {"sigreturn", "rt_sigreturn"}


def run_next(recording: Recording) -> tuple[str, ...]:
    """Return advice for the next runs, the most useful first.  Each text continues the words `run it`: `with other arguments`.
    A recording has calls, not their results, so it is unknown whether a peer hung up or a call failed."""
    runs = recording.runs
    if not runs:
        return ()
    statuses = [run.status for run in runs if run.status is not None]
    users, locales, outputs = ({getattr(run.circumstances, name) for run in runs} for name in ("user", "locale", "output"))
    names = {observation.name for observation in recording.observations}
    others = [] if "" in outputs else [kind for kind in _OUTPUTS if kind not in outputs]
    steps = {
        "from its start": not any(run.complete for run in runs),
        "to its own exit": not any(run.complete and run.status is not None and run.status >= 0 for run in runs),
        "again, on the data that it left": len(runs) == 1,
        "with other arguments": len(runs) > 1 and len({run.command for run in runs}) == 1,
        "so that it fails": max(statuses, default=0) <= 0,
        "with a peer that hangs up": bool(names & _PEERS),
        "with signals that it handles": not names & _SIGNAL_RETURNS,
        f"with its output to {', '.join(others)}": bool(others),
        "as another user than root": users == {"root"},
        "in another locale": len(locales) == 1 and "" not in locales,
    }
    return tuple(step for step, is_useful in steps.items() if is_useful)
