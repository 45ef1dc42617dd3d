"""Whether a policy expects the program to answer calls by itself: a chain of filters has one listener (seccomp(2), EBUSY)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from policygen.evaluate import evaluate
from policygen.model import Always
from tracer.abi import Arch, Event, constants, table

if TYPE_CHECKING:
    from collections.abc import Iterable

    from policygen.model import Policy

_SET_MODE_FILTER: Final = 1  # linux/seccomp.h
_NEW_LISTENER: Final = 1 << 3  # SECCOMP_FILTER_FLAG_NEW_LISTENER
_FLAGS: Final = 1 << 6  # all SECCOMP_FILTER_FLAG_* of Linux 6.18 are below
_RECEIVE: Final = "SECCOMP_IOCTL_NOTIF_RECV"
_DESCRIPTORS: Final = 1024  # RLIMIT_NOFILE, as most have it


def expects_listener(policy: Policy) -> bool:
    """Whether a rule of the policy's allows SECCOMP_FILTER_FLAG_NEW_LISTENER by its conditions, and another one to receive
    what a listener hears.

    The flag alone says nothing: libseccomp asks with it, and no filter, what the kernel can do.  Nor does allowing all of
    seccomp(2): programs that install filters are many, those that listen few.
    """
    for arch, entries in policy.entries.items():
        entry = entries.get(table(arch).by_name["seccomp"].number)
        if entry is None or isinstance(entry.expression, Always):
            continue
        listening = (flags for flags in range(_FLAGS) if flags & _NEW_LISTENER)
        receive = constants.value(_RECEIVE, arch)
        assert receive is not None
        if _allows(policy, arch, "seccomp", ((_SET_MODE_FILTER, flags) for flags in listening)) and _allows(
            policy, arch, "ioctl", ((descriptor, receive) for descriptor in range(_DESCRIPTORS))
        ):
            return True
    return False


def _allows(policy: Policy, arch: Arch, name: str, arguments: Iterable[tuple[int, int]]) -> bool:
    number = table(arch).by_name[name].number
    events = (Event(arch.audit, number, (*two, 0, 0, 0, 0)) for two in arguments)
    return any(evaluate(policy, event).lets_run for event in events)
