"""What the values of a policy promise by themselves."""

from __future__ import annotations

from itertools import product

import pytest

from policygen.filter import bpf
from policygen.model import (
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
    assert action.lets_run is (action.kind in ("allow", "log"))
    assert action.may_run is (action.kind in ("allow", "log", "notify"))


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
