"""What is decided about observations without the algebra is what the algebra says."""

from __future__ import annotations

import pytest
import strategies
from hypothesis import HealthCheck, example, given, settings, strategies as st

from callfence.policygen.implied import resolve
from callfence.policygen.learning import extend
from callfence.policygen.model import ALLOW, KILL, Always, And, Condition, Entry, Expression, Operator, Policy, mentioned
from callfence.policygen.recording.model import Observation, recorded_values
from callfence.policygen.sets.algebra import FALSE
from callfence.policygen.sets.region import Budget, space, to_bdd
from callfence.tracer.abi import Arch, Event, table

TABLE = table(Arch.X86_64)
CALLS = [TABLE.by_name[name].number for name in ("mmap", "openat", "socket", "prctl", "clone")]
many = settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


def _observation(event: Event) -> Observation:
    return Observation(event.arch, event.number, recorded_values(TABLE, event), "/bin/it", (1,), "?", event.arguments)


@pytest.mark.long
@many
@given(st.data())
def test_observations_are_sorted_out_as_the_algebra_does(data: st.DataObject) -> None:
    number = data.draw(st.sampled_from(CALLS))
    entry = data.draw(strategies.entries(Arch.X86_64, number))
    policy = Policy({Arch.X86_64: {number: entry}})
    events = [data.draw(strategies.events(policy))._replace(arch=Arch.X86_64.audit, number=number) for _ in range(3)]
    seen = [_observation(event) for event in dict.fromkeys(events)]
    default = data.draw(st.sampled_from((KILL, ALLOW)))
    plainly = extend._plainly_holds
    sorted_out = extend.sort_out(entry, default, seen, TABLE)
    extend._plainly_holds = lambda *_: None
    try:
        assert extend.sort_out(entry, default, seen, TABLE) == sorted_out
    finally:
        extend._plainly_holds = plainly


def test_deny_refuses_and_an_entry_that_holds_nowhere_else_does_not() -> None:
    number = TABLE.by_name["socket"].number
    seen = [_observation(Event(Arch.X86_64.audit, number, (2, 1, 0, 0, 0, 0)))]
    assert extend.sort_out(Entry(Always(False)), KILL, seen, TABLE) == ((), tuple(seen), ())
    assert extend.sort_out(Entry(Condition(0, Operator.EQ, 1)), KILL, seen, TABLE) == (tuple(seen), (), ())


@pytest.mark.long
@many
@given(st.data(), st.sampled_from(CALLS))
def test_expressions_meet_where_the_algebra_says(data: st.DataObject, number: int) -> None:
    arguments = TABLE.by_number[number].arguments
    parts = st.lists(strategies.conditions(Arch.X86_64, number), max_size=3).map(lambda parts: And(tuple(parts)))
    part: Expression = data.draw(parts)
    other = data.draw(strategies.expressions(Arch.X86_64, number))
    sets = space()
    meet = sets.and_(to_bdd(sets, part, arguments), to_bdd(sets, other, arguments)) != FALSE
    assert resolve._meet(part, other, mentioned(other), arguments, Budget()) == meet


@example(values=(1, 2))
@given(st.tuples(st.integers(0, 3), st.integers(0, 3)))
def test_an_argument_that_is_to_have_two_values_has_none(values: tuple[int, int]) -> None:
    number = TABLE.by_name["socket"].number
    part = And(tuple(Condition(0, Operator.EQ, value) for value in values))
    other = Condition(0, Operator.LE, 3)
    assert resolve._meet(part, other, frozenset((0,)), TABLE.by_number[number].arguments, Budget()) == (values[0] == values[1])
