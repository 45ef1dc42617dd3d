"""The helper: the process beside the program, which installs the filter and then answers the calls that it denies.

It is cloned from the command before the command becomes the program.  It has a session of its own, and holds only the
listener and the place where reports go.  If it dies before the program is confined, the program dies (EXITKILL); if it dies
later, the kernel fails every call that it would have answered (ENOSYS).
"""

from __future__ import annotations

import errno
import os
import sys

from callfence.enforcer import kernel
from callfence.enforcer.errors import FAILED
from callfence.tracer import TYPE_CHECKING, linux, proc

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import NoReturn

_LIMIT = 1 << 20  # file descriptors; closing goes through close_range(2), so the number costs nothing


def in_helper(flags: int = 0) -> bool:
    """Clone the helper; return True in the helper, False here.  `flags`: CLONE_* of clone(2).  Raises OSError.  The helper is
    no child of this process, which need not wait for it; only where orphans become its children (pid 1) it is one, which wait()
    does not see without __WALL."""
    return kernel.clone(flags) == 0 if kernel.is_reaper() else kernel.clone_orphan(flags)


def guarded(work: Callable[[], NoReturn]) -> NoReturn:
    """Do the helper's work in the cloned process, which must never return into the command's code."""
    try:
        work()
    except BaseException as error:
        write(2, f"enforce: the helper failed: {type(error).__name__}: {error}\n".encode())
    finally:
        os._exit(FAILED)


def leave() -> None:
    """Separate this process from the program: give it its own session, the working folder /proc and the highest limits, and
    make it undumpable.

    Block every signal that can be blocked: this process must last exactly as long as the processes that it answers for."""
    detach()
    go_to_proc()


def detach() -> None:
    """Give this process its own session and the highest limits, and make it undumpable."""
    os.setsid()
    kernel.disposition(linux.SIGCHLD, linux.SIG_DFL)  # ignoring it would discard the statuses that ptrace waits for
    kernel.set_undumpable()
    kernel.raise_limits()


def go_to_proc() -> None:
    """Make /proc the working folder, import nothing that is relative to another, and block all signals."""
    kernel.block_signals()
    try:
        os.chdir("/proc")  # what is mounted there later does not change what this process reads (`tracer.proc`)
    except OSError:
        os.chdir("/")
    proc.enter()
    sys.path[:] = [path for path in sys.path if path.startswith("/")]


def close_all_but(keep: Iterable[int]) -> None:
    """Close all descriptors except `keep`, in which -1 is ignored."""
    lowest = 0
    for descriptor in sorted(set(keep) - {-1}):
        if lowest < descriptor:  # CPython 3.11 closes everything for an empty range from 0
            os.closerange(lowest, descriptor)
        lowest = descriptor + 1
    os.closerange(lowest, _LIMIT)


def has_ended(pidfd: int) -> bool:
    """Return whether the process of a pidfd has ended; a zombie has."""
    import select

    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    return bool(poller.poll(0))


def probe_listener(pidfd: int) -> None:
    """Raise OSError if this process cannot copy descriptors of another, as taking out its listener requires.  This is tried
    with descriptor 0, which need not be open."""
    try:
        os.close(kernel.pidfd_getfd(pidfd, 0))
    except OSError as error:
        if error.errno != errno.EBADF:
            raise


def write(descriptor: int, data: bytes) -> None:
    """Write to a descriptor; do nothing if it is -1 or the write fails."""
    try:
        if descriptor >= 0:
            os.write(descriptor, data)
    except OSError:
        return


def fuses(pid: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the ends of two pipes: when the second end of a pipe has no copy and the first has one, the kernel kills the
    process `pid`.

    The second ends have the higher numbers: a process that is killed closes the highest descriptor first (task_work_run in
    the kernel's kernel/task_work.c).  So two processes, each with the first end of one pipe and the second of the other,
    cannot both close their first ends too early, even if they end at the same moment."""
    (first, low), other = os.pipe(), os.pipe()
    for end in (first, other[0]):
        kernel.kill_at_end_of(end, pid)
    second = os.dup(low)  # the lowest number that is free, and so above the other four
    os.close(low)
    return (first, second), other


def opened(path: str, access: int) -> int:
    """Return a descriptor of a file; -1 if it cannot be opened."""
    try:
        return os.open(path, access | os.O_CLOEXEC)
    except OSError:
        return -1


def parent(pid: int) -> int:
    """Return a pidfd of this process's parent, whose id was `pid`; -1 if that process has ended.  Raises OSError."""
    try:
        pidfd = kernel.pidfd_open(pid)
    except OSError:
        if os.getppid() == pid:  # no descriptor is left
            raise
        return -1
    return pidfd if os.getppid() == pid else -1
