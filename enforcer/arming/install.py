"""Put a filter on a stopped process, and take its listener out."""

from __future__ import annotations

import errno
import os

from enforcer import kernel
from enforcer.bpf import Filter
from enforcer.errors import BUSY
from tracer import linux
from tracer.errors import KernelError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from enforcer.arming.detour import Detour
    from enforcer.arming.inject import Surgery
    from enforcer.arming.key import Key


def probe_listener(pidfd: int) -> None:
    """Raise OSError if no listener could be taken out of the process.  It is tried with descriptor 0, open or not."""
    try:
        os.close(kernel.pidfd_getfd(pidfd, 0))
    except OSError as error:
        if error.errno != errno.EBADF:
            raise


def install(
    surgery: Surgery, key: Key, program: bytes, pidfd: int, *, threads: bool = False, is_first: bool = False
) -> int:
    """Put the filter on a stopped process, and return its listener, taken out through `pidfd`: the process keeps no copy.

    Without a pidfd (-1) there is no listener (-1).  With `threads`, the filter is put on all threads of the process.
    `is_first`: it has no filter yet, so seccomp(2) returns what the kernel says; else the filters are counted.  The
    filters that the process has, and this one, must know `key`.  Raises KernelError, OSError or GoneError; if the process has
    the filter then, `surgery.is_confined` says so.
    """
    flags = linux.SECCOMP_FILTER_FLAG_TSYNC | linux.SECCOMP_FILTER_FLAG_TSYNC_ESRCH if threads else 0
    convention, spare = surgery.convention, key.spare(surgery.convention)
    pointer = convention.pointer

    def data(address: int) -> bytes:  # struct sock_fprog {unsigned short len; struct sock_filter *filter}, then the filter
        length = (len(program) // 8).to_bytes(pointer, "little")
        return (length + (address + 2 * pointer).to_bytes(pointer, "little")) + program

    def load(flags: int) -> int:
        return surgery.call_with(convention.seccomp, linux.SECCOMP_SET_MODE_FILTER, flags, data=data, spare=spare)

    before = -1 if is_first else filters(surgery.pid)
    if pidfd >= 0:
        flags |= linux.SECCOMP_FILTER_FLAG_NEW_LISTENER
        # Since Linux 5.19 signals need not interrupt a call that is being answered; before, the kernel asks about it again.
        result = load(flags | linux.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV)
        if result == -errno.EINVAL:
            result = load(flags)
        if result == -errno.EBUSY:
            raise KernelError(BUSY, "seccomp", errno.EBUSY)
    else:
        result = load(flags)
    _checked(result, "seccomp", "the kernel refused the filter")
    if before >= 0 and filters(surgery.pid) <= before:
        raise KernelError("a filter of its own pretends that this one was installed", "seccomp", errno.EPERM)
    surgery.is_confined = True
    if pidfd < 0:
        return -1
    listener = kernel.pidfd_getfd(pidfd, result)
    closed = surgery.call(convention.close_range, result, result, 0, *spare)
    _checked(closed, "close_range", "the listener could not be closed in the program")
    return listener


def unmap(surgery: Detour, program: bytes) -> None:
    """Give back the memory from which a filter was installed, if there is any, and where `program` lets it be given back."""
    arguments = (*surgery.mapped, 0, 0, 0, 0)
    if surgery.mapped[1] and Filter(program).allows(surgery.convention.audit, surgery.convention.munmap, 0, arguments):
        surgery.unmap()


def filters(task: int) -> int:
    """How many filters a task has (proc(5), since Linux 5.9); -1 if that is not known."""
    from enforcer.caller.process import status

    return int(status(task).get("Seccomp_filters", -1))


def _checked(result: int, call: str, what: str) -> int:
    if result < 0:
        raise KernelError(f"{what}: {os.strerror(-result)}", call, -result)
    return result
