"""End this process as the program ended, or with a message."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import sys
from typing import NoReturn

from callfence.tracer import linux


def end_like(status: int | None) -> NoReturn:
    """End this process as a program with this wait status ended: with its exit status, or by its signal, without a core dump.
    `status` is None if the program still runs and is no longer traced: then exit with 0."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, AttributeError):  # its reader has gone, or it was closed when we were started
            stream.flush()
    if status is None:
        os._exit(0)
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        _die_of(-code)
        code = 128 - code  # the shell's status, if the signal does not kill us: pid 1 of a namespace is immune
    os._exit(code)


def _die_of(signum: int) -> None:
    # The limit alone does not keep a core from a program that core_pattern pipes to (core(5)).
    linux.prctl(linux.PR_SET_DUMPABLE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    with contextlib.suppress(OSError):  # SIGKILL and SIGSTOP, and 32 and 33, which glibc reserves
        signal.signal(signum, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signum])
    os.kill(os.getpid(), signum)


def fail(message: str, status: int) -> NoReturn:
    """Print a message on standard error, and exit with `status`."""
    with contextlib.suppress(OSError, AttributeError):  # a full disk, or closed when we were started
        sys.stdout.flush()
        sys.stderr.write(f"{message}\n")
        sys.stderr.flush()
    os._exit(status)
