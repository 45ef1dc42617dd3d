"""The numbers of the system calls that `enforce` makes, looks for or looks at.

Every start imports this, and has no time for the tables of `tracer.abi`; `tests/enforcer/test_numbers.py` compares the two.
"""

from __future__ import annotations

from tracer import linux

X86_64, I386 = linux.AUDIT_ARCH_X86_64, linux.AUDIT_ARCH_I386
NUMBERS = {
    "clone": (56, 120), "clone3": (435, 435), "fork": (57, 2), "vfork": (58, 190), "execve": (59, 11), "exit": (60, 1),
    "exit_group": (231, 252), "unshare": (272, 310), "prlimit64": (302, 340), "kcmp": (312, 349), "capget": (125, 184),
    "capset": (126, 185), "prctl": (157, 172), "ptrace": (101, 26), "seccomp": (317, 354),
    "futex": (202, 240), "futex_time64": (-1, 422), "poll": (7, 168), "ppoll": (271, 309), "ppoll_time64": (-1, 414),
    "select": (23, 82), "_newselect": (-1, 142), "pselect6": (270, 308), "pselect6_time64": (-1, 413), "nanosleep": (35, 162),
    "clock_nanosleep": (230, 267), "clock_nanosleep_time64": (-1, 407), "wait4": (61, 114), "waitid": (247, 284),
    "waitpid": (-1, 7), "rt_sigsuspend": (130, 179), "sigsuspend": (-1, 72), "pause": (34, 29), "epoll_wait": (232, 256),
    "epoll_pwait": (281, 319),
    "tgkill": (234, 270), "rt_sigprocmask": (14, 175), "signalfd4": (289, 327), "pidfd_send_signal": (424, 424),
    "pidfd_open": (434, 434), "pidfd_getfd": (438, 438),
    "mmap": (9, 90), "mmap2": (-1, 192), "mprotect": (10, 125), "munmap": (11, 91),
    "open": (2, 5), "openat": (257, 295), "openat2": (437, 437), "open_by_handle_at": (304, 342), "write": (1, 4),
    "fcntl": (72, 55), "ioctl": (16, 54), "close_range": (436, 436), "io_uring_setup": (425, 425),
    "socket": (41, 359), "socketcall": (-1, 102), "setsockopt": (54, 366), "getsockopt": (55, 365), "getsockname": (51, 367),
    "listen": (50, 363), "accept": (43, -1), "accept4": (288, 364), "sendto": (44, 369), "sendmsg": (46, 370),
    "sendmmsg": (307, 345),
    "add_key": (248, 286), "keyctl": (250, 288), "landlock_create_ruleset": (444, 444), "landlock_add_rule": (445, 445),
    "landlock_restrict_self": (446, 446),
}  # fmt: skip
"""By name, of x86_64 and i386 (asm/unistd_64.h, asm/unistd_32.h); -1 where there is no such call."""


def number(name: str) -> int:
    """Of x86_64."""
    return NUMBERS[name][0]


def each(*names: str) -> dict[int, tuple[int, ...]]:
    """By AUDIT_ARCH_*, the numbers of these calls."""
    found = [NUMBERS[name] for name in names]
    return {arch: tuple(pair[place] for pair in found if pair[place] >= 0) for place, arch in enumerate((X86_64, I386))}


def calls(*names: str) -> set[tuple[int, int]]:
    """AUDIT_ARCH_* and number of these calls."""
    return {(arch, found) for arch, numbers in each(*names).items() for found in numbers}
