"""Learn the `scope` of a policy: whether signals and abstract unix sockets may reach only the program's own processes.

Signals are confined unless a run has signalled another process, or read another's memory, or the targets of the runs' signals
are unknown.  Abstract sockets are confined once a run has connected to one and reached only processes of the program, until a
run reaches others.  A scope that a person has changed stays, unless a run needs more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from callfence.policygen.model import ABSTRACT, SIGNALS, Always, Policy, scope_of, scopes
from callfence.tracer import pids
from callfence.tracer.abi import table

if TYPE_CHECKING:
    from callfence.policygen.recording.model import Observation, Recording

FAMILY, OTHERS = "family", "others"
"""The recorded targets of signals and of abstract sockets: only the program's own processes, or others."""
SENDING = tuple(sorted({row.name for row in pids.rows(pids.SIGNALS) if not row.selector}))
"""Calls that send a signal.  The others of `tracer.pids` have the kernel send one later, to the process that they name."""


def scope(old: Recording, recording: Recording, before: Policy | None, policy: Policy) -> str:
    """Return the scope of a policy that was learned from the recording and the policy `before`, whose recording was `old`."""
    enforced = {SIGNALS: _keeps_signals(recording, before, policy), ABSTRACT: _keeps_sockets(old, recording, before)}
    return scope_of([word for word, is_enforced in enforced.items() if is_enforced])


def _keeps_sockets(old: Recording, recording: Recording, before: Policy | None) -> bool:
    """Return whether abstract sockets are confined; only runs that recorded files and ports show it."""
    if OTHERS in _aims(recording):
        return False
    if before is not None and (ABSTRACT in scopes(before.scope) or _aims(old)):
        return ABSTRACT in scopes(before.scope)
    return bool(_aims(recording))


def _aims(recording: Recording) -> set[str]:
    return {aim for run in recording.runs for line, aim, _ in run.files if line == ABSTRACT}


def _keeps_signals(recording: Recording, before: Policy | None, policy: Policy) -> bool:
    if any(run.signals == OTHERS for run in recording.runs):
        return False
    if before is not None and (SIGNALS not in scopes(before.scope) or sends(before)):
        return SIGNALS in scopes(before.scope)
    is_known = any(run.signals == FAMILY for run in recording.runs)
    return is_known or not (sends(policy) or any(map(_sets_owner, recording.observations)))


def sends(policy: Policy) -> bool:
    """Return whether the policy lets the program send any signal."""
    return any(
        (entry := section.get(table(arch).by_name[name].number)) is not None
        and entry.action.may_allow
        and entry.expression != Always(False)
        for arch, section in policy.entries.items()
        for name in SENDING
        if name in table(arch).by_name
    )


def _sets_owner(observation: Observation) -> bool:
    for row in pids.rows(pids.SIGNALS):
        if row.name == observation.name and row.selector:
            index, *values = row.selector
            if observation.example[index] & 0xFFFFFFFF in values:
                return True
    return False
