"""Instructions before a filter: ways to TCP ports that Landlock does not look at.

Landlock judges connect(2) and bind(2) of plain TCP sockets (security/landlock/net.c).  sendto(2) and its kin with MSG_FASTOPEN
connect as well, and MPTCP and SMC sockets fall back to TCP.  So these fail as on a kernel that has them switched off, and
programs then do what they do there.
"""

from __future__ import annotations

import errno

from enforcer.bpf import assembled
from policygen.files.landlock import MSG_FASTOPEN, PROTOCOLS
from tracer import linux

TYPE_CHECKING = False
if TYPE_CHECKING:
    from enforcer.bpf import Line

_LD, _JEQ, _JSET, _JA = 0x20, 0x15, 0x45, linux.BPF_JA  # BPF_JMP|BPF_JSET|BPF_K (linux/bpf_common.h)
_NUMBER, _ARCH, _ARGUMENTS = 0, 4, 16  # struct seccomp_data, linux/seccomp.h
FAST_OPEN_ERROR, PROTOCOL_ERROR = errno.EOPNOTSUPP, errno.EPROTONOSUPPORT
"""net/ipv4/tcp.c tcp_sendmsg_fastopen(), net/ipv4/af_inet.c inet_create()."""

# By architecture: sendto, sendmmsg; sendmsg; socket (asm/unistd_64.h, unistd_32.h).  What a program of i386 hands to socketcall
# is in memory, where no filter sees it.
_CALLS = ((linux.AUDIT_ARCH_X86_64, (44, 307), 46, 41), (linux.AUDIT_ARCH_I386, (369, 345), 370, 359))


def guarded(filter_: bytes, *, connect: bool) -> bytes:
    """The filter, and instructions that fail sockets of PROTOCOLS; and, if connecting is confined, MSG_FASTOPEN."""
    lines: list[Line] = []
    for arch, third, second, socket in _CALLS:
        other = f"not {arch}"
        lines += [(_LD, _ARCH), (_JEQ, arch, "", other), (_LD, _NUMBER), (_JEQ, socket, f"socket {arch}", "")]
        if connect:
            lines += [(_JEQ, number, f"third {arch}", "") for number in third]
            lines += [(_JEQ, second, f"second {arch}", "")]
        lines += [(_JA, "end"), f"socket {arch}", (_LD, _ARGUMENTS + 8 * 2)]
        lines += [(_JEQ, protocol, "protocol", "") for protocol in PROTOCOLS]
        lines += [(_JA, "end")]
        if connect:
            for name, index in (("third", 3), ("second", 2)):
                lines += [f"{name} {arch}", (_LD, _ARGUMENTS + 8 * index), (_JSET, MSG_FASTOPEN, "fast open", "end")]
        lines += [other]
    lines += [(_JA, "end"), "protocol", (linux.BPF_RET_K, linux.SECCOMP_RET_ERRNO | PROTOCOL_ERROR)]
    lines += ["fast open", (linux.BPF_RET_K, linux.SECCOMP_RET_ERRNO | FAST_OPEN_ERROR)] * connect
    return assembled([*lines, "end"]) + filter_
