"""The helper: the process beside the program, which installs the filter and then answers the calls that it denies.

It is cloned from the command before the command becomes the program.  It has a session of its own, and holds only the
listener and the place where reports go.  If it dies before the program is confined, the program dies (EXITKILL); if it dies
later, the kernel fails every call that it would have answered (ENOSYS).
"""

from __future__ import annotations

import os
import sys

from enforcer import kernel
from enforcer.errors import FAILED
from tracer import TYPE_CHECKING, linux, proc

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import NoReturn

_LIMIT = 1 << 20  # file descriptors; closing goes through close_range(2), so the number costs nothing


def in_helper(flags: int = 0) -> bool:
    """Clone a process that is no child of this one: True in it, False here, with nothing to wait for.  Raises OSError.

    Where orphans become children of this process (pid 1), the helper is its child, but one that plain wait() does not see.
    """
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
    """Leave the program's surroundings: session, folder, signals, limits, and who may look into this process.

    Every signal that can be blocked is: this process must last exactly as long as the processes that it answers for.
    """
    os.setsid()
    try:
        os.chdir("/proc")  # what is mounted there later does not change what this process reads (`tracer.proc`)
    except OSError:
        os.chdir("/")
    proc.enter()
    sys.path[:] = [path for path in sys.path if path.startswith("/")]
    kernel.block_signals()
    kernel.disposition(linux.SIGCHLD, linux.SIG_DFL)  # ignoring it would discard the statuses that ptrace waits for
    kernel.set_undumpable()
    kernel.raise_limits()


def close_all_but(keep: Iterable[int]) -> None:
    """Close all descriptors but these; -1 stands for none."""
    lowest = 0
    for descriptor in sorted(set(keep) - {-1}):
        if lowest < descriptor:  # CPython 3.11 closes everything for an empty range from 0
            os.closerange(lowest, descriptor)
        lowest = descriptor + 1
    os.closerange(lowest, _LIMIT)


def has_ended(pidfd: int) -> bool:
    """Return whether that process has ended, though it may still be a zombie."""
    import select

    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    return bool(poller.poll(0))


def write(descriptor: int, data: bytes) -> None:
    """Write, if the descriptor is open (-1: not) and its file takes it; otherwise do nothing."""
    try:
        if descriptor >= 0:
            os.write(descriptor, data)
    except OSError:
        return
