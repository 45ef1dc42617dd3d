"""What a rehearsed run brought that is new."""

from __future__ import annotations

from typing import TYPE_CHECKING

from policygen.completeness.confidence import needed_by
from policygen.evaluate import evaluate
from tracer.named import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from callfence.learning.rehearsal.plan import Rehearsal
    from policygen.model import Policy
    from policygen.recording.model import Observation, Run


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
            if not evaluate(policy, seen.event).lets_run:
                yield seen
