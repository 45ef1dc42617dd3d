"""What a wait status says, without a kernel: each as waitpid(2) and ptrace(2) have it."""

from __future__ import annotations

import os
import signal

import pytest

from callfence.tracer.stops import CALL, CREATED, ENDED, EXECUTED, GROUP, OTHER, SIGNAL, TRAP, stop_of

STOPPED = 0x7F
FORK, VFORK, CLONE, EXEC, VFORK_DONE, SECCOMP, STOP = 1, 2, 3, 4, 5, 7, 128


@pytest.mark.parametrize(
    ("event", "signum", "low", "kind", "told"),
    [
        (0, 0, 0, ENDED, (0, 0)),  # exit(0)
        (0, 3, 0, ENDED, (0, 0)),  # exit(3)
        (0, 0, signal.SIGKILL, ENDED, (0, 0)),
        (0, 0, signal.SIGSEGV | 0x80, ENDED, (0, 0)),  # with a core
        (SECCOMP, signal.SIGTRAP, STOPPED, CALL, (0, 0)),
        (0, signal.SIGTRAP | 0x80, STOPPED, CALL, (0, 0)),
        (0, signal.SIGTRAP, STOPPED, SIGNAL, (signal.SIGTRAP, 0)),
        (0, signal.SIGTERM, STOPPED, SIGNAL, (signal.SIGTERM, 0)),
        (0, signal.SIGSTOP, STOPPED, SIGNAL, (signal.SIGSTOP, 0)),
        (0, signal.SIGRTMAX, STOPPED, SIGNAL, (signal.SIGRTMAX, 0)),
        (FORK, signal.SIGTRAP, STOPPED, CREATED, (0, FORK)),
        (VFORK, signal.SIGTRAP, STOPPED, CREATED, (0, VFORK)),
        (CLONE, signal.SIGTRAP, STOPPED, CREATED, (0, CLONE)),
        (EXEC, signal.SIGTRAP, STOPPED, EXECUTED, (0, 0)),
        (VFORK_DONE, signal.SIGTRAP, STOPPED, OTHER, (0, 0)),
        (STOP, signal.SIGTRAP, STOPPED, TRAP, (0, 0)),
        (STOP, signal.SIGCONT, STOPPED, TRAP, (0, 0)),
        *((STOP, signum, STOPPED, GROUP, (signum, 0)) for signum in (19, 20, 21, 22)),
    ],
)
def test_a_status_says(event, signum, low, kind, told):
    status = event << 16 | signum << 8 | low
    stop = stop_of(status)
    assert (stop.kind, (stop.signal, stop.event)) == (kind, told)
    assert os.WIFSTOPPED(status) == (kind != ENDED)
    assert stop_of(status) is stop
