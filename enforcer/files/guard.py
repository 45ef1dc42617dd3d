"""Instructions before a filter: ways to files and TCP ports that Landlock does not look at.

Landlock judges what a file is opened for (security/landlock/fs.c), and the third access mode of open(2) is for neither
reading nor writing: ioctl(2) and fchmod(2) then work on files that no rule grants.  It judges connect(2) and bind(2) of plain
TCP sockets (security/landlock/net.c).  sendto(2) and its kin with MSG_FASTOPEN connect as well; MPTCP and SMC sockets fall
back to TCP, RDS has the kernel connect, and TCP_ULP makes an SMC socket of a TCP one (Linux 5.17 to 6.19).  So these fail as
on a kernel that has them switched off, and programs then do what they do there.  openat2(2) and io_uring take all of that in
memory, where no filter sees it: where the filter might let them run, they fail as on an older kernel.
"""

from __future__ import annotations

import errno
import os

from enforcer.bpf import AND, ARCH, ARGUMENTS, EQUAL, HAS, JUMP, LOAD, NUMBER, RETURN, Filter, assembled
from policygen.files.landlock import FAMILIES, MSG_FASTOPEN, PROTOCOLS
from tracer import linux

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from enforcer.bpf import Line

_IPPROTO_TCP, _TCP_ULP = 6, 31  # linux/in.h, linux/tcp.h
FAST_OPEN_ERROR, PROTOCOL_ERROR, FAMILY_ERROR = errno.EOPNOTSUPP, errno.EPROTONOSUPPORT, errno.EAFNOSUPPORT
"""net/ipv4/tcp.c tcp_sendmsg_fastopen(), net/ipv4/af_inet.c inet_create(), net/socket.c __sock_create()."""

# The calls that are looked at.  What a program of i386 hands to socketcall is in memory, and its C libraries have no other way
# to sockets.
_OPEN, _OPENAT = linux.numbers_by_arch("open"), linux.numbers_by_arch("openat", "open_by_handle_at")
_OPENAT2 = linux.numbers_by_arch("openat2")
_IO_URING_SETUP = linux.numbers_by_arch("io_uring_setup")
_SOCKET, _SETSOCKOPT = linux.numbers_by_arch("socket"), linux.numbers_by_arch("setsockopt")
_SENDTO, _SENDMSG = linux.numbers_by_arch("sendto", "sendmmsg"), linux.numbers_by_arch("sendmsg")

_REFUSALS = {
    "mode": errno.EACCES,
    "opaque": errno.ENOSYS,
    "family": FAMILY_ERROR,
    "protocol": PROTOCOL_ERROR,
    "ulp": errno.ENOENT,  # net/ipv4/tcp_ulp.c tcp_set_ulp()
    "fast open": FAST_OPEN_ERROR,
}
_CHECKS: Mapping[str, list[Line]] = {
    "open": [(LOAD, ARGUMENTS + 8 * 1), (JUMP, "flags")],
    "openat": [
        (LOAD, ARGUMENTS + 8 * 2),
        "flags",
        (HAS, os.O_PATH, "end", ""),  # which ignores the access mode
        (AND, os.O_ACCMODE),
        (EQUAL, os.O_ACCMODE, "mode", "end"),
    ],
    "socket": [
        (LOAD, ARGUMENTS),
        *((EQUAL, family, "family", "") for family in FAMILIES),
        (LOAD, ARGUMENTS + 8 * 2),
        *((EQUAL, protocol, "protocol", "") for protocol in PROTOCOLS),
        (JUMP, "end"),
    ],
    "setsockopt": [
        (LOAD, ARGUMENTS + 8 * 1),
        (EQUAL, _IPPROTO_TCP, "", "end"),
        (LOAD, ARGUMENTS + 8 * 2),
        (EQUAL, _TCP_ULP, "ulp", "end"),
    ],
    "sendto": [(LOAD, ARGUMENTS + 8 * 3), (HAS, MSG_FASTOPEN, "fast open", "end")],
    "sendmsg": [(LOAD, ARGUMENTS + 8 * 2), (HAS, MSG_FASTOPEN, "fast open", "end")],
}
"""Instructions that judge a call by its arguments: they go to one of _REFUSALS, or to `end` for the filter."""


def guarded(filter_: bytes, *, files: bool, connect: bool, bind: bool, reports: bool) -> bytes:
    """The filter, and instructions that fail what gets past Landlock where it confines files, connecting or binding.

    With `reports`, what the filter answers SECCOMP_RET_USER_NOTIF is not run."""
    looked_at: dict[str, Mapping[int, tuple[int, ...]]] = {}
    if files:
        looked_at |= {"open": _OPEN, "openat": _OPENAT}
    if connect or bind:
        looked_at |= {"socket": _SOCKET, "setsockopt": _SETSOCKOPT}
    if connect:
        looked_at |= {"sendto": _SENDTO, "sendmsg": _SENDMSG}
    opaque = [_OPENAT2] * files + [_IO_URING_SETUP] * (files or connect or bind)
    program = Filter(filter_)
    lines: list[Line] = []
    for arch in (linux.AUDIT_ARCH_X86_64, linux.AUDIT_ARCH_I386):
        lines += [(LOAD, ARCH), (EQUAL, arch, "", f"not {arch}"), (LOAD, NUMBER)]
        lines += [(EQUAL, number, check, "") for check, calls in looked_at.items() for number in calls[arch]]
        numbers = [number for calls in opaque for number in calls[arch]]
        lines += [(EQUAL, number, "opaque", "") for number in numbers if program.may_run(arch, number, reports=reports)]
        lines += [(JUMP, "end"), f"not {arch}"]
    lines += [(JUMP, "end")]
    for check in looked_at:
        lines += [check, *_CHECKS[check]]
    for refusal, number in _REFUSALS.items():
        lines += [refusal, (RETURN, linux.SECCOMP_RET_ERRNO | number)]
    return assembled([*lines, "end"]) + filter_
