"""Make the filter of incremental learn: calls that the policy allows run, all others stop for the tracer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from policygen.files.calls import NEW_ROOTS, PATH_CALLS, SENDING as SENDING_FLAGS, SOCKETS
from policygen.filter import bpf
from policygen.filter.compile import compile_policy
from policygen.implied.resolve import resolve
from policygen.learning.floor import OPAQUE
from policygen.learning.scope import SENDING
from policygen.model import (
    ABSTRACT,
    ALLOW,
    ENOSYS,
    SIGNALS,
    Action,
    ActionKind,
    Always,
    And,
    Condition,
    Entry,
    Expression,
    Operator,
    Policy,
    scopes,
)
from policygen.values import replace
from tracer.abi import Arch, table
from tracer.abi.waits import calls_of
from tracer.linux import MSG_FASTOPEN, TCP_FAMILIES, TCP_PROTOCOLS

if TYPE_CHECKING:
    from collections.abc import Mapping

_CLONE_UNTRACED = 0x00800000  # linux/sched.h
_SECCOMP_OPTIONS = (21, 22)  # PR_GET_SECCOMP, PR_SET_SECCOMP: linux/prctl.h

UNWATCHED: Mapping[str, Expression] = {
    "clone": Condition(0, Operator.MASKED, 0, _CLONE_UNTRACED),
    "clone3": Always(False),
    "prctl": And(tuple(Condition(0, Operator.NE, option) for option in _SECCOMP_OPTIONS)),
    "ptrace": Always(False),
    "seccomp": Always(False),
}
"""Calls at which the tracer has to act even if the policy allows them -> the condition under which it need not."""

_NOTIFY = Action(ActionKind.NOTIFY)


def recording_filter(policy: Policy, stop: int) -> bytes:
    """Return the filter, as an array of struct sock_filter (8 bytes each, host byte order).  Raises CompileError.

    `stop` is the 32-bit return value for a call that is to be recorded.

    A call runs without a stop if every phase allows it, no phase begins at it, and `UNWATCHED` does not exclude it; opaque
    calls that the policy fails with ENOSYS fail without a stop.  All other calls stop, so the program runs as it would without
    a policy.
    """
    triggers = frozenset(name for phase in policy.phases for trigger in phase.triggers for name in calls_of(trigger))
    policy = list(resolve(policy).values())[-1].written()
    # A signal that is allowed may go to a process outside now.
    unwatched = dict(UNWATCHED)
    unwatched |= dict.fromkeys(SENDING, Always(False)) if SIGNALS in scopes(policy.scope) else {}
    # A filter sees neither names nor ports.
    if policy.files.paths is not None:
        unwatched |= dict.fromkeys((*PATH_CALLS, *NEW_ROOTS, *SOCKETS), Always(False))
    unwatched |= _sockets(policy)
    entries = {arch: _known(arch, section, unwatched, triggers) for arch, section in policy.entries.items()}
    stopping = replace(policy, entries=entries, default=_NOTIFY, unknown=_NOTIFY)
    instructions = bpf.decode(compile_policy(stopping, report=True))
    notify = bpf.ret(_NOTIFY)
    return bpf.encode(
        [
            instruction._replace(k=stop) if instruction.code == bpf.RET | bpf.K and instruction.k == notify else instruction
            for instruction in instructions
        ]
    )


def _sockets(policy: Policy) -> dict[str, Expression]:
    """Return call -> the condition under which a call that names a port or an abstract socket need not be recorded."""
    files = policy.files
    unwatched: dict[str, Expression] = {}
    if files.connect is not None or files.bind is not None:
        unwatched = dict.fromkeys((*SOCKETS, "listen"), Always(False))
        values = [*((0, family) for family in TCP_FAMILIES), *((2, protocol) for protocol in TCP_PROTOCOLS)]
        unwatched["socket"] = And(tuple(Condition(index, Operator.NE, value) for index, value in values))
        unwatched |= {name: Condition(index, Operator.MASKED, 0, MSG_FASTOPEN) for name, index in SENDING_FLAGS.items()}
    if files.paths is not None and ABSTRACT in scopes(policy.scope):  # whose socket an address in memory is
        unwatched |= dict.fromkeys(SENDING_FLAGS, Always(False))
    return unwatched


def _known(
    arch: Arch, section: Mapping[int, Entry], unwatched: Mapping[str, Expression], triggers: frozenset[str]
) -> dict[int, Entry]:
    names = {number: table(arch).by_number[number].name for number in section}
    entries = {}
    for number, entry in section.items():
        if names[number] in OPAQUE and entry == Entry(Always(True), ENOSYS):
            entries[number] = entry
        elif entry.action == ALLOW and names[number] not in triggers:
            when = unwatched.get(names[number])
            entries[number] = Entry(And((entry.expression, when)) if when else entry.expression)
    return entries
