"""Instructions before a filter: they keep the program from the processes that answer its calls.

The program runs as the same user as its helper, so a policy that allows `kill` or `prlimit64` with any pid would let it stop
the helper, and one that allows `ptrace` or `pidfd_open` might let it take the helper's descriptors.  These calls fail with
EPERM if they name the helper, as for a process of another user.
"""

from __future__ import annotations

import errno

from tracer import linux

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

_LD, _JEQ, _JA = 0x20, 0x15, linux.BPF_JA  # BPF_LD|BPF_W|BPF_ABS, BPF_JMP|BPF_JEQ|BPF_K (linux/bpf_common.h)
_NUMBER, _ARCH, _ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data (linux/seccomp.h)
_SIGKILL, _SIGSTOP, _F_SETOWN = 9, 19, 8  # asm/signal.h, asm-generic/fcntl.h
_WORD = 0xFFFFFFFF
_EVERYBODY = _WORD  # -1

# The numbers of the calls whose first, and whose second, argument is a pid: asm/unistd_64.h, asm/unistd_32.h.
# tkill tgkill rt_sigqueueinfo rt_tgsigqueueinfo pidfd_open prlimit64 sched_setscheduler sched_setparam sched_setaffinity
# sched_setattr process_vm_readv process_vm_writev; setpriority ioprio_set ptrace; kill; fcntl (and fcntl64)
_CALLS = (
    (
        linux.AUDIT_ARCH_X86_64,
        (200, 234, 129, 297, 434, 302, 144, 142, 203, 314, 310, 311),
        (141, 251, 101),
        (62,),
        (72,),
    ),
    (
        linux.AUDIT_ARCH_I386,
        (238, 270, 178, 335, 434, 340, 156, 154, 241, 351, 347, 348),
        (97, 289, 26),
        (37,),
        (55, 221),
    ),
)

EXITS = {linux.AUDIT_ARCH_X86_64: (60, 231), linux.AUDIT_ARCH_I386: (1, 252)}  # exit, exit_group


def shielded(filter_: bytes, pids: Sequence[int]) -> bytes:
    """The filter, and `chain.SHIELD` instructions before it that deny calls on these two processes.

    kill(-1), which reaches every process of the user, is denied with SIGKILL and SIGSTOP: the helper ignores other signals.
    """
    before = _TEMPLATE
    for stands_for, pid in zip(_NO_PIDS, pids, strict=True):
        for sign in (1, -1):
            before = before.replace(_word(sign * stands_for), _word(sign * pid))
    return before + filter_


def asking_on_exit(filter_: bytes) -> bytes:
    """The filter, and `chain.EXITS` instructions before it that ask the helper before a process or a thread exits."""
    lines: list[Line] = [(_LD, _ARCH)]
    for arch, numbers in EXITS.items():
        lines += [(_JEQ, arch, "", f"not {arch}"), (_LD, _NUMBER), *((_JEQ, number, "ask", "") for number in numbers)]
        lines += [(_JA, "end"), f"not {arch}"]
    return assembled([*lines, (_JA, "end"), "ask", (linux.BPF_RET_K, linux.SECCOMP_RET_USER_NOTIF), "end"]) + filter_


def asking(calls: Sequence[tuple[int, int]]) -> bytes:
    """A filter that asks the helper about these calls (AUDIT_ARCH_* and number, ascending), and lets all others run."""
    lines: list[Line] = [(_LD, _ARCH)]
    for arch in dict.fromkeys(arch for arch, _ in calls):
        lines += [(_JEQ, arch, "", f"not {arch}"), (_LD, _NUMBER)]
        lines += [(_JEQ, number, "ask", "") for of, number in calls if of == arch]
        lines += [(_JA, "end"), f"not {arch}"]
    answers: list[Line] = ["ask", (linux.BPF_RET_K, linux.SECCOMP_RET_USER_NOTIF)]
    return assembled([*lines, (_JA, "end"), *answers, "end", (linux.BPF_RET_K, linux.SECCOMP_RET_ALLOW)])


def _word(value: int) -> bytes:
    return (value & _WORD).to_bytes(4, "little")


def _section(
    pids: Sequence[int],
    arch: int,
    first: Sequence[int],
    second: Sequence[int],
    kill: Sequence[int],
    fcntl: Sequence[int],
) -> bytes:
    """The instructions for one architecture."""
    groups = [group for pid in pids for group in (pid, -pid & _WORD)]  # kill(2): a negative one is a process group
    lines: list[Line] = [(_LD, _ARCH), (_JEQ, arch, "", "end"), (_LD, _NUMBER)]
    for name, numbers in (("first", first), ("second", second), ("kill", kill), ("fcntl", fcntl)):
        lines += [(_JEQ, number, name, "") for number in numbers]
    lines += [(_JA, "end"), "first", *_denied(0, pids), (_JA, "end"), "second", *_denied(1, pids), (_JA, "end")]
    lines += ["kill", *_denied(0, groups), (_JEQ, _EVERYBODY, "", "end"), *_denied(1, (_SIGKILL, _SIGSTOP)), (_JA, "end")]
    # F_SETOWN: the kernel then sends the process signals of the program's choice (F_SETSIG).
    lines += ["fcntl", (_LD, _ARGUMENTS + 8), (_JEQ, _F_SETOWN, "", "end"), *_denied(2, groups), (_JA, "end")]
    return assembled([*lines, "deny", (linux.BPF_RET_K, linux.SECCOMP_RET_ERRNO | errno.EPERM), "end"])


def _denied(argument: int, values: Sequence[int]) -> list[Line]:
    """Deny the call if an argument, an int, has one of these values."""
    return [(_LD, _ARGUMENTS + 8 * argument), *((_JEQ, value, "deny", "") for value in values)]


def assembled(lines: Sequence[Line]) -> bytes:
    """The bytes of instructions among which strings are labels."""
    places: dict[str, int] = {}
    count = 0
    for line in lines:
        if isinstance(line, str):
            places[line] = count
        else:
            count += 1
    program = b""
    count = 0
    for line in lines:
        if isinstance(line, str):
            continue
        count += 1
        code, operand, *targets = line
        k = places[operand] - count if isinstance(operand, str) else operand
        jumps = bytes(places[target] - count if target else 0 for target in targets or ("", ""))
        program += code.to_bytes(2, "little") + jumps + k.to_bytes(4, "little")
    return program


_NO_PIDS = (0x7FFFFF01, 0x7FFFFF02)  # no pid is that large (PID_MAX_LIMIT, linux/threads.h)
_TEMPLATE = b"".join(_section(_NO_PIDS, *calls) for calls in _CALLS)
"""Made once, before the helper is cloned: in a clone, each page that is touched for the first time is copied."""

if TYPE_CHECKING:
    Line = str | tuple[int, int | str] | tuple[int, int, str, str]
