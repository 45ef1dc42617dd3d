"""Asks the helper for what it answers otherwise than by a denial, and for more than that: `answers.py`.

Its policy denies (EACCES) kill, tkill, tgkill, calls that set ids, and opening files for writing.  It prints what each came to.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import stat
import threading

LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.mmap.restype = ctypes.c_void_p
LIBC.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
if os.uname().machine == "aarch64":  # this program has none of our modules
    KILL, TKILL, TGKILL, SETUID, SETGID, SETGROUPS, SETRESUID, OPENAT = 129, 130, 131, 146, 144, 159, 147, 56
else:
    KILL, TKILL, TGKILL, SETUID, SETGID, SETGROUPS, SETRESUID, OPENAT = 62, 200, 234, 105, 106, 116, 117, 257
NULL = os.stat("/dev/null").st_rdev
ROUNDS = 1000
PROGRAM = os.getpid()


def call(number: int, *arguments: object) -> str:
    wide = [ctypes.c_long(value) if isinstance(value, int) else value for value in arguments]
    result = LIBC.syscall(ctypes.c_long(number), *wide)
    if number == OPENAT and result >= 0:
        status = os.fstat(result)
        os.close(result)
        return "done" if stat.S_ISCHR(status.st_mode) and status.st_rdev == NULL else "ANOTHER FILE"
    return "done" if result >= 0 else errno.errorcode[ctypes.get_errno()]


HOLD = os.pipe()
"""Its children read the first end, and so end with the program."""


def child(*works: object) -> tuple[int, str]:
    """A child that does something, prints into a pipe, and waits; its pid and what it printed."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        if os.getppid() == PROGRAM:
            os.close(HOLD[1])
        os.write(writer, " ".join(str(work()) for work in works).encode() + b"\n")
        os.read(HOLD[0], 1)
        os._exit(0)
    os.close(writer)
    with open(reader) as file:
        return pid, file.readline().strip()


def ended(pid: int) -> None:
    """Kill a child, by the helper's leave, and wait for it."""
    assert call(KILL, pid, 9) == "done"
    os.waitpid(pid, 0)


def signals() -> None:
    own, waiting = os.getpid(), threading.Event()
    started = threading.Event()
    thread = threading.Thread(target=lambda: (started.set(), waiting.wait()))
    thread.start()
    started.wait()
    tid = thread.native_id or 0
    pid, _ = child()
    print("child", call(KILL, pid, 0), call(KILL, pid | 7 << 32, 0))
    print("group", call(KILL, -pid, 0), call(KILL, 0, 0), call(KILL, -1, 0), call(KILL, -(2**31), 0))
    print("thread", call(KILL, tid, 0), call(TGKILL, own, tid, 0), call(TGKILL, own, pid, 0), call(TGKILL, pid, pid, 0))
    print("task", call(TKILL, pid, 0), call(TKILL, tid, 0), call(TGKILL, own, -1, 0), call(TGKILL, -1, tid, 0))
    print("others", call(KILL, 1, 0), call(KILL, os.getppid(), 0), call(KILL, int(os.environ["HELPER"]), 0))
    call(KILL, pid, 9)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    print("zombie", call(KILL, pid, 9))
    os.waitpid(pid, 0)
    print("ended", call(KILL, pid, 9), call(KILL, -pid, 9))
    pid, text = child(lambda: call(KILL, own, 0), lambda: call(KILL, os.getpid(), 0))
    print("upwards", text)
    ended(pid)
    pid, text = child(lambda: child()[0])
    print("grandchild", call(KILL, int(text), 0))
    ended(pid)
    print("orphan", call(KILL, int(text), 0))  # nobody's child here any more
    waiting.set()
    thread.join()


def namespaces() -> None:
    def enter() -> str:
        return "done" if LIBC.unshare(0x10000000 | 0x20000000) == 0 else "no"  # CLONE_NEWUSER, CLONE_NEWPID

    def inside() -> str:
        kills = (lambda: call(KILL, 1, 0)), (lambda: call(KILL, 2, 0)), (lambda: call(TGKILL, 1, 1, 0))
        return child(*kills, lambda: call(SETGID, os.getgid()))[1]

    pid, text = child(enter, inside)
    print("namespace", *text.split()[1:] if text.startswith("done") else ["EACCES"] * 4)
    ended(pid)


def ids() -> None:
    uid, gid = os.getuid(), os.getgid()
    print("ids", call(SETGID, gid), call(SETGID, gid | 1 << 32), call(SETGID, gid | 1 << 16 if gid < 1 << 16 else 0))
    print("others' ids", call(SETUID, 0), call(SETRESUID, -1, -1, -1), call(SETRESUID, uid, -1, 0), call(SETGROUPS, 0, None))


def files() -> None:
    def opened(path: bytes, flags: int) -> str:
        return call(OPENAT, -100, path, flags, 0o600)

    print("null", opened(b"/dev/null", os.O_RDWR), opened(b"/dev/null", os.O_WRONLY | os.O_CREAT | os.O_TRUNC))
    flags = (os.O_TMPFILE, os.O_DIRECTORY | os.O_RDWR, os.O_PATH | os.O_RDWR, os.O_RDWR | os.O_CREAT | os.O_EXCL, 3)
    print("flags", *(opened(b"/dev/null", flag) for flag in flags))
    paths = (b"dev/null", b"/dev/../dev/null", b"/dev/null/", b"/dev//null", b"/dev/nul", b"/dev/nullx", b"")
    print("paths", *(opened(path, os.O_RDWR) for path in paths))
    end = LIBC.mmap(None, 2 * mmap.PAGESIZE, 3, 0x22, -1, 0) + mmap.PAGESIZE
    LIBC.mprotect(ctypes.c_void_p(end), mmap.PAGESIZE, 0)
    ctypes.memmove(end - 10, b"/dev/null\0", 10)
    print("end", call(OPENAT, -100, ctypes.c_void_p(end - 10), os.O_RDWR), end=" ")
    print(call(OPENAT, -100, ctypes.c_void_p(end), os.O_RDWR), call(OPENAT, -100, ctypes.c_void_p(-1), os.O_RDWR))
    path = ctypes.create_string_buffer(b"/dev/null", 16)
    stop = threading.Event()

    def change() -> None:
        while not stop.is_set():
            path.value = b"./other"
            path.value = b"/dev/null"

    thread = threading.Thread(target=change)
    thread.start()
    results = {call(OPENAT, -100, path, os.O_RDWR) for _ in range(ROUNDS)}
    stop.set()
    thread.join()
    print("changing", results <= {"done", "EACCES"})


if __name__ == "__main__":
    signals()
    namespaces()
    ids()
    files()
