"""Decide whether a policy lets its program change processes of its user that it names."""

from __future__ import annotations

from callfence.policygen.evaluate import answers
from callfence.policygen.implied.resolve import Resolved
from callfence.policygen.sets.algebra import FALSE, TRUE, Space, constant
from callfence.policygen.sets.region import argument_word, space
from callfence.tracer import pids
from callfence.tracer.abi import table


def names_processes(policy: Resolved) -> bool:
    """Return whether the policy lets the program make a call that changes a process which it names by another pid than 0, or
    all processes of a user.  Signals do not count: `scope signals` keeps them inside."""
    sets = space()
    rows = [*pids.rows(pids.CHANGES, pids.REGISTER, pids.USER)]
    return any(
        sets.and_(where, _naming(sets, row)) != FALSE
        for arch in policy.entries
        for row in rows
        if (call := table(arch).by_name.get(row.name))
        for where, action in answers(sets, policy, arch, call.number)
        if action.may_allow
    )


def _naming(sets: Space, row: pids.Row) -> int:
    """Return the set of calls of a row that name another process than their maker's."""

    def is_value(argument: int, value: int) -> int:
        return sets.equal(argument_word(sets, argument)[32:], constant(value, 32))  # the kernel takes these for an int

    selected = TRUE
    if row.selector:
        index, *values = row.selector
        selected = sets.union(is_value(index, value) for value in values)
    return selected if row.place == pids.USER else sets.and_(selected, sets.invert(is_value(row.argument, 0)))
