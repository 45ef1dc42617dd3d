"""The numbers of the system calls that callfence makes itself, or looks at while a program runs.

Loading the tables of `tracer.abi` would take too long at a start of `enforce`; tests/tracer/machine/test_numbers.py compares
the two.
"""

from __future__ import annotations

ARCHITECTURES = (0xC000003E, 0x40000003, 0xC00000B7, 0x40000028)
"""AUDIT_ARCH_* (linux/audit.h) of the columns of NUMBERS: x86_64, i386, aarch64, arm."""

NUMBERS = {
    "clone": (56, 120, 220, 120), "clone3": (435, 435, 435, 435), "fork": (57, 2, -1, 2), "vfork": (58, 190, -1, 190),
    "execve": (59, 11, 221, 11), "exit": (60, 1, 93, 1), "exit_group": (231, 252, 94, 248), "unshare": (272, 310, 97, 337),
    "kcmp": (312, 349, 272, 378), "capget": (125, 184, 90, 184), "capset": (126, 185, 91, 185),
    "prctl": (157, 172, 167, 172), "ptrace": (101, 26, 117, 26), "seccomp": (317, 354, 277, 383),
    "futex": (202, 240, 98, 240), "futex_time64": (-1, 422, -1, 422), "poll": (7, 168, -1, 168),
    "ppoll": (271, 309, 73, 336), "ppoll_time64": (-1, 414, -1, 414), "select": (23, 82, -1, -1),
    "_newselect": (-1, 142, -1, 142), "pselect6": (270, 308, 72, 335), "pselect6_time64": (-1, 413, -1, 413),
    "nanosleep": (35, 162, 101, 162), "clock_nanosleep": (230, 267, 115, 265), "clock_nanosleep_time64": (-1, 407, -1, 407),
    "wait4": (61, 114, 260, 114), "waitid": (247, 284, 95, 280), "waitpid": (-1, 7, -1, -1),
    "rt_sigsuspend": (130, 179, 133, 179), "sigsuspend": (-1, 72, -1, 72), "pause": (34, 29, -1, 29),
    "epoll_wait": (232, 256, -1, 252), "epoll_pwait": (281, 319, 22, 346), "tgkill": (234, 270, 131, 268),
    "rt_sigprocmask": (14, 175, 135, 175), "signalfd4": (289, 327, 74, 355), "pidfd_send_signal": (424, 424, 424, 424),
    "pidfd_open": (434, 434, 434, 434), "pidfd_getfd": (438, 438, 438, 438), "mmap": (9, 90, 222, -1),
    "mmap2": (-1, 192, -1, 192), "mprotect": (10, 125, 226, 125), "munmap": (11, 91, 215, 91), "open": (2, 5, -1, 5),
    "openat": (257, 295, 56, 322), "openat2": (437, 437, 437, 437), "open_by_handle_at": (304, 342, 265, 371),
    "mremap": (25, 163, 216, 163), "pkey_mprotect": (329, 380, 288, 394), "madvise": (28, 219, 233, 220),
    "remap_file_pages": (216, 257, 234, 253), "shmat": (30, 397, 196, 305), "shmdt": (67, 398, 197, 306),
    "ipc": (-1, 117, -1, -1),
    "fsopen": (430, 430, 430, 430), "fsconfig": (431, 431, 431, 431),
    "write": (1, 4, 64, 4), "fstatfs": (138, 100, 44, 100), "fcntl": (72, 55, 25, 55), "ioctl": (16, 54, 29, 54),
    "close_range": (436, 436, 436, 436),
    "io_uring_setup": (425, 425, 425, 425), "io_uring_enter": (426, 426, 426, 426), "socket": (41, 359, 198, 281),
    "socketcall": (-1, 102, -1, -1), "setsockopt": (54, 366, 208, 294), "getsockopt": (55, 365, 209, 295),
    "getsockname": (51, 367, 204, 286),
    "listen": (50, 363, 201, 284), "accept": (43, -1, 202, 285), "accept4": (288, 364, 242, 366),
    "sendto": (44, 369, 206, 290), "sendmsg": (46, 370, 211, 296), "sendmmsg": (307, 345, 269, 374),
    "connect": (42, 362, 203, 283), "recvfrom": (45, 371, 207, 292), "recvmsg": (47, 372, 212, 297),
    "getpeername": (52, 368, 205, 287), "shutdown": (48, 373, 210, 293), "setresuid": (117, 164, 147, 164),
    "setresgid": (119, 170, 149, 170), "setfsuid": (122, 138, 151, 138), "setfsgid": (123, 139, 152, 139),
    "setgroups": (116, 81, 159, 81), "process_vm_writev": (311, 348, 271, 377),
    "socketpair": (53, 360, 199, 288), "mount": (165, 21, 40, 21), "umount": (-1, 22, -1, -1), "umount2": (166, 52, 39, 52),
    "pivot_root": (155, 217, 41, 218), "move_mount": (429, 429, 429, 429), "add_key": (248, 286, 217, 309),
    "keyctl": (250, 288, 219, 311), "request_key": (249, 287, 218, 310),
    "landlock_create_ruleset": (444, 444, 444, 444),
    "landlock_add_rule": (445, 445, 445, 445), "landlock_restrict_self": (446, 446, 446, 446), "fcntl64": (-1, 221, -1, 221),
    "rt_sigreturn": (15, 173, 139, 173), "restart_syscall": (219, 0, 128, 0),
    "get_robust_list": (274, 312, 100, 339), "getpgid": (121, 132, 155, 132), "getpriority": (140, 96, 141, 96),
    "getsid": (124, 147, 156, 147), "ioprio_get": (252, 290, 31, 315), "ioprio_set": (251, 289, 30, 314),
    "kill": (62, 37, 129, 37), "migrate_pages": (256, 294, 238, 400), "move_pages": (279, 317, 239, 344),
    "perf_event_open": (298, 336, 241, 364), "prlimit64": (302, 340, 261, 369), "process_madvise": (440, 440, 440, 440),
    "process_mrelease": (448, 448, 448, 448), "process_vm_readv": (310, 347, 270, 376),
    "rt_sigqueueinfo": (129, 178, 138, 178), "rt_tgsigqueueinfo": (297, 335, 240, 363),
    "sched_getaffinity": (204, 242, 123, 242), "sched_getattr": (315, 352, 275, 381), "sched_getparam": (143, 155, 121, 155),
    "sched_getscheduler": (145, 157, 120, 157), "sched_rr_get_interval": (148, 161, 127, 161),
    "sched_rr_get_interval_time64": (-1, 423, -1, 423), "sched_setaffinity": (203, 241, 122, 241),
    "sched_setattr": (314, 351, 274, 380), "sched_setparam": (142, 154, 118, 154),
    "sched_setscheduler": (144, 156, 119, 156), "setns": (308, 346, 268, 375), "setpgid": (109, 57, 154, 57),
    "setpriority": (141, 97, 140, 97), "timer_create": (222, 259, 107, 257), "tkill": (200, 238, 130, 238),
}  # fmt: skip
"""By name: the number of a call on each architecture (asm/unistd_64.h, asm/unistd_32.h, asm-generic/unistd.h,
arch/arm/tools/syscall.tbl), -1 where there is no such call."""


def column(audit: int) -> dict[str, int]:
    """Return the numbers of the calls that an architecture has, by name."""
    place = ARCHITECTURES.index(audit)
    return {name: numbers[place] for name, numbers in NUMBERS.items() if numbers[place] >= 0}
