"""Whether a policy is for a program with a listener of its own: a process can have one only (seccomp(2), EBUSY)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from policygen.evaluate import evaluate
from policygen.model import Always
from tracer.abi import Arch, Event, constants, table

if TYPE_CHECKING:
    from collections.abc import Iterable

    from policygen.model import Policy

_SET_MODE_FILTER: Final = 1  # linux/seccomp.h
_PR_SET_SECCOMP: Final = 22  # linux/prctl.h
_MODE_FILTER: Final = 2  # SECCOMP_MODE_FILTER, linux/seccomp.h
_NEW_LISTENER: Final = 1 << 3  # SECCOMP_FILTER_FLAG_NEW_LISTENER
_FLAGS: Final = 1 << 6  # all SECCOMP_FILTER_FLAG_* of Linux 6.18 are below
_RECEIVE: Final = "SECCOMP_IOCTL_NOTIF_RECV"
_DESCRIPTORS: Final = 1024  # the usual RLIMIT_NOFILE


def expects_listener(policy: Policy) -> bool:
    """Whether conditions of the policy allow SECCOMP_FILTER_FLAG_NEW_LISTENER, and it allows receiving notifications.

    The flag alone is not enough: libseccomp passes it, without a filter, to find out what the kernel supports.  Nor is an
    unconditional seccomp(2): many programs install filters, and few of them listen.
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


def may_install_filters(policy: Policy) -> bool:
    """Whether the policy lets the program install filters of its own, by seccomp(2) or by prctl(2)."""
    return any(
        _allows(policy, arch, "seccomp", ((_SET_MODE_FILTER, flags) for flags in range(_FLAGS)))
        or _allows(policy, arch, "prctl", ((_PR_SET_SECCOMP, _MODE_FILTER),))
        for arch in policy.entries
    )


def _allows(policy: Policy, arch: Arch, name: str, arguments: Iterable[tuple[int, int]]) -> bool:
    number = table(arch).by_name[name].number
    events = (Event(arch.audit, number, (*two, 0, 0, 0, 0)) for two in arguments)
    return any(evaluate(policy, event).lets_run for event in events)
