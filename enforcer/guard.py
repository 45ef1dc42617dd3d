"""Instructions that fail calls by which a program would get past what is confined by other means, if its filter allows them.

Each fails as on a kernel that has the feature switched off, and programs then do what they do there.
"""

from __future__ import annotations

import errno

from callfence.enforcer.bpf import ARCH, ARCHITECTURES, ARGUMENTS, EQUAL, HAS, JUMP, LOAD, NUMBER, RETURN, Filter, assembled
from callfence.tracer import TYPE_CHECKING, linux
from callfence.tracer.machine import MACHINE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from callfence.enforcer.bpf import Line

REFUSALS = {
    "mode": errno.EACCES,
    "not permitted": errno.EPERM,
    "opaque": errno.ENOSYS,
    "family": linux.FAMILY_ERROR,
    "protocol": linux.PROTOCOL_ERROR,
    "no option": errno.ENOENT,  # net/ipv4/tcp_ulp.c tcp_set_ulp()
    "no request": errno.ENOTTY,
    "fast open": linux.FAST_OPEN_ERROR,
    "other kind": errno.EPERM,
    "other family": linux.FAMILY_ERROR,
    "other protocol": linux.PROTOCOL_ERROR,
}
"""The errno with which a call fails, by the label to which its check jumps."""


class Check:
    """Calls that are looked at, and the instructions that judge one by its arguments."""

    __slots__ = ("calls", "lines")

    def __init__(self, calls: Mapping[int, tuple[int, ...]], lines: Sequence[Line]) -> None:
        self.calls = calls
        """The numbers by AUDIT_ARCH_*."""
        self.lines = lines
        """They jump to a key of REFUSALS, or to `end`, where the instructions end."""


FAST_OPEN = {
    "sendto": Check(
        MACHINE.numbers_by_arch("sendto", "sendmmsg"),
        [(LOAD, ARGUMENTS + 8 * 3), (HAS, linux.MSG_FASTOPEN, "fast open", "end")],
    ),
    "sendmsg": Check(
        MACHINE.numbers_by_arch("sendmsg"), [(LOAD, ARGUMENTS + 8 * 2), (HAS, linux.MSG_FASTOPEN, "fast open", "end")]
    ),
}
"""The checks of calls that connect if they have MSG_FASTOPEN."""

TYPING = {
    "ioctl": Check(
        MACHINE.numbers_by_arch("ioctl"),
        [
            (LOAD, ARGUMENTS + 8),
            *((EQUAL, command, "not permitted", "") for command in (0x5412, 0x541C)),  # asm-generic/ioctls.h
            (JUMP, "end"),
        ],
    )
}
"""The check of calls that type on a terminal (TIOCSTI, TIOCLINUX): a program could answer questions by them."""


def guard(
    filter_: bytes, checks: Mapping[str, Check], opaque: Sequence[str], *, reports: bool, notified: Sequence[str] = ()
) -> bytes:
    """Return instructions for what the filter allows: these checks, by their labels.  The calls `opaque` fail if the filter
    might let them run.  Where they end, the call may run.

    With `reports`, calls that the filter answers by SECCOMP_RET_USER_NOTIF do not run.  The helper is notified of calls that
    jump to one of the labels `notified`, and fails them."""
    program = Filter(filter_)
    numbers = MACHINE.numbers_by_arch(*opaque)
    lines: list[Line] = []
    for arch in ARCHITECTURES:
        lines += [(LOAD, ARCH), (EQUAL, arch, "", f"not {arch}"), (LOAD, NUMBER)]
        lines += [(EQUAL, number, label, "") for label, check in checks.items() for number in check.calls[arch]]
        run = [number for number in numbers[arch] if program.may_allow(arch, number, reports=reports)]
        lines += [(EQUAL, number, "opaque", "") for number in run]
        lines += [(JUMP, "end"), f"not {arch}"]
    lines += [(JUMP, "end")]
    for label, check in checks.items():
        lines += [label, *check.lines]
    for label, number in REFUSALS.items():
        lines += [label, (RETURN, linux.SECCOMP_RET_USER_NOTIF if label in notified else linux.SECCOMP_RET_ERRNO | number)]
    return assembled([*lines, "end"])
