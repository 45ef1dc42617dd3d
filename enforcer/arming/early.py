"""`arm now`: this process installs the filter on itself, and then executes the program under it.

It needs no ptrace.  The listener reaches the helper through a shared table of descriptors (CLONE_FILES), because the filter
may deny every call that could pass it on.  For the same reason both sides wait by looking at shared memory.  The execve closes
the program's copy: listeners are close-on-exec (seccomp_unotify(2)).
"""

from __future__ import annotations

import errno
import os

from callfence.enforcer import helper, kernel
from callfence.enforcer.errors import BUSY, FAILED, EnforceError
from callfence.tracer import TYPE_CHECKING, linux
from callfence.tracer.errors import KernelError
from callfence.tracer.machine import MACHINE

if TYPE_CHECKING:
    from collections.abc import Callable
    from mmap import mmap
    from typing import NoReturn

    from callfence.enforcer.duty import Duty
    from callfence.enforcer.reporting.settings import Reporting

_READY, _INSTALLED, _TAKEN, _FAILED = 0, 1, 2, 3  # bytes of the shared page that are used as flags
_NUMBER, _STAND_IN, _LISTENER = slice(8, 12), slice(12, 16), slice(16, 20)
"""The places in the shared page of the helper's pid, its stand-in's pid (0: none yet) and the listener's descriptor."""
_DELAY = 0.0001  # seconds
_TIMEOUT = 20.0
"""How many seconds to wait for the helper, which may have been killed."""
_SPINS = 200_000_000
"""How often to read the shared page, for some seconds, before giving up: under the filter, clocks may be denied."""
_ENDED = b"enforce: the helper process ended before it took over the listener, so the program was not run\n"


def install(filter_: bytes, reporting: Reporting | None, settle: Callable[[], None], stderr: int) -> object:
    """Call `settle`, then install the filter on this process; with `reporting`, start a helper that answers denied calls.

    Keep the returned object until the execve: releasing it makes a call, which the filter may deny.  `stderr`: the descriptor
    for a message if the helper ends after that, -1 for none.  Raises OSError, KernelError or EnforceError."""
    if reporting is None:
        settle()
        kernel.install(filter_, 0)
        return None
    import gc
    import mmap
    import time

    from callfence.enforcer.bpf import Filter, shielded
    from callfence.enforcer.duty import Duty

    duty = Duty(reporting)
    shared = mmap.mmap(-1, mmap.PAGESIZE)
    program = os.getpid()
    if helper.in_helper(linux.CLONE_FILES):
        helper.guarded(lambda: _take(program, shared, duty))
    end = time.monotonic() + _TIMEOUT
    while not shared[_READY]:
        if shared[_FAILED] or time.monotonic() > end:
            raise EnforceError("the helper process ended or hung before it was ready, so the program was not run")
        time.sleep(_DELAY)
    pids = (int.from_bytes(shared[place], "little") for place in (_NUMBER, _STAND_IN))
    filter_ = shielded(filter_, [pid for pid in pids if pid])
    native, alone = MACHINE.native, Filter(filter_)
    calls = {"write": (max(stderr, 0), 0, len(_ENDED), 0, 0, 0), "exit_group": (FAILED, 0, 0, 0, 0, 0)}
    run = {name for name, values in calls.items() if alone.allows(native.audit, native.numbers[name], 0, values)}
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
    shared[_LISTENER] = listener.to_bytes(4, "little")
    shared[_INSTALLED] = 1
    for _ in range(_SPINS):
        if shared[_TAKEN] or shared[_FAILED]:
            break
    if shared[_TAKEN]:
        return shared, duty
    if stderr >= 0 and "write" in run:
        linux.functions.write(stderr, _ENDED, linux.c_size_t(len(_ENDED)))
    if "exit_group" in run:
        os._exit(FAILED)
    linux.functions.strlen(None)  # ends by SIGSEGV: a denied call would wait for ever, since the listener is open here
    raise AssertionError


def _take(program: int, shared: mmap, duty: Duty) -> NoReturn:
    """Run the helper: wait for the listener, stop sharing the table of descriptors, and answer calls."""
    import time

    try:
        pidfd = kernel.pidfd_open(program)
        helper.leave()
        duty.start(pidfd, program)
        shared[_NUMBER] = os.getpid().to_bytes(4, "little")
        shared[_STAND_IN] = max(0, duty.stand_in).to_bytes(4, "little")
        shared[_READY] = 1
        while not shared[_INSTALLED]:
            if helper.has_ended(pidfd):
                os._exit(0)
            time.sleep(_DELAY)
        duty.begin(int.from_bytes(shared[_LISTENER], "little"))
    except BaseException:
        shared[_FAILED] = 1
        raise
    shared[_TAKEN] = 1
    duty.serve()
