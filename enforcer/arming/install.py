"""Put the filter on a stopped process, and take its listener out."""

from __future__ import annotations

import errno
import os
import select

from enforcer import kernel
from enforcer.errors import ArmError
from tracer import linux
from tracer.errors import KernelError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from enforcer.arming.inject import Surgery

BUSY = (
    "another filter has a listener already (a container's, or enforce within enforce); without reports: --quiet-kernel"
)
"""EBUSY of seccomp(2)."""
_SPINS = 1000
"""Looks at the listener without sleeping: closing one descriptor takes microseconds."""
_LONGEST = 50
"""Milliseconds between two looks at a process that has been stopped meanwhile."""


def probe_listener(pidfd: int) -> None:
    """Raise OSError if no listener could be taken out of the process.  It is tried with descriptor 0, open or not."""
    try:
        os.close(kernel.pidfd_getfd(pidfd, 0))
    except OSError as error:
        if error.errno != errno.EBADF:
            raise


def install(surgery: Surgery, program: bytes, pidfd: int, others: list[kernel.Notification] | None = None) -> int:
    """Put the filter on a stopped process, and return its listener, taken out through `pidfd`: the process keeps no copy.

    Without a pidfd (-1) there is no listener (-1).  With a list `others`, the filter is put on all threads of the process, and
    their calls that ask meanwhile are added to the list, unanswered.  Raises KernelError, OSError or ArmError.
    """
    threads = 0 if others is None else linux.SECCOMP_FILTER_FLAG_TSYNC | linux.SECCOMP_FILTER_FLAG_TSYNC_ESRCH
    seccomp = surgery.convention.seccomp
    pointer = surgery.convention.pointer

    def data(address: int) -> bytes:  # struct sock_fprog {unsigned short len; struct sock_filter *filter}, then the filter
        length = (len(program) // 8).to_bytes(pointer, "little")
        return (length + (address + 2 * pointer).to_bytes(pointer, "little")) + program

    def load(flags: int) -> int:
        return surgery.call_with(seccomp, linux.SECCOMP_SET_MODE_FILTER, flags, data=data)

    if pidfd < 0:
        _checked(load(threads), "seccomp", "the kernel refused the filter")
        surgery.is_confined = True
        return -1
    # Since Linux 5.19 signals need not interrupt a call that is being answered; before, the kernel asks about it again.
    flags = linux.SECCOMP_FILTER_FLAG_NEW_LISTENER | threads
    result = load(flags | linux.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV)
    if result == -errno.EINVAL:
        result = load(flags)
    if result == -errno.EBUSY:
        raise KernelError(BUSY, "seccomp", errno.EBUSY)
    theirs = _checked(result, "seccomp", "the kernel refused the filter")
    surgery.is_confined = True
    listener = kernel.pidfd_getfd(pidfd, theirs)
    answer = _own_close(listener, surgery, theirs, others)
    result = surgery.call(surgery.convention.close, theirs, waiting=answer)
    _checked(result, "close", "the listener could not be closed in the program")
    return listener


def _own_close(
    listener: int, surgery: Surgery, descriptor: int, others: list[kernel.Notification] | None
) -> Callable[[], None]:
    """A function that answers the injected `close` of a descriptor, which a reporting filter may ask about.

    Other calls that ask are added to `others`.  Without such a list the program has not run, and has one thread and no child:
    any other call is an error.
    """
    poller = select.poll()
    poller.register(listener, select.POLLIN)
    looks = 0

    def look() -> None:
        nonlocal looks
        looks += 1
        if not poller.poll(min(looks // _SPINS, _LONGEST)):
            os.sched_yield()
            return
        try:
            asked = kernel.Notification()
            kernel.receive(listener, asked)
            ours = (surgery.pid, surgery.convention.audit, surgery.convention.close, descriptor)
            if (asked.task, asked.arch, asked.number, asked.arguments[0]) != ours:
                if others is not None:
                    others.append(asked)
                    return
                raise ArmError(f"an unexpected call, number {asked.number}, was made while the filter was put in place")
            kernel.let_run(listener, asked.id)
        except FileNotFoundError:  # ENOENT: a stop has interrupted it, and it will be made again
            return

    return look


def _checked(result: int, call: str, what: str) -> int:
    if result < 0:
        raise KernelError(f"{what}: {os.strerror(-result)}", call, -result)
    return result
