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

from enforcer.arming.may_run import may_run
from enforcer.shield import assembled
from policygen.files.landlock import FAMILIES, MSG_FASTOPEN, PROTOCOLS
from tracer import linux

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from enforcer.shield import Line

_LD, _AND, _JA = 0x20, 0x54, linux.BPF_JA  # BPF_LD|BPF_W|BPF_ABS, BPF_ALU|BPF_AND|BPF_K (linux/bpf_common.h)
_JEQ, _JSET = 0x15, 0x45  # BPF_JMP|...|BPF_K
_NUMBER, _ARCH, _ARGUMENTS = 0, 4, 16  # struct seccomp_data, linux/seccomp.h
_IPPROTO_TCP, _TCP_ULP = 6, 31  # linux/in.h, linux/tcp.h
FAST_OPEN_ERROR, PROTOCOL_ERROR, FAMILY_ERROR = errno.EOPNOTSUPP, errno.EPROTONOSUPPORT, errno.EAFNOSUPPORT
"""net/ipv4/tcp.c tcp_sendmsg_fastopen(), net/ipv4/af_inet.c inet_create(), net/socket.c __sock_create()."""

# Numbers of the calls that are looked at, by architecture: asm/unistd_64.h, unistd_32.h.  What a program of i386 hands to
# socketcall is in memory, and its C libraries have no other way to sockets.
_OPEN = {linux.AUDIT_ARCH_X86_64: (2,), linux.AUDIT_ARCH_I386: (5,)}
_OPENAT = {linux.AUDIT_ARCH_X86_64: (257, 304), linux.AUDIT_ARCH_I386: (295, 342)}  # and open_by_handle_at
_OPENAT2 = {linux.AUDIT_ARCH_X86_64: (437,), linux.AUDIT_ARCH_I386: (437,)}
_IO_URING_SETUP = {linux.AUDIT_ARCH_X86_64: (425,), linux.AUDIT_ARCH_I386: (425,)}
_SOCKET = {linux.AUDIT_ARCH_X86_64: (41,), linux.AUDIT_ARCH_I386: (359,)}
_SETSOCKOPT = {linux.AUDIT_ARCH_X86_64: (54,), linux.AUDIT_ARCH_I386: (366,)}
_SENDTO = {linux.AUDIT_ARCH_X86_64: (44, 307), linux.AUDIT_ARCH_I386: (369, 345)}  # and sendmmsg
_SENDMSG = {linux.AUDIT_ARCH_X86_64: (46,), linux.AUDIT_ARCH_I386: (370,)}

_REFUSALS = {
    "mode": errno.EACCES,
    "opaque": errno.ENOSYS,
    "family": FAMILY_ERROR,
    "protocol": PROTOCOL_ERROR,
    "ulp": errno.ENOENT,  # net/ipv4/tcp_ulp.c tcp_set_ulp()
    "fast open": FAST_OPEN_ERROR,
}
_CHECKS: Mapping[str, list[Line]] = {
    "open": [(_LD, _ARGUMENTS + 8 * 1), (_JA, "flags")],
    "openat": [
        (_LD, _ARGUMENTS + 8 * 2),
        "flags",
        (_JSET, os.O_PATH, "end", ""),  # which ignores the access mode
        (_AND, os.O_ACCMODE),
        (_JEQ, os.O_ACCMODE, "mode", "end"),
    ],
    "socket": [
        (_LD, _ARGUMENTS),
        *((_JEQ, family, "family", "") for family in FAMILIES),
        (_LD, _ARGUMENTS + 8 * 2),
        *((_JEQ, protocol, "protocol", "") for protocol in PROTOCOLS),
        (_JA, "end"),
    ],
    "setsockopt": [
        (_LD, _ARGUMENTS + 8 * 1),
        (_JEQ, _IPPROTO_TCP, "", "end"),
        (_LD, _ARGUMENTS + 8 * 2),
        (_JEQ, _TCP_ULP, "ulp", "end"),
    ],
    "sendto": [(_LD, _ARGUMENTS + 8 * 3), (_JSET, MSG_FASTOPEN, "fast open", "end")],
    "sendmsg": [(_LD, _ARGUMENTS + 8 * 2), (_JSET, MSG_FASTOPEN, "fast open", "end")],
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
    lines: list[Line] = []
    for arch in (linux.AUDIT_ARCH_X86_64, linux.AUDIT_ARCH_I386):
        lines += [(_LD, _ARCH), (_JEQ, arch, "", f"not {arch}"), (_LD, _NUMBER)]
        lines += [(_JEQ, number, check, "") for check, calls in looked_at.items() for number in calls[arch]]
        numbers = [number for calls in opaque for number in calls[arch]]
        lines += [(_JEQ, number, "opaque", "") for number in numbers if may_run(filter_, arch, number, reports=reports)]
        lines += [(_JA, "end"), f"not {arch}"]
    lines += [(_JA, "end")]
    for check in looked_at:
        lines += [check, *_CHECKS[check]]
    for refusal, number in _REFUSALS.items():
        lines += [refusal, (linux.BPF_RET_K, linux.SECCOMP_RET_ERRNO | number)]
    return assembled([*lines, "end"]) + filter_
