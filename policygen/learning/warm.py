"""Make the filter of incremental learn: calls that the policy allows run, all others stop for the tracer."""

from __future__ import annotations

from collections.abc import Mapping

from callfence.policygen.files.calls import ASKING, MOUNTING, NEW_ROOTS, PATH_CALLS, SENDING as SENDING_FLAGS, SOCKETS
from callfence.policygen.files.generalise_hosts import by_host
from callfence.policygen.filter import bpf
from callfence.policygen.filter.compile import compile_policy
from callfence.policygen.implied.resolve import resolve
from callfence.policygen.learning.floor import OPAQUE
from callfence.policygen.learning.scope import SENDING
from callfence.policygen.model import (
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
from callfence.policygen.values import replace
from callfence.tracer.abi import Arch, name_of
from callfence.tracer.abi.waits import calls_of
from callfence.tracer.linux import CLONE_UNTRACED, MSG_FASTOPEN, TCP_FAMILIES, TCP_PROTOCOLS

_SECCOMP_OPTIONS = (21, 22)  # PR_GET_SECCOMP, PR_SET_SECCOMP: linux/prctl.h

_TO = 4
"""The argument of sendto(2) with the address, which send(3) leaves out."""

UNWATCHED: Mapping[str, Expression] = {
    "clone": Condition(0, Operator.MASKED, 0, CLONE_UNTRACED),
    "clone3": Always(False),
    "prctl": And(tuple(Condition(0, Operator.NE, option) for option in _SECCOMP_OPTIONS)),
    "ptrace": Always(False),
    "seccomp": Always(False),
}
"""Calls at which the tracer has to act even if the policy allows them -> the condition under which it need not."""

_RECORDED, _WATCHED = Action(ActionKind.NOTIFY), Action(ActionKind.LOG)
"""What stands for the two kinds of stops until the filter is compiled."""


def recording_filter(policy: Policy, record: int, watch: int) -> bytes:
    """Return the filter, as an array of struct sock_filter (8 bytes each, host byte order).  Raises CompileError.

    `record` is the 32-bit return value for a call that is to be recorded, `watch` that for one at which the tracer has to act
    though the policy allows it.

    A call runs without a stop if every phase allows it, no phase begins at it, and `UNWATCHED` does not exclude it; opaque
    calls that the policy fails with ENOSYS fail without a stop.  All other calls stop, so the program runs as it would without
    a policy."""
    triggers = frozenset(name for phase in policy.phases for trigger in phase.triggers for name in calls_of(trigger))
    policy = list(resolve(policy).values())[-1].written()
    # A signal that is allowed may go to a process outside now.
    unwatched = dict(UNWATCHED)
    unwatched |= dict.fromkeys(SENDING, Always(False)) if SIGNALS in scopes(policy.scope) else {}
    unwatched |= _sockets(policy)  # a filter sees neither names nor ports
    of_paths = {*PATH_CALLS, *ASKING, *NEW_ROOTS, *MOUNTING, *SOCKETS, "socketcall"}
    by_path = of_paths if policy.files.paths is not None else set()
    entries = {arch: _known(arch, section, unwatched, triggers | by_path) for arch, section in policy.entries.items()}
    stopping = replace(policy, entries=entries, default=_RECORDED, unknown=_RECORDED)
    answers = {bpf.ret(_RECORDED): record, bpf.ret(_WATCHED): watch}
    return bpf.encode(
        [
            instruction._replace(k=answers.get(instruction.k, instruction.k))
            if instruction.code == bpf.RET | bpf.K
            else instruction
            for instruction in bpf.decode(compile_policy(stopping, report=True))
        ]
    )


def _sockets(policy: Policy) -> dict[str, Expression]:
    """Return call -> the condition under which a call that names a port, a host or a socket need not be recorded."""
    files = policy.files
    unwatched: dict[str, Expression] = {}
    if files.connect is not None or files.bind is not None:
        unwatched = dict.fromkeys((*SOCKETS, "listen", "socketcall"), Always(False))
        values = [*((0, family) for family in TCP_FAMILIES), *((2, protocol) for protocol in TCP_PROTOCOLS)]
        unwatched["socket"] = And(tuple(Condition(index, Operator.NE, value) for index, value in values))
        unwatched |= {name: Condition(index, Operator.MASKED, 0, MSG_FASTOPEN) for name, index in SENDING_FLAGS.items()}
    if by_host(files):
        unwatched |= dict.fromkeys(("connect", "socketcall", "sendmsg", "sendmmsg"), Always(False))
        unwatched["sendto"] = And((Condition(_TO, Operator.EQ, 0), unwatched.get("sendto", Always(True))))
    if files.paths is not None and ABSTRACT in scopes(policy.scope):  # whose socket an address in memory is
        unwatched |= dict.fromkeys(SENDING_FLAGS, Always(False))
    return unwatched


def _known(
    arch: Arch, section: Mapping[int, Entry], unwatched: Mapping[str, Expression], recorded: frozenset[str]
) -> dict[int, Entry]:
    """Return the entries of calls that need not be recorded.  `recorded` names calls that are recorded in any case: where a
    phase begins, and where what a name means is evidence."""
    names = {number: name_of(arch, number) for number in section}
    entries = {}
    for number, entry in section.items():
        if names[number] in OPAQUE and entry == Entry(Always(True), ENOSYS):
            entries[number] = entry
        elif entry.action == ALLOW and names[number] not in recorded:
            when = unwatched.get(names[number])
            if when == Always(False):
                entries[number] = Entry(entry.expression, _WATCHED)
            else:
                entries[number] = Entry(And((entry.expression, when)) if when else entry.expression)
    return entries
