"""The system calls that name another process: where they name it, and what they do to it.

`enforcer.bpf.shielded` keeps a program from its helper by this table, and `policygen.learning.scope` and `tracer.aims`
decide by it whom a program signals.  `tests/tracer/test_pids.py` compares it with the table of system calls: each argument that
is a process, a task or a descriptor of one is here.  On every start of `enforce`, so nothing is imported.
"""

from __future__ import annotations

from callfence.tracer import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

SIGNALS, CHANGES, READS, OWN = "signals", "changes", "reads", "own"
"""What a call does to the process that it names: SIGNALS sends a signal, or has the kernel send one later; CHANGES changes the
process, or reads its memory or descriptors; READS only reads attributes; OWN accepts only the caller's children and threads."""
REGISTER, MEMORY, DESCRIPTOR, USER = "register", "memory", "descriptor", "user"
"""How a call names the process: by its pid in the argument (REGISTER) or in memory that the argument points to (MEMORY), by a
descriptor (DESCRIPTOR), or as all processes of a user (USER)."""

class Row:
    """One way in which a call names a process."""

    __slots__ = ("argument", "effect", "name", "place", "selector")

    def __init__(self, name: str, argument: int, effect: str, place: str = REGISTER, selector: tuple[int, ...] = ()) -> None:
        self.name = name
        self.argument = argument
        """The index of the argument."""
        self.effect = effect
        self.place = place
        self.selector = selector
        """The index of another argument and its values (32 bits) with which the call names a process; () if it always does."""


ROWS = (
    Row("kill", 0, SIGNALS),
    Row("tkill", 0, SIGNALS),
    Row("tgkill", 0, SIGNALS),
    Row("tgkill", 1, SIGNALS),
    Row("rt_sigqueueinfo", 0, SIGNALS),
    Row("rt_tgsigqueueinfo", 0, SIGNALS),
    Row("rt_tgsigqueueinfo", 1, SIGNALS),
    Row("pidfd_send_signal", 0, SIGNALS, DESCRIPTOR),  # of pidfd_open, of clone, or a folder of /proc
    Row("fcntl", 2, SIGNALS, REGISTER, (1, 8)),  # F_SETOWN, asm-generic/fcntl.h
    Row("fcntl64", 2, SIGNALS, REGISTER, (1, 8)),
    Row("fcntl", 2, SIGNALS, MEMORY, (1, 15)),  # F_SETOWN_EX
    Row("fcntl64", 2, SIGNALS, MEMORY, (1, 15)),
    Row("ioctl", 2, SIGNALS, MEMORY, (1, 0x8901, 0x8902)),  # FIOSETOWN, SIOCSPGRP, asm-generic/sockios.h
    Row("ptrace", 1, CHANGES),
    Row("prlimit64", 0, CHANGES),
    Row("sched_setparam", 0, CHANGES),
    Row("sched_setscheduler", 0, CHANGES),
    Row("sched_setaffinity", 0, CHANGES),
    Row("sched_setattr", 0, CHANGES),
    Row("setpriority", 1, CHANGES),
    Row("setpriority", 1, CHANGES, USER, (0, 2)),  # PRIO_USER, linux/resource.h
    Row("ioprio_set", 1, CHANGES),
    Row("ioprio_set", 1, CHANGES, USER, (0, 3)),  # IOPRIO_WHO_USER, linux/ioprio.h
    Row("prctl", 2, CHANGES, REGISTER, (0, 62)),  # PR_SCHED_CORE, linux/prctl.h
    Row("process_vm_readv", 0, CHANGES),
    Row("process_vm_writev", 0, CHANGES),
    Row("migrate_pages", 0, CHANGES),
    Row("move_pages", 0, CHANGES),
    Row("perf_event_open", 1, CHANGES),
    Row("kcmp", 0, CHANGES),
    Row("kcmp", 1, CHANGES),
    Row("pidfd_open", 0, CHANGES),
    Row("open_by_handle_at", 1, CHANGES, MEMORY),  # a handle of pidfs (Linux 6.13), which gives a pidfd
    Row("pidfd_getfd", 0, CHANGES, DESCRIPTOR),
    Row("process_madvise", 0, CHANGES, DESCRIPTOR),
    Row("process_mrelease", 0, CHANGES, DESCRIPTOR),
    Row("getpgid", 0, READS),
    Row("getsid", 0, READS),
    Row("getpriority", 1, READS),
    Row("sched_getparam", 0, READS),
    Row("sched_getscheduler", 0, READS),
    Row("sched_rr_get_interval", 0, READS),
    Row("sched_rr_get_interval_time64", 0, READS),
    Row("sched_getaffinity", 0, READS),
    Row("sched_getattr", 0, READS),
    Row("ioprio_get", 1, READS),
    Row("get_robust_list", 0, READS),
    Row("setns", 0, READS, DESCRIPTOR),
    Row("wait4", 0, OWN),
    Row("waitid", 1, OWN),
    Row("waitid", 1, OWN, DESCRIPTOR, (0, 3)),  # P_PIDFD, linux/wait.h
    Row("waitpid", 0, OWN),
    Row("setpgid", 0, OWN),
    Row("setpgid", 1, OWN),
    Row("timer_create", 1, OWN, MEMORY),  # SIGEV_THREAD_ID
)


def rows(effect: str, *places: str) -> Iterator[Row]:
    """Yield the rows with the effect `effect`; with `places`, only those that name the process in one of these ways."""
    return (row for row in ROWS if row.effect == effect and (not places or row.place in places))
