"""A forked child that can only end: whatever happens in it, nothing unwinds into the code of the caller."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

from callfence.tracer.linux import WALL

FAILED = 125
"""The exit status of a child whose work has raised an exception."""


def fork(work: Callable[[], object], failed: Callable[[BaseException], object] = lambda error: None) -> int:
    """Fork a child that calls `work`, and return its pid.  The child exits with 0 when `work` returns.  If `work` raises an
    exception, the child calls `failed` with it, and exits with FAILED.

    All signals are blocked around the fork.  In the child, signals for which Python has a handler get their default action, so
    that such a signal ends the child and raises no exception there.  If the handler of a pending signal raises an exception
    here, it is passed on, and there is no child.  Raises OSError if the fork fails."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    pid, status = -1, FAILED
    try:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        pid = os.fork()
        if pid == 0:
            try:
                _leave_handlers()
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
                work()
                status = 0
            except BaseException as error:
                failed(error)
            finally:
                os._exit(status)
    finally:
        try:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        except BaseException:
            if pid > 0:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, WALL)
            raise
    return pid


def _leave_handlers() -> None:
    """Give the signals that Python has a handler for their default action."""
    for signum in signal.valid_signals():
        if callable(signal.getsignal(signum)):
            signal.signal(signum, signal.SIG_DFL)
