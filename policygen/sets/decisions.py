"""A policy as a function from events to a filter's return values."""

from __future__ import annotations

from typing import TYPE_CHECKING

from policygen.filter import bpf
from policygen.implied.expand import expanded
from policygen.model import KILL
from policygen.sets.algebra import constant
from policygen.sets.region import arch_word, number_word, truth
from tracer.abi import X32_BIT, Arch, table

if TYPE_CHECKING:
    from policygen.model import Action, Policy
    from policygen.sets.algebra import Space


def decisions(space: Space, policy: Policy, refused: Action = KILL) -> int:
    """Return the function from events to return values (`bpf.ret`) that the policy describes.  It equals
    `policygen.evaluate` for every event, except that foreign architectures and x32 calls get `refused`."""
    policy = expanded(policy)
    leaf = {action: space.leaf(bpf.ret(action)) for action in _actions(policy, refused)}
    number, arch = number_word(space), arch_word(space)
    result = leaf[refused]
    for name, entries in policy.entries.items():
        calls = table(name)
        section = leaf[policy.default]
        newest = calls.newest(policy.table)
        zeros = 32 - newest.bit_length()
        known = (*constant(0, zeros), *number[zeros:])  # of calls up to the newest
        for nr, entry in entries.items():
            holds = truth(space, entry.expression, calls.by_number[nr].arguments)
            verdict = space.choose(holds, leaf[entry.action], leaf[entry.otherwise or policy.default])
            section = space.choose(space.equal(known, constant(nr, 32)), verdict, section)
        newer = space.greater(number, constant(newest, 32))
        section = space.choose(newer, leaf[policy.unknown], section)
        if name is Arch.X86_64:
            below = space.greater(constant(X32_BIT, 32), number)
            above = space.greater(number, constant(2 * X32_BIT - 1, 32))
            section = space.choose(space.either(below, above), section, leaf[refused])
        result = space.choose(space.equal(arch, constant(name.audit, 32)), section, result)
    return result


def _actions(policy: Policy, refused: Action) -> set[Action]:
    entries = [entry for section in policy.entries.values() for entry in section.values()]
    written = {action for entry in entries for action in (entry.action, entry.otherwise) if action}
    return written | {refused, policy.unknown, policy.default}
