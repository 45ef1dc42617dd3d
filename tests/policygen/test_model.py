"""What the values of a policy promise by themselves."""

from __future__ import annotations

from itertools import product

import pytest

from callfence.policygen.filter import bpf
from callfence.policygen.model import (
    Action,
    ActionKind,
    Always,
    And,
    Condition,
    Expression,
    Not,
    Operator,
    Or,
    alternatives,
    conjuncts,
    strictest,
)

ACTIONS = [Action(kind, 13 * (kind is ActionKind.ERRNO)) for kind in ActionKind]


@pytest.mark.parametrize("action", ACTIONS, ids=lambda action: action.kind)
def test_which_actions_carry_a_call_out(action: Action) -> None:
    assert action.allows is (action.kind in ("allow", "log"))
    assert action.may_allow is (action.kind in ("allow", "log", "notify"))


def kernel(*rets: int) -> int:
    """What kernel/seccomp.c seccomp_run_filters makes of the answers of filters, in the order of their installation."""

    def signed(ret: int) -> int:  # the action, as the s32 that it is compared as
        return (ret & 0xFFFF0000) - (ret >> 31 << 32)

    result = 0x7FFF0000
    for ret in reversed(rets):  # the newest filter is asked first, and a later one has to be stricter
        if signed(ret) < signed(result):
            result = ret
    return result


def test_the_strictest_action_is_the_kernels_of_two_filters() -> None:
    more = [*ACTIONS, Action(ActionKind.ERRNO, 1)]
    for pair in product(more, repeat=2):
        assert bpf.ret(strictest(pair)) == kernel(*map(bpf.ret, pair)), pair
    assert strictest(iter(ACTIONS)).kind == "kill"


A, B = Condition(0, Operator.EQ, 1), Condition(1, Operator.EQ, 2)


@pytest.mark.parametrize(
    ("expression", "either", "together"),
    [
        (Or((A, B)), (A, B), (Or((A, B)),)),
        (And((A, B)), (And((A, B)),), (A, B)),
        (A, (A,), (A,)),
        (Not(And((A, B))), (Not(And((A, B))),), (Not(And((A, B))),)),
        (Always(True), (Always(True),), ()),
        (Always(False), (), (Always(False),)),
    ],
)
def test_the_parts_of_an_expression(
    expression: Expression, either: tuple[Expression, ...], together: tuple[Expression, ...]
) -> None:
    assert alternatives(expression) == either
    assert conjuncts(expression) == together


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((6, Operator.EQ), "no argument 6"),
        ((-1, Operator.EQ), "no argument -1"),
        ((0, Operator.EQ, 1 << 64), "64 bits"),
        ((0, Operator.EQ, -(1 << 63) - 1), "64 bits"),
        ((0, Operator.IN, -1), "negative"),
        ((0, Operator.HAS, -1), "negative"),
        ((0, Operator.ANY, -1), "negative"),
        ((0, Operator.MASKED, -1, 1), "negative"),
        ((0, Operator.MASKED, 1, -1), "negative"),
        ((0, Operator.MASKED, 1, 1 << 64), "64 bits"),
        ((0, Operator.IN, 1, 1), "no mask"),
        ((0, Operator.EQ, 0, 0, (1, 2)), "several values"),
        ((0, Operator.ONE_OF), "at least one"),
        ((0, Operator.ONE_OF, 1, 0, (1, 2)), "no other"),
        ((0, Operator.ONE_OF, 0, 0, (2, 1)), "not ascending"),
        ((0, Operator.ONE_OF, 0, 0, (1, 1)), "not ascending"),
        ((0, Operator.ONE_OF, 0, 0, (-(1 << 63) - 1, 1)), "64 bits"),
        ((0, Operator.ONE_OF, 0, 0, (1, 1 << 64)), "64 bits"),
        ((0, Operator.ONE_OF, 0, 1, (1, 2)), "no mask"),
    ],
)
def test_what_no_condition_can_be(arguments: tuple[int, Operator], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Condition(*arguments)


def test_the_least_and_the_greatest_conditions() -> None:
    """One further in each direction is none."""
    most, least = (1 << 64) - 1, -(1 << 63)
    assert Condition(5, Operator.EQ, most).value == most
    assert Condition(0, Operator.GE, least).value == least
    assert Condition(0, Operator.MASKED, most, most).mask == most
    assert Condition(0, Operator.ONE_OF, values=(least, -1, 0, most)).values == (least, -1, 0, most)
    for arguments in ((6, Operator.EQ, 1), (0, Operator.EQ, most + 1), (0, Operator.GE, least - 1)):
        with pytest.raises(ValueError, match=r"argument|64 bits"):
            Condition(*arguments)
