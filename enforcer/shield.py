"""Instructions before a filter: they keep the program from its helper.

The program runs as the same user as its helper, so a policy that allows `kill` or `prlimit64` with any pid would let it stop
the helper, and one that allows `ptrace` or `pidfd_open` might let it take the helper's descriptors.  These calls fail with
EPERM if they name the helper, as for a process of another user (`tracer.pids`).  The ioctl commands by which a supervisor
answers calls fail likewise: a program that got hold of a listener could otherwise let its own denied calls run.
"""

from __future__ import annotations

import errno
import os

from enforcer.bpf import ARCH, ARGUMENTS, EQUAL, JUMP, LOAD, NUMBER, RETURN, assembled
from enforcer.later import read_file
from tracer import linux

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from enforcer.bpf import Line

_COMMANDS = (0xC0502100, 0xC0182101, 0x40082102, 0x80082102, 0x40182103, 0x40082104)
"""SECCOMP_IOCTL_NOTIF_RECV, _SEND, _ID_VALID and _ID_VALID_WRONG_DIR, _ADDFD, _SET_FLAGS (linux/seccomp.h)."""
ARCHITECTURES = (linux.AUDIT_ARCH_X86_64, linux.AUDIT_ARCH_I386)
DENY: Line = (RETURN, linux.SECCOMP_RET_ERRNO | errno.EPERM)

EXITS = linux.numbers_by_arch("exit", "exit_group")


def read() -> bytes:
    """The instructions that keep calls from a helper (`make commands`, tools/make_helper_filter.py).  Raises OSError."""
    return read_file(f"{os.path.dirname(__file__)}/shield.filter")


def shielded(filter_: bytes, processes: Sequence[int], before: bytes = b"") -> bytes:
    """The filter, and instructions before it that deny calls on these two processes, the helper and its stand-in.

    kill(-1), which reaches every process of the user, is denied with SIGKILL and SIGSTOP: the helper ignores other signals.
    `before`: what `read` returns, if it was read before.  Raises OSError.
    """
    before = before or read()
    for stands_for, pid in zip(NO_PIDS, processes, strict=True):
        for sign in (1, -1):
            before = before.replace(_word(sign * stands_for), _word(sign * pid))
    return before + filter_


def without_listener(filter_: bytes) -> bytes:
    """The filter, and instructions before it that deny receiving and answering notifications of any listener."""
    lines: list[Line] = [(LOAD, ARCH)]
    for arch, number in zip(ARCHITECTURES, linux.NUMBERS["ioctl"], strict=True):
        lines += [(EQUAL, arch, "", f"not {arch}"), (LOAD, NUMBER), (EQUAL, number, "ioctl", "end"), f"not {arch}"]
    lines += [(JUMP, "end"), "ioctl", (LOAD, ARGUMENTS + 8), *((EQUAL, command, "deny", "") for command in _COMMANDS)]
    return assembled([*lines, (JUMP, "end"), "deny", DENY, "end"]) + filter_


def asking_on_exit(filter_: bytes) -> bytes:
    """The filter, and `bpf.EXITS` instructions before it that ask the helper before a process or a thread exits."""
    lines: list[Line] = [(LOAD, ARCH)]
    for arch, numbers in EXITS.items():
        lines += [(EQUAL, arch, "", f"not {arch}"), (LOAD, NUMBER), *((EQUAL, number, "ask", "") for number in numbers)]
        lines += [(JUMP, "end"), f"not {arch}"]
    return assembled([*lines, (JUMP, "end"), "ask", (RETURN, linux.SECCOMP_RET_USER_NOTIF), "end"]) + filter_


def asking(calls: Sequence[tuple[int, int]]) -> bytes:
    """A filter that asks the helper about these calls (AUDIT_ARCH_* and number, ascending), and lets all others run."""
    lines: list[Line] = [(LOAD, ARCH)]
    for arch in dict.fromkeys(arch for arch, _ in calls):
        lines += [(EQUAL, arch, "", f"not {arch}"), (LOAD, NUMBER)]
        lines += [(EQUAL, number, "ask", "") for of, number in calls if of == arch]
        lines += [(JUMP, "end"), f"not {arch}"]
    answers: list[Line] = ["ask", (RETURN, linux.SECCOMP_RET_USER_NOTIF)]
    return assembled([*lines, (JUMP, "end"), *answers, "end", (RETURN, linux.SECCOMP_RET_ALLOW)])


def _word(value: int) -> bytes:
    return (value & 0xFFFFFFFF).to_bytes(4, "little")


NO_PIDS = (0x7FFFFF01, 0x7FFFFF02)
"""What stands for the two processes in shield.filter; no pid is that large (PID_MAX_LIMIT, linux/threads.h)."""
