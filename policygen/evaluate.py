"""The reference semantics: what a policy answers to one call.

Compiled filters and the set algebra are proved against this function.
"""

from __future__ import annotations

from policygen.holds import holds
from policygen.implied.expand import expanded
from policygen.model import KILL, Action, Policy
from policygen.phases import START, in_phase
from tracer.abi import X32_BIT, Arch, Event, table


def evaluate(policy: Policy, event: Event, phase: str = START) -> Action:
    """Return the action for a call in a phase.  The first of these decides:

    1. an architecture that the policy does not name is killed, and so is an x32 call;
    2. a number above the newest of the policy's table gets `unknown`;
    3. a call without an entry gets `default`;
    4. an entry's action where its expression holds, else its `otherwise`, else `default`.

    Entries are the policy's own with those of its implied set (`policygen.implied.expand`).
    """
    policy = expanded(in_phase(policy, phase) if policy.phases else policy)
    arch = Arch.from_audit(event.arch)
    if arch is None or arch not in policy.entries:
        return KILL
    if arch is Arch.X86_64 and X32_BIT <= event.number < 2 * X32_BIT:
        return KILL
    syscalls = table(arch)
    if event.number > syscalls.newest(policy.table):
        return policy.unknown
    entry = policy.entries[arch].get(event.number)
    if entry is None:
        return policy.default
    if holds(entry.expression, syscalls.by_number[event.number].arguments, event.arguments):
        return entry.action
    return policy.default if entry.otherwise is None else entry.otherwise
