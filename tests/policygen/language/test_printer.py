"""Printed policies parse as the same policy, and equal policies print the same bytes."""

import pytest
import strategies
from calls import parse
from hypothesis import given, settings, strategies as st

from callfence.policygen.evaluate import evaluate
from callfence.policygen.language.document import Document
from callfence.policygen.language.normal import normal
from callfence.policygen.language.operands import operands
from callfence.policygen.model import BITWISE, And, Condition, Entry, Expression, Operator, Or, Policy
from callfence.tracer.abi import Arch, table

slow = settings(max_examples=100)


@slow
@given(strategies.policies())
def test_round_trip(policy: Policy) -> None:
    expected = normal(policy)
    text = Document(expected).text()
    document = parse(text)
    assert document.policy == expected
    assert document.text() == text


@pytest.mark.long
@pytest.mark.parametrize("arch", Arch)
@pytest.mark.parametrize("operator", [Operator.EQ, Operator.IN, Operator.MASKED, Operator.LT])
def test_every_constant_of_every_argument_reads_back(arch: Arch, operator: Operator) -> None:
    """Its neighbours, too, which may have no name, and constants whose meaning depends on another argument."""
    entries = {}
    for number, call in table(arch).by_number.items():
        known = operands(arch, number)
        conditions: list[Expression] = []
        for index, argument in enumerate(call.arguments):
            values = {family.value(name) or 0 for family in known.families(index) for name in family.names}
            near = {value + offset for value in values for offset in (0, 1)} | {0, 1, 1 << argument.width - 1}
            for bits in sorted({value & argument.mask for value in near}) if not known.is_pointer(index) else ():
                value = bits if operator in BITWISE else argument.value(bits)
                mask = argument.mask if operator is Operator.MASKED else 0
                conditions.append(Condition(index, operator, value, mask))
        entries[number] = Entry(Or(tuple(conditions)))
    policy = normal(Policy({arch: entries}, table=table(arch).versions()[-1]))
    assert parse(Document(policy).text()).policy == policy


def test_joint_meanings_read_back() -> None:
    """A selector with each of its values, and the arguments that it gives a meaning."""
    entries = {}
    for number, call in table(Arch.X86_64).by_number.items():
        rules: list[Expression] = []
        for selector, argument in enumerate(call.arguments):
            families = operands(Arch.X86_64, number).families(selector)
            for value in sorted({family.value(name) or 0 for family in families for name in family.names}):
                registers = [value & (1 << 64) - 1 if index == selector else 0 for index in range(6)]
                meanings = table(Arch.X86_64).arguments(number, registers)
                for index, meaning in enumerate(meanings):
                    if index != selector and meaning != call.arguments[index] and not meaning.kind.is_pointer:
                        chosen = Condition(selector, Operator.EQ, argument.value(value))
                        rules += [And((chosen, Condition(index, Operator.EQ, one))) for one in range(4)]
        if rules:
            entries[number] = Entry(Or(tuple(rules)))
    policy = normal(Policy({Arch.X86_64: entries}))
    text = Document(policy).text()
    assert parse(text).policy == policy
    assert "level == SOL_SOCKET && optname == SO_REUSEADDR" in text
    assert "cmd == F_SETFD && arg == FD_CLOEXEC" in text


@pytest.mark.long
@slow
@given(st.data())
def test_normal_form_means_the_same(data: st.DataObject) -> None:
    policy = data.draw(strategies.policies())
    event = data.draw(strategies.events(policy))
    assert evaluate(normal(policy), event) == evaluate(policy, event)
    assert normal(normal(policy)) == normal(policy)
