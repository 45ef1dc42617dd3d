"""What a rehearsed run brought: what of it is new, and what of that is not to be granted without a person."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from policygen.completeness.needs import needed_by
from policygen.evaluate import evaluate
from policygen.review.risk import needs_a_person
from tracer.abi import Arch, table

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from callfence.learning.rehearsal.plan import Rehearsal
    from policygen.model import Policy
    from policygen.recording.observation import Observation
    from policygen.recording.runs import Run


class News(NamedTuple):
    """What one run brought that neither the policy allows nor an earlier run had."""

    rehearsal: Rehearsal
    run: Run
    observations: tuple[Observation, ...]
    dangerous: tuple[Observation, ...]
    """Those of them that the catalogue warns of: they are left for a person to decide."""
    held: tuple[Observation, ...]
    """Those that are not to be granted: the dangerous ones, and what is done by programs that only they would start."""


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


def sorted_out(
    one: Rehearsal, run: Run, new: tuple[Observation, ...], executables: Collection[str], allow_opaque: frozenset[str]
) -> News:
    dangerous = tuple(seen for seen in new if needs_a_person(seen, allow_opaque))
    executes = any(_name(seen) in ("execve", "execveat") for seen in dangerous)
    held = tuple(seen for seen in new if seen in dangerous or (executes and seen.executable not in executables))
    return News(one, run, new, dangerous, held)


def _name(seen: Observation) -> str:
    arch = Arch.from_audit(seen.arch)
    return table(arch).by_number[seen.number].name if arch and seen.number in table(arch).by_number else ""
