"""The rules that the runs of a recording need, and which runs need each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from policygen.learning.floor import FLOOR
from policygen.learning.generalise import learned
from policygen.learning.rule import join, key
from policygen.values import frozen
from tracer.abi import Arch, table

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from policygen.learning.rule import Rule
    from policygen.recording.observation import Observation
    from policygen.recording.runs import Run

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
