"""Attempts to reach the helper and its stand-in, made by a program that may make every call but getppid(2).

Standard input is a socket: it brings the pids of the two, and a pidfd of each.  The attempts that are named are made on both,
and printed with what came of them; then getppid shows whether denied calls are still answered.
"""

from __future__ import annotations

import array
import ctypes
import errno
import fcntl
import os
import pty
import signal
import socket
import struct
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

LIBC = ctypes.CDLL(None, use_errno=True)
DONE = "done"
RLIMITS = range(16)


NUMBERS = {
    "futex": (202, 98), "getppid": (110, 173), "ioprio_set": (251, 30), "kcmp": (312, 272), "kill": (62, 129),
    "migrate_pages": (256, 238), "move_pages": (279, 239), "perf_event_open": (298, 241), "pidfd_getfd": (438, 438),
    "pidfd_send_signal": (424, 424), "prctl": (157, 167), "prlimit64": (302, 261), "process_madvise": (440, 440),
    "process_mrelease": (448, 448), "process_vm_writev": (311, 271), "ptrace": (101, 117), "sched_setattr": (314, 274),
    "setns": (308, 268), "setpriority": (141, 140), "timer_create": (222, 107), "timer_settime": (223, 110),
}  # fmt: skip
"""Of each call, on x86_64 and on aarch64: this program has none of our modules."""
ON_AARCH64 = os.uname().machine == "aarch64"


def call(name: str, *arguments: object) -> str:
    """Make a system call; the name of its errno, or DONE."""
    number = NUMBERS[name][ON_AARCH64]
    wide = (ctypes.c_long(value) if isinstance(value, int) else value for value in arguments)
    return DONE if LIBC.syscall(ctypes.c_long(number), *wide) >= 0 else errno.errorcode[ctypes.get_errno()]


def attempt(work: Callable[[], object]) -> str:
    try:
        result = work()
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return result if isinstance(result, str) else DONE


# Signals: by descriptors, and sent by the kernel for a descriptor's owner


def by_folder(pid: int, _: int) -> str:
    """A folder of /proc is a pidfd (pidfd_send_signal(2))."""
    folder = os.open(f"/proc/{pid}", os.O_RDONLY | os.O_DIRECTORY)
    return call("pidfd_send_signal", folder, signal.SIGKILL, None, 0)


def by_received_descriptor(_: int, pidfd: int) -> str:
    return call("pidfd_send_signal", pidfd, signal.SIGKILL, None, 0)


def stop_by_received_descriptor(_: int, pidfd: int) -> str:
    return call("pidfd_send_signal", pidfd, signal.SIGSTOP, None, 0)


def by_handle(pid: int, _: int) -> str:
    """Handles of pidfs name processes by numbers that can be guessed (Linux 6.13)."""
    handle = (ctypes.c_uint8 * 136)()
    struct.pack_into("I", handle, 0, 128)
    own = os.pidfd_open(os.getpid())
    mount = ctypes.c_int()
    if LIBC.name_to_handle_at(own, b"", handle, ctypes.byref(mount), 0x1000):  # AT_EMPTY_PATH
        return errno.errorcode[ctypes.get_errno()]
    (number,) = struct.unpack_from("Q", handle, 8)
    for guess in range(number, number + 200_000):  # it is younger
        struct.pack_into("Q", handle, 8, guess)
        pidfd = LIBC.open_by_handle_at(own, handle, 0)
        if pidfd < 0:
            continue
        try:
            if f"Pid:\t{pid}\n" in Path(f"/proc/self/fdinfo/{pidfd}").read_text():
                return call("pidfd_send_signal", pidfd, signal.SIGKILL, None, 0)
        finally:
            os.close(pidfd)
    return "no descriptor"


def owned(pid: int, own: Callable[[int], object]) -> str:
    """Make it the owner of a descriptor whose every event is to be a SIGKILL, and make events."""
    for ends in (os.pipe, lambda: [end.detach() for end in socket.socketpair()], pty.openpty):
        reader, writer = ends()
        outcome = attempt(lambda end=reader: own(end))
        if outcome != DONE:
            return outcome
        fcntl.fcntl(reader, 10, signal.SIGKILL)  # F_SETSIG
        fcntl.fcntl(reader, fcntl.F_SETFL, os.O_NONBLOCK | fcntl.FASYNC)
        os.write(writer, b"x\n")
        os.close(writer)
        os.close(reader)
    return alive(pid)


def alive(pid: int) -> str:
    """Whether a process is there and answers: neither a zombie nor stopped."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "dead"
    return {"Z": "dead", "X": "dead", "T": "stopped"}.get(state, "alive")


def by_owner_ex(pid: int, _: int) -> str:
    def own(descriptor: int) -> None:
        for kind in (0, 1, 2):  # F_OWNER_TID, F_OWNER_PID, F_OWNER_PGRP
            fcntl.fcntl(descriptor, 15, struct.pack("ii", kind, pid))
            fcntl.fcntl(descriptor, 10, signal.SIGKILL)

    return owned(pid, own)


def by_fiosetown(pid: int, _: int) -> str:
    ends = socket.socketpair()
    for request in (0x8901, 0x8902):  # FIOSETOWN, SIOCSPGRP
        for owner in (pid, -pid):
            fcntl.ioctl(ends[0], request, struct.pack("i", owner))
            fcntl.fcntl(ends[0], 10, signal.SIGKILL)
            fcntl.fcntl(ends[0], fcntl.F_SETFL, fcntl.FASYNC)
            ends[1].send(b"x")
    return alive(pid)


def by_setown(pid: int, _: int) -> str:
    return owned(pid, lambda descriptor: fcntl.fcntl(descriptor, fcntl.F_SETOWN, pid))


def by_terminal(pid: int, _: int) -> str:
    """Its process group as the foreground one of a terminal of ours, and ^C there."""

    child = os.fork()
    if child == 0:
        os.setsid()
        keyboard, screen = pty.openpty()
        fcntl.ioctl(screen, 0x540E, 0)  # TIOCSCTTY
        outcome = attempt(lambda: fcntl.ioctl(screen, 0x5410, struct.pack("i", pid)))  # TIOCSPGRP
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        os.write(keyboard, b"\x03")
        attempt(lambda: fcntl.ioctl(screen, 0x5412, b"\x03"))  # TIOCSTI
        os._exit(0 if outcome == "EPERM" else 1)
    _, status = os.waitpid(child, 0)
    return "EPERM" if status == 0 else alive(pid)


def to_everybody(_: int, __: int) -> str:
    return call("kill", -1, signal.SIGSTOP)


# Scheduling and limits


def priority_of_the_user(_: int, __: int) -> str:
    return call("setpriority", 2, os.getuid(), 19)


def priority_of_the_group(pid: int, _: int) -> str:
    return call("setpriority", 1, pid, 19)


def io_of_the_user(_: int, __: int) -> str:
    return call("ioprio_set", 3, os.getuid(), 3 << 13)


def io_of_the_group(pid: int, _: int) -> str:
    return call("ioprio_set", 2, pid, 3 << 13)


def affinity(pid: int, _: int) -> str:
    return attempt(lambda: os.sched_setaffinity(pid, {0}))


def idle(pid: int, _: int) -> str:
    attributes = struct.pack("IIQiIQQQ", 48, 5, 0, 19, 0, 0, 0, 0)  # SCHED_IDLE
    return call("sched_setattr", pid, attributes, 0)


def limits(pid: int, _: int) -> str:
    """Each of them."""
    outcomes = {call("prlimit64", pid | 5 << 32, number, struct.pack("QQ", 0, 0), None) for number in RLIMITS}
    return outcomes.pop() if len(outcomes) == 1 else str(sorted(outcomes))


def core_scheduling(pid: int, _: int) -> str:
    """A cookie of its own keeps other tasks off the sibling processors, and itself off theirs."""
    return call("prctl", 62, 1, pid, 0, None)  # PR_SCHED_CORE, PR_SCHED_CORE_CREATE, PIDTYPE_PID


def share_core_scheduling(pid: int, _: int) -> str:
    return call("prctl", 62, 2, pid | 1 << 32, 1, None)  # PR_SCHED_CORE_SHARE_TO, PIDTYPE_TGID


# What belongs to it


def traced(pid: int, _: int) -> str:
    return call("ptrace", 16, pid, 0, 0)  # PTRACE_ATTACH


def traced_from_now(pid: int, _: int) -> str:
    return call("ptrace", 0x4206, pid, 0, 0)  # PTRACE_SEIZE


def written_into(pid: int, _: int) -> str:
    byte = ctypes.create_string_buffer(1)
    here = struct.pack("QQ", ctypes.addressof(byte), 1)
    return call("process_vm_writev", pid, here, 1, struct.pack("QQ", 0x400000, 1), 1, 0)


def moved(pid: int, _: int) -> str:
    return call("move_pages", pid, 0, None, None, None, 0)


def migrated(pid: int, _: int) -> str:
    return call("migrate_pages", pid, 8, struct.pack("Q", 1), struct.pack("Q", 1))


def compared(pid: int, _: int) -> str:
    return call("kcmp", os.getpid(), pid, 2, 0, 0)  # KCMP_FILES


def counted(pid: int, _: int) -> str:
    attributes = struct.pack("IIQ", 1, 128, 0) + bytes(112)  # PERF_TYPE_SOFTWARE, PERF_COUNT_SW_CPU_CLOCK
    return call("perf_event_open", attributes, pid, -1, -1, 0)


def taken_from(_: int, pidfd: int) -> str:
    """Its descriptors, the listener among them."""
    outcomes = {call("pidfd_getfd", pidfd, number, 0) for number in range(24)} - {"EBADF"}
    return outcomes.pop() if len(outcomes) == 1 else str(sorted(outcomes))


def advised(_: int, pidfd: int) -> str:
    return call("process_madvise", pidfd, struct.pack("QQ", 0x400000, 4096), 1, 21, 0)  # MADV_PAGEOUT


def released(_: int, pidfd: int) -> str:
    return call("process_mrelease", pidfd, 0)


def entered(_: int, pidfd: int) -> str:
    """Its namespaces."""
    return call("setns", pidfd, 0x10000000 | 0x20000000)  # CLONE_NEWUSER, CLONE_NEWPID


FILES = {
    "mem": "x", "fd/0": "x", "clear_refs": "1", "oom_score_adj": "1000", "timerslack_ns": "1000000000000", "comm": "x",
    "autogroup": "19", "coredump_filter": "0", "attr/exec": "x", "uid_map": "0 0 1", "setgroups": "deny",
    "timens_offsets": "monotonic 9 0", "task/{}/comm": "x", "sched": "0", "make-it-fail": "1",
}  # fmt: skip


def written_files(pid: int, _: int) -> str:
    """Those of its files in /proc that take what is written."""

    def write(path: str, text: str) -> None:
        descriptor = os.open(path, os.O_WRONLY)
        try:
            os.write(descriptor, text.encode())
        finally:
            os.close(descriptor)

    taken = []
    for name, text in FILES.items():
        path = f"/proc/{pid}/{name.format(pid)}"
        if attempt(lambda path=path, text=text: write(path, text)) == DONE:
            taken.append(name)
    return " ".join(taken) or "none"


def timers(pid: int, _: int) -> str:
    """On its processor time (clock_getcpuclockid(3))."""
    clock, timer = (~pid << 3) | 2, ctypes.c_int()
    event = struct.pack("QiiQ", 0, 0, 1, 0) + bytes(40)  # SIGEV_NONE
    event = event[:12] + struct.pack("i", 1) + event[16:]
    for _number in range(200):
        if call("timer_create", clock, event, ctypes.byref(timer)) != DONE:
            return errno.errorcode[ctypes.get_errno()]
        call("timer_settime", timer.value, 0, struct.pack("qqqq", 0, 1000, 0, 1000), None)
    return alive(pid)


def inherited_priority(pid: int, _: int) -> str:
    """A futex that says that it is the owner."""
    word = ctypes.c_uint32(pid)
    outcome = call("futex", ctypes.byref(word), 6 | 128, 0, struct.pack("qq", 0, 1), 0, 0)  # FUTEX_LOCK_PI, realtime: long ago
    return outcome if outcome != "ETIMEDOUT" else alive(pid)


def watched(pid: int, _: int) -> str:
    """fanotify(7) gives pidfds of those who open files, as the helper does with those of its callers."""
    group = LIBC.fanotify_init(0x80 | 0x2, 0)  # FAN_REPORT_PIDFD, FAN_NONBLOCK
    if group < 0:
        return errno.errorcode[ctypes.get_errno()]
    if LIBC.fanotify_mark(group, 0x11, ctypes.c_uint64(0x20 | 0x1), -100, b"/proc"):  # FAN_MARK_ADD|MOUNT, FAN_OPEN|ACCESS
        return errno.errorcode[ctypes.get_errno()]
    os.getppid()
    call("getppid")
    outcome = "no descriptor"
    while True:
        try:
            events = os.read(group, 1 << 16)
        except BlockingIOError:
            break
        except PermissionError:  # an event about a file that nobody may open for it, of a process of somebody else
            continue
        while events:
            length, _version, _reserved, size, _mask, _fd, maker = struct.unpack_from("IBBHQii", events)
            if length > size and maker == pid:
                kind, _pad, _len, pidfd = struct.unpack_from("BBHi", events, size)
                if kind == 4 and pidfd >= 0:
                    outcome = call("pidfd_send_signal", pidfd, signal.SIGKILL, None, 0)
            events = events[length:]
    os.close(group)
    return outcome


def blocked(_: int, __: int) -> str:
    """fanotify(7) can make those wait who open files."""
    group = LIBC.fanotify_init(0x4 | 0x2, 0)  # FAN_CLASS_CONTENT
    if group < 0:
        return errno.errorcode[ctypes.get_errno()]
    outcome = "EINVAL"
    for where in (0x10, 0x100):  # FAN_MARK_MOUNT, FAN_MARK_FILESYSTEM
        if LIBC.fanotify_mark(group, 1 | where, ctypes.c_uint64(0x10000), -100, b"/proc") == 0:  # FAN_OPEN_PERM
            outcome = "open waits"
            LIBC.fanotify_mark(group, 2 | where, ctypes.c_uint64(0x10000), -100, b"/proc")
    os.close(group)
    return outcome


WAITS = "waits"
"""The last argument of a program that is to be killed: where it is not, it ends after a while."""
ATTEMPTS: tuple[Callable[[int, int], str], ...] = (
    by_folder, by_received_descriptor, stop_by_received_descriptor, by_handle, by_owner_ex, by_fiosetown, by_setown,
    by_terminal, to_everybody, priority_of_the_user, priority_of_the_group, io_of_the_user, io_of_the_group, affinity,
    idle, limits, core_scheduling, share_core_scheduling, traced, traced_from_now, written_into, moved, migrated,
    compared, counted, taken_from, advised, released, entered, written_files, timers, inherited_priority, watched,
    blocked,
)  # fmt: skip


def received() -> tuple[list[int], list[int]]:
    """The pids, and the pidfds."""
    with socket.socket(fileno=0) as sender:
        data, ancillary, _flags, _address = sender.recvmsg(64, 64)
        descriptors = array.array("i")
        for _level, _kind, content in ancillary:
            descriptors.frombytes(content[: len(content) // 4 * 4])
        sender.detach()
    return [int(word) for word in data.split()], [*descriptors]


if __name__ == "__main__":
    print("ready", flush=True)
    pids, pidfds = received()
    for work in ATTEMPTS:
        if work.__name__ in sys.argv[1:]:
            outcomes = [attempt(lambda place=place, work=work: work(pids[place], pidfds[place])) for place in (0, 1)]
            print(work.__name__, *dict.fromkeys(outcomes), call("getppid"), sep="; ", flush=True)
    if WAITS in sys.argv:
        time.sleep(20)
