"""Ending as the program ended."""

from __future__ import annotations

import os
import resource
import signal
import sys
from typing import NoReturn


def end_like(status: int | None) -> NoReturn:
    """Exit with the status of a wait status, or die of the same signal, without a core dump of our own.

    None (there is no status: we let go of the program) exits with 0.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    if status is None:
        os._exit(0)
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
        if -code not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(-code, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [-code])
        os.kill(os.getpid(), -code)
        code = 128 - code  # as a shell says it, where we can't die of it: pid 1 of a namespace is spared
    os._exit(code)
