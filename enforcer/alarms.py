"""Interrupt calls of this process that wait too long.

SIGALRM does nothing else, so calls are made by ctypes, which returns EINTR: Python's own functions go on waiting, and a handler
that raises loses the result of a call that had returned meanwhile.
"""

from __future__ import annotations

import os
import signal
from functools import cache

SHORT = 0.01
"""Seconds after which a call is interrupted that should not wait at all."""


@cache
def take() -> None:
    """Have SIGALRM, whoever sends it, do nothing but interrupt calls.  Done once: it takes longer than a call."""
    signal.signal(signal.SIGALRM, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGALRM])


def limit_calls(seconds: float) -> None:
    """Interrupt a call after so many seconds, and again and again; never with 0."""
    take()
    signal.setitimer(signal.ITIMER_REAL, seconds, seconds)


def close_at_once(*copies: int) -> None:
    """Close copies of descriptors: one that is the last of a connection would wait until its data have been sent, as long as
    the program has chosen (SO_LINGER).  They are sent nevertheless."""
    limit_calls(SHORT)
    for copy in copies:
        os.close(copy)
    limit_calls(0)
