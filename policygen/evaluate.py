"""The action that a policy takes for a call (the reference semantics), and for all calls of a number at once.

Compiled filters and the set algebra are proved against `evaluate`.
"""

from __future__ import annotations

from callfence.policygen.holds import holds
from callfence.policygen.implied.resolve import Resolved, resolved
from callfence.policygen.model import KILL, Action, Policy
from callfence.policygen.phases import START
from callfence.policygen.sets.algebra import FALSE, TRUE, Space
from callfence.policygen.sets.region import to_bdd
from callfence.tracer.abi import Arch, Event, table


def evaluate(policy: Policy, event: Event, phase: str = START) -> Action:
    """Return the action that a policy takes for a call in a phase (see `answer`).  Raises ValueError if the policy has no such
    phase."""
    return answer(resolved(policy, phase), event)


def answer(policy: Resolved, event: Event) -> Action:
    """Return the action for a call.  The first of these decides:

    1. an architecture that the policy does not name is killed, and an x32 call too;
    2. a number that is newer than the policy's table gets `unknown`;
    3. a call without an entry gets `default`;
    4. an entry's action where its expression holds, else its `otherwise`, else `default`."""
    arch = Arch.from_audit(event.arch)
    if arch is None or arch not in policy.entries:
        return KILL
    if arch.is_x32(event.number):
        return KILL
    syscalls = table(arch)
    if syscalls.is_newer(event.number, policy.table):
        return policy.unknown
    entry = policy.entries[arch].get(event.number)
    if entry is None:
        return policy.default
    if holds(entry.expression, syscalls.by_number[event.number].arguments, event.arguments):
        return entry.action
    return policy.default if entry.otherwise is None else entry.otherwise


def unnamed(policy: Policy | Resolved, arch: Arch, number: int) -> Action:
    """Return the action for a call that no entry names, of an architecture that the policy has."""
    return policy.unknown if table(arch).is_newer(number, policy.table) else policy.default


OPENING = "it is newer than the policy's table, and with a newer table `default` lets all such calls run"
"""Why no entry can be added for a call of which `opens_others` holds, as the end of a sentence."""


def opens_others(policy: Policy, arch: Arch, number: int) -> bool:
    """Return whether an entry for a call, which `unknown` denies, would let others run: it needs a newer table, and the other
    calls of that one then get a default that does not deny."""
    return table(arch).is_newer(number, policy.table) and policy.default.may_allow and not policy.unknown.allows


def table_with(policy: Policy, arch: Arch, number: int) -> tuple[int, int]:
    """Return the table that a policy needs for an entry for a call: its own if this has the call; otherwise the first that has
    it, but no older one than new policies name.  Calls newer than that stay with `unknown`."""
    calls = table(arch)
    return max(Policy({}).table, calls.since(number)) if calls.is_newer(number, policy.table) else policy.table


def refusal(policy: Policy, audit: int, number: int) -> str:
    """Return why learning adds no entry for a call that the policy denies, as a sentence without its end."""
    arch = Arch.from_audit(audit)
    return OPENING if arch and opens_others(policy, arch, number) else "the policy denies it explicitly"


def answers(space: Space, policy: Resolved, arch: Arch, number: int) -> list[tuple[int, Action]]:
    """Return the actions for the calls of a number below X32_BIT, as pairs (set of arguments, action).  The sets do not
    overlap, and together they cover all arguments."""
    if arch not in policy.entries:
        return [(TRUE, KILL)]
    calls = table(arch)
    if calls.is_newer(number, policy.table):
        return [(TRUE, policy.unknown)]
    entry = policy.entries[arch].get(number)
    if entry is None:
        return [(TRUE, policy.default)]
    holds = to_bdd(space, entry.expression, calls.by_number[number].arguments)
    pairs = [(holds, entry.action), (space.invert(holds), entry.otherwise or policy.default)]
    return [(where, action) for where, action in pairs if where != FALSE]
