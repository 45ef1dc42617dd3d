"""What the policies say of a call: found once for each call, from the call and the phase of its process alone."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from policygen.evaluate import evaluate
from policygen.model import Action, strictest
from policygen.phases import START, in_phase, phase_policies
from tracer.abi import Arch, Event
from tracer.named import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from enforcer.listener import Asked
    from policygen.model import Policy

    Files = tuple[tuple[str, Policy], ...]
    """Policies as they are in a phase, each with the file to add a line to."""


class Verdict(NamedTuple):
    """The judgement of one call."""

    event: Event
    phase: str
    """The phase of the process; "" where there are none."""
    until: str
    """The phase that ends it; "" for none."""
    action: Action
    """The strictest one of all policies."""
    policies: Files
    denying: Files
    """Those of the policies that do not let the call run."""
    is_free: bool
    """Whether no policy denies the call explicitly, and all allow what grants nothing beyond their entries."""


class Verdicts:
    """The policies of a program."""

    def __init__(self, policies: Sequence[tuple[str, Policy]]) -> None:
        self._policies = policies
        names = [name for _, policy in policies for name, _ in phase_policies(policy) if policy.phases]
        self._start = START if names else ""
        self._until = dict(pairwise(names))
        """By the name of a phase, the one that ends it."""

    def of(self, event: Event, phase: str) -> Verdict:
        """Judge a call of a process in that phase ("": in none, or in the first)."""
        phase = phase or self._start
        policies = tuple((file, in_phase(policy, phase) if policy.phases else policy) for file, policy in self._policies)
        actions = [evaluate(policy, event) for _, policy in policies]
        denying = tuple(one for one, action in zip(policies, actions, strict=True) if not action.allows)
        is_free = all(_is_free(policy, event) for _, policy in policies)
        return Verdict(event, phase, self._until.get(phase, ""), strictest(actions), policies, denying, is_free)


def _is_free(policy: Policy, event: Event) -> bool:
    arch = Arch.from_audit(event.arch)
    if arch is None or not policy.implied or arch not in policy.entries:
        return False
    entry = policy.entries[arch].get(event.number)
    return entry is None or entry.only_allows


def event_of(asked: Asked) -> Event:
    """The call of a notification."""
    call = asked.call
    return Event(call.arch, call.number, tuple(call.arguments), call.ip, call.task)
