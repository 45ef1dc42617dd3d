"""Instructions that fail the calls which a program's filter allows, and which get past Landlock.

Landlock judges what a file is opened for (security/landlock/fs.c), and the third access mode of open(2) is for neither reading
nor writing: ioctl(2) and fchmod(2) then work on files that no rule grants.  It judges connect(2) and bind(2) of plain TCP
sockets (security/landlock/net.c).  sendto(2), sendmsg(2) and sendmmsg(2) with MSG_FASTOPEN connect as well; MPTCP and SMC
sockets fall back to TCP, RDS has the kernel connect, and TCP_ULP makes an SMC socket of a TCP one (Linux 5.17 to 6.19).  So
these fail as on a kernel that has them switched off, and programs then do what they do there.  openat2(2) and io_uring take all
of that in memory, where no filter sees it: where the filter might let them run, they fail as on an older kernel.  A ring that
the program is given, by who has registered credentials with it (io_uring_register(2)), opens files as that process.  fsopen(2)
and fsconfig(2) fail so, too: Landlock judges where a file system is mounted, but not that its driver is started, which writes
to the device, or makes and removes folders (overlayfs).
"""

from __future__ import annotations

import os

from callfence.enforcer.bpf import AND, ARGUMENTS, EQUAL, HAS, JUMP, LOAD, Filter
from callfence.enforcer.guard import FAST_OPEN, Check, guard
from callfence.policygen.files.landlock import UNSEEN_REQUESTS, Ruleset, is_confined
from callfence.tracer import TYPE_CHECKING, linux
from callfence.tracer.machine import MACHINE

if TYPE_CHECKING:
    from callfence.enforcer.bpf import Line

_TCP_ULP = 31  # linux/tcp.h

# The calls that are looked at.  What a program of i386 hands to socketcall is in memory, and its C libraries have no other way
# to sockets.
_SOCKETS = {
    "socket": Check(
        MACHINE.numbers_by_arch("socket"),
        [
            (LOAD, ARGUMENTS),
            *((EQUAL, family, "family", "") for family in linux.TCP_FAMILIES),
            (LOAD, ARGUMENTS + 8 * 2),
            *((EQUAL, protocol, "protocol", "") for protocol in linux.TCP_PROTOCOLS),
            (JUMP, "end"),
        ],
    ),
    "setsockopt": Check(
        MACHINE.numbers_by_arch("setsockopt"),
        [
            (LOAD, ARGUMENTS + 8 * 1),
            (EQUAL, linux.IPPROTO_TCP, "", "end"),
            (LOAD, ARGUMENTS + 8 * 2),
            (EQUAL, _TCP_ULP, "no option", "end"),
        ],
    ),
}
_OPENS = {
    "open": Check(MACHINE.numbers_by_arch("open"), [(LOAD, ARGUMENTS + 8 * 1), (JUMP, "flags")]),
    "openat": Check(
        MACHINE.numbers_by_arch("openat", "open_by_handle_at"),
        [
            (LOAD, ARGUMENTS + 8 * 2),
            "flags",
            (HAS, os.O_PATH, "end", ""),  # which ignores the access mode
            (AND, os.O_ACCMODE),
            (EQUAL, os.O_ACCMODE, "mode", "end"),
        ],
    ),
}

_REQUEST = ARGUMENTS + 8 * 1


def _ioctls(program: Filter, *, reports: bool) -> dict[str, Check]:
    """Return the checks of the requests that the filter might let run; it answers the others itself."""
    numbers, checks = MACHINE.numbers_by_arch("ioctl"), {}
    for arch, of_arch in numbers.items():
        run = [
            request
            for request in UNSEEN_REQUESTS
            if any(program.may_allow(arch, number, reports=reports, known={_REQUEST: request}) for number in of_arch)
        ]
        if run:
            lines: list[Line] = [(LOAD, _REQUEST), *((EQUAL, request, "no request", "") for request in run), (JUMP, "end")]
            checks[f"ioctl {arch}"] = Check({**dict.fromkeys(numbers, ()), arch: of_arch}, lines)
    return checks


def refusals(filter_: bytes, rules: Ruleset, *, reports: bool) -> bytes:
    """Return the instructions for what a policy's filter allows, whose files and ports Landlock confines by `rules`; b"" if it
    confines none.  With `reports`, calls that the filter answers by SECCOMP_RET_USER_NOTIF do not run."""
    files, connect, bind = rules.paths is not None, is_confined(rules.connect), is_confined(rules.bind)
    if not (files or connect or bind):
        return b""
    checks = {**(_OPENS if files else {}), **(_SOCKETS if connect or bind else {}), **(FAST_OPEN if connect else {})}
    if files:
        checks |= _ioctls(Filter(filter_), reports=reports)
    opaque = ["openat2", "fsopen", "fsconfig"] * files + ["io_uring_setup", "io_uring_enter"]
    return guard(filter_, checks, opaque, reports=reports)
