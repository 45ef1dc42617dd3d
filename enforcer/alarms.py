"""Interrupt calls of this process that wait too long.

SIGALRM does nothing else, so calls are made by ctypes, which returns EINTR: Python's own functions go on waiting, and a handler
that raises loses the result of a call that had returned meanwhile.
"""

from __future__ import annotations

import signal
from functools import cache


@cache
def take() -> None:
    """Have SIGALRM, whoever sends it, do nothing but interrupt calls.  Done once: it takes longer than a call."""
    signal.signal(signal.SIGALRM, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGALRM])


def limit_calls(seconds: float) -> None:
    """Interrupt a call after so many seconds, and again and again; never with 0."""
    take()
    signal.setitimer(signal.ITIMER_REAL, seconds, seconds)
