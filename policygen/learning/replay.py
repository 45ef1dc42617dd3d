"""Check that a policy allows the observed calls, and the most different calls that were folded into each observation."""

from __future__ import annotations

from collections.abc import Iterable

from callfence.policygen.evaluate import evaluate
from callfence.policygen.model import Action, Policy
from callfence.policygen.recording.model import Observation, recorded_values
from callfence.tracer.abi import Event, Kind
from callfence.tracer.abi.table import Table
from callfence.tracer.errors import InternalError, UserError


class ReplayError(InternalError):
    """The policy denies an observed call: a bug of ours, never of the user."""

    def __init__(self, observation: Observation, event: Event, action: Action) -> None:
        super().__init__(f"internal error, nothing written: the new policy answers {event} with {action}; {observation}")
        self.observation = observation


class ContradictionError(UserError):
    """An observation's example is no call with its arguments, so the recording was changed."""

    def __init__(self, observation: Observation, calls: Table) -> None:
        call = f"{calls.by_number[observation.number].name}{observation.arguments}, with the example {observation.example}"
        super().__init__(f"nothing was written, because a recording is damaged: it has {call}")


def replay(policy: Policy, observations: Iterable[tuple[Table, Observation]]) -> None:
    """Raise ReplayError unless the policy allows the events of every observation, given with the table of its call;
    ContradictionError if it cannot."""
    passed: set[Event] = set()
    for calls, observation in observations:
        for event in events(observation, calls):
            if event in passed:
                continue
            action = evaluate(policy, event)
            if not action.allows:
                values = zip(observation.arguments, recorded_values(calls, observation.event), strict=False)
                if any(None not in pair and pair[0] != pair[1] for pair in values):
                    raise ContradictionError(observation, calls)
                raise ReplayError(observation, event, action)
            passed.add(event)


def events(observation: Observation, calls: Table) -> tuple[Event, Event, Event]:
    """Return the observed event, and the two that differ most from it among the events folded into the observation: all bits
    that are not recorded, or that the kernel ignores, cleared or set."""
    plain = calls.by_number[observation.number].arguments
    meanings = calls.arguments(observation.number, observation.example)
    register = (1 << calls.arch.bits) - 1
    extremes = []
    for fill in (0, register):
        registers = [fill] * 6
        for index, (argument, meaning, value) in enumerate(zip(plain, meanings, observation.arguments, strict=True)):
            if value is not None:
                mask = argument.mask
                if meaning.kind is Kind.FIELD:
                    mask = meaning.exact
                elif meaning.kind is Kind.CLOCK and value < 0:
                    mask = 1 << (argument.width - 1)  # only that it is negative
                registers[index] = (value & mask) | (fill & ~mask)
        a, b, c, d, e, f = registers
        extremes.append(Event(observation.arch, observation.number, (a, b, c, d, e, f)))
    return (observation.event, extremes[0], extremes[1])
