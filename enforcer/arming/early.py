"""`arm now`: this process installs the filter on itself, and then executes the program under it.

It needs no ptrace.  The listener reaches the helper through a shared table of descriptors (CLONE_FILES), because the filter
may deny every call that could pass it on.  For the same reason both sides wait by looking at shared memory.  The execve closes
the program's copy: listeners are close-on-exec (seccomp_unotify(2)).
"""

from __future__ import annotations

import errno
import os

from enforcer import helper, kernel
from enforcer.arming.install import BUSY
from enforcer.errors import EnforceError
from enforcer.reporting import answer
from tracer import linux
from tracer.errors import KernelError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from mmap import mmap
    from typing import NoReturn

    from enforcer.reporting.reporter import Reporter

_READY, _INSTALLED, _TAKEN = 0, 1, 2  # bytes of the shared page that are used as flags
_NUMBER = slice(8, 12)
_PAUSE = 0.0001  # seconds
_SPINS = 200_000_000
"""Looks at the shared page, some seconds, before the helper is given up."""


def install(filter_: bytes, reporter: Reporter | None, settle: Callable[[], None]) -> object:
    """Confine this process, once `settle` has done what the filter might deny.  With a reporter, a helper answers from then on.

    Raises OSError, KernelError or EnforceError.

    Keep the result until the execve: releasing it would make a call, which the filter may deny.
    """
    if reporter is None:
        settle()
        kernel.install(filter_, 0)
        return None
    import gc
    import mmap
    import time

    shared = mmap.mmap(-1, mmap.PAGESIZE)
    program = os.getpid()
    if helper.in_helper(kernel.CLONE_FILES):
        helper.guarded(lambda: _take(program, shared, reporter))
    while not shared[_READY]:
        time.sleep(_PAUSE)
    settle()
    gc.disable()  # from here on, no call may be made but the execve
    flags = linux.SECCOMP_FILTER_FLAG_NEW_LISTENER
    try:
        listener = kernel.install(filter_, flags | linux.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV)
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise KernelError(BUSY, "seccomp", errno.EBUSY) from error
        if error.errno != errno.EINVAL:  # before Linux 5.19
            raise
        listener = kernel.install(filter_, flags)
    shared[_NUMBER] = listener.to_bytes(4, "little")
    shared[_INSTALLED] = 1
    for _ in range(_SPINS):
        if shared[_TAKEN]:
            return shared
    raise EnforceError("the helper process died")


def _take(program: int, shared: mmap, reporter: Reporter) -> NoReturn:
    """The helper: wait for the listener, take the table of descriptors for itself, and serve."""
    import time

    pidfd = kernel.pidfd_open(program)
    shared[_READY] = 1
    while not shared[_INSTALLED]:
        if helper.has_ended(pidfd):
            os._exit(0)
        time.sleep(_PAUSE)
    listener = int.from_bytes(shared[_NUMBER], "little")
    kernel.unshare_files()
    shared[_TAKEN] = 1
    helper.withdraw(d for d in (pidfd, listener, reporter.descriptor) if d >= 0)
    answer.serve(pidfd, listener, reporter)
