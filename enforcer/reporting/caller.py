"""What may be read of the task whose call waits for an answer, with the calls that the helper may make."""

from __future__ import annotations

import os

from enforcer.reporting.process import is_own


class Caller:
    """A task that waits in a call, as `evidence.pointed` asks about it.

    Its memory cannot be read where this process may not trace it (Yama, a program that is not dumpable): then nothing is told.
    """

    __slots__ = ("_memory", "ids")

    def __init__(self, task: int, process: int) -> None:
        self.ids = (task, process)
        self._memory = -1
        if is_own():
            try:
                self._memory = os.open(f"/proc/{task}/mem", os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                return

    def close(self) -> None:
        if self._memory >= 0:
            os.close(self._memory)
            self._memory = -1

    def read(self, address: int, length: int) -> bytes:
        """Bytes within one page of its memory; none where they cannot be read."""
        try:
            if self._memory >= 0 and address >> 63 == 0:
                os.lseek(self._memory, address, os.SEEK_SET)
                return os.read(self._memory, length)
        except OSError:
            pass
        return b""

    def link(self, name: str) -> str:
        """Where a link in its folder of /proc leads (`cwd`, `fd/3`); "" if that cannot be read."""
        try:
            return os.readlink(f"/proc/{self.ids[0]}/{name}") if is_own() else ""
        except OSError:
            return ""
