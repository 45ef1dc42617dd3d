"""Waiting for the initial program's ELF entry point, from which on its calls are recorded when it is armed there."""

from __future__ import annotations

from tracer import kernel
from tracer.errors import PtraceError


class EntryPoint:
    """A breakpoint that is hit once."""

    def __init__(self, pid: int) -> None:
        """Set it in a process that is stopped in its execve.  Raises OSError, PtraceError, TracerError."""
        self._address = kernel.entry_point(pid)
        self._word = kernel.set_breakpoint(pid, self._address)

    def reached(self, tid: int) -> bool:
        """At a SIGTRAP: whether it is this breakpoint's.  If so it is gone, and the signal is not the program's."""
        try:
            return kernel.clear_breakpoint(tid, self._address, self._word)
        except PtraceError:
            return False
