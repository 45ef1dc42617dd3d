"""What may be read of the task whose call waits for an answer, with the calls that the helper may make."""

from __future__ import annotations

import os
import time

from tracer.abi import Arch
from tracer.proc import proc
from tracer.unwind import Maps, Registers, outside

_MAPS = 1 << 22
"""Bytes of /proc/PID/maps that are read: a program may have many times more."""
_DELAYS = tuple(0.0005 * 2**number for number in range(9))
"""Seconds between looks at whether a task has come to wait: a quarter of a second in all, on a machine that is very busy."""
_BUDGET, _REFILL = 0.5, 0.05
"""Seconds that finding callers may take, and how many are added in each second: other calls wait meanwhile."""


class WaitingTask:
    """A task that waits in a call: what `policygen.evidence.pointed` reads of it.

    Its memory cannot be read where this process may not trace it (Yama, a program that is not dumpable): then nothing is read.
    """

    __slots__ = ("_memory", "ids")

    def __init__(self, task: int, process: int) -> None:
        self.ids = (task, process)
        self._memory = -1
        try:
            self._memory = os.open(f"{proc()}/{task}/mem", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return

    @property
    def can_be_read(self) -> bool:
        """Whether its memory can be read."""
        return self._memory >= 0

    def close(self) -> None:
        """Close its memory."""
        if self._memory >= 0:
            os.close(self._memory)
            self._memory = -1

    def read(self, address: int, length: int) -> bytes:
        """Return bytes within one page of its memory; none where they cannot be read."""
        try:
            if self._memory >= 0 and address >> 63 == 0:
                os.lseek(self._memory, address, os.SEEK_SET)
                return os.read(self._memory, length)
        except OSError:
            pass
        return b""

    def link(self, name: str) -> str:
        """Return where a link in its folder of /proc leads (`cwd`, `fd/3`); "" if that cannot be read."""
        try:
            return os.readlink(f"{proc()}/{self.ids[0]}/{name}")
        except OSError:
            return ""

    def site(self, arch: int, ip: int) -> str:
        """Return where its call came from, as `app+0x10f5a3`: the first caller outside of libc and the loader if it can be
        found, else the call's instruction; the bare address where nothing is known."""
        begin = time.monotonic()
        try:
            if _spent.has_time(begin):
                with open(f"{proc()}/{self.ids[0]}/maps", "rb", buffering=0) as file:
                    maps = Maps(os.fsdecode(_whole(file.fileno(), _MAPS)))
                ip = self._outside(maps, ip) if arch == Arch.X86_64.audit else ip
                if mapped := maps.at(ip - 1):
                    name = mapped.file[2]
                    name = "anonymous memory" if name == "[anonymous]" else os.path.basename(name)
                    return f"{name}+{ip - mapped.shift:#x}"
        except (OSError, ValueError):
            pass
        finally:
            _spent.spend(time.monotonic() - begin)
        return f"{ip:#x}"

    def _outside(self, maps: Maps, ip: int) -> int:
        """The return address in the first caller outside of libc and the loader; `ip` if it cannot be found."""
        try:
            sp = self._stack()
            return (outside(maps, Registers(ip, sp, 0), self.read) if sp else 0) or ip
        except (OSError, ValueError):
            return ip

    def _stack(self) -> int:
        """Its stack pointer (/proc/PID/syscall, proc(5)): other registers could only be had by stopping it.  0 where unknown.

        It may still be on its way to where it waits: then the file says `running`.  Raises OSError, ValueError.
        """
        for delay in _DELAYS:
            with open(f"{proc()}/{self.ids[0]}/syscall", "rb", buffering=0) as file:
                fields = file.read(512).split()
            if len(fields) > 2:
                return int(fields[-2], 16)
            time.sleep(delay)
        return 0


class _Budget:
    """How much time finding callers may still take."""

    def __init__(self) -> None:
        self._seconds, self._at = _BUDGET, 0.0

    def has_time(self, now: float) -> bool:
        """Return whether finding callers may take more time now."""
        self._seconds, self._at = min(_BUDGET, self._seconds + _REFILL * (now - self._at)), now
        return self._seconds > 0

    def spend(self, seconds: float) -> None:
        """Note that finding a caller has taken so many seconds."""
        self._seconds -= seconds


_spent = _Budget()


def _whole(descriptor: int, most: int) -> bytes:
    """What can be read, at most so much."""
    parts, remaining = [], most
    while remaining and (part := os.read(descriptor, remaining)):
        parts.append(part)
        remaining -= len(part)
    return b"".join(parts)
