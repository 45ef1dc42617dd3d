"""Whether a policy expects the program to answer calls by itself: a chain of filters has one listener (seccomp(2), EBUSY)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from policygen.evaluate import evaluate
from policygen.model import ActionKind, Always
from tracer.abi import Event, table

if TYPE_CHECKING:
    from policygen.model import Policy

_SET_MODE_FILTER: Final = 1  # linux/seccomp.h
_NEW_LISTENER: Final = 1 << 3  # SECCOMP_FILTER_FLAG_NEW_LISTENER
_FLAGS: Final = 1 << 6  # all SECCOMP_FILTER_FLAG_* of Linux 6.18 are below


def expects_listener(policy: Policy) -> bool:
    """Whether a rule of the policy's allows SECCOMP_FILTER_FLAG_NEW_LISTENER by its conditions.

    Allowing all of seccomp(2) says nothing: programs that install filters are many, those that listen few.
    """
    for arch, entries in policy.entries.items():
        number = table(arch).by_name["seccomp"].number
        entry = entries.get(number)
        if entry is None or isinstance(entry.expression, Always):
            continue
        for flags in range(_FLAGS):
            event = Event(arch.audit, number, (_SET_MODE_FILTER, flags, 0, 0, 0, 0))
            if flags & _NEW_LISTENER and evaluate(policy, event).kind in (ActionKind.ALLOW, ActionKind.LOG):
                return True
    return False
