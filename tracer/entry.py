"""The ELF entry point of the initial program, where recording begins if the policy is armed there."""

from __future__ import annotations

from tracer import kernel
from tracer.errors import PtraceError


class EntryPoint:
    """A breakpoint at the entry point, removed when it is reached."""

    def __init__(self, pid: int) -> None:
        """Set it in a process that is stopped in its execve.  Raises OSError, PtraceError, TracerError."""
        self._address = kernel.entry_point(pid)
        self._word = kernel.set_breakpoint(pid, self._address)

    def reached(self, tid: int) -> bool:
        """At a SIGTRAP: whether this breakpoint caused it.  Then it is removed, and the program must not get the signal."""
        try:
            return kernel.clear_breakpoint(tid, self._address, self._word)
        except PtraceError:
            return False
