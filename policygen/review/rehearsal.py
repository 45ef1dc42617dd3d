"""What only rehearsed runs did and nothing but a person may grant: a crash handler that executes a debugger, for instance."""

from __future__ import annotations

from typing import TYPE_CHECKING

from policygen.evaluate import evaluate
from policygen.lint.catalogue import Level
from policygen.review.risk import dangers_of
from tracer.abi import Arch, table
from tracer.linux import OPAQUE

if TYPE_CHECKING:
    from collections.abc import Collection

    from policygen.model import Policy
    from policygen.recording.observation import Key, Observation
    from policygen.recording.runs import Recording


def held_back(recording: Recording, policy: Policy | None, allow_opaque: Collection[str] = ()) -> frozenset[Key]:
    """Return the keys of the observations that learning does not add to a policy, if there is one: what the catalogue warns of
    and the policy does not allow, and, if programs would be executed, what those do that no ordinary run has executed."""
    rehearsed = [
        seen
        for seen in recording.observations
        if recording.rehearsed(seen) and not (policy and evaluate(policy, seen.event).lets_run)
    ]
    dangerous = {seen.key for seen in rehearsed if needs_a_person(seen, allow_opaque)}
    if not any(_name(seen) in ("execve", "execveat") for seen in rehearsed if seen.key in dangerous):
        return frozenset(dangerous)
    ordinary = {seen.executable for seen in recording.plain().observations}
    return frozenset(dangerous | {seen.key for seen in rehearsed if seen.executable not in ordinary})


def needs_a_person(seen: Observation, allow_opaque: Collection[str] = ()) -> bool:
    """Whether the catalogue warns of granting what an observation stands for.  A call that hides its arguments is learned to
    fail, which grants nothing, unless it is in `allow_opaque`."""
    if _name(seen) in OPAQUE and _name(seen) not in allow_opaque:
        return False
    return any(danger.level.rank >= Level.WARNING.rank for danger in dangers_of(seen))


def _name(seen: Observation) -> str:
    """The name of the call; '' if the tables do not have it."""
    arch = Arch.from_audit(seen.arch)
    call = table(arch).by_number.get(seen.number) if arch else None
    return call.name if call else ""
