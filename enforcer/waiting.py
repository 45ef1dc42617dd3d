"""Read the memory, the links and the call site of a task whose call waits for an answer, by calls that the helper may make."""

from __future__ import annotations

import errno
import os
import time

from callfence.enforcer import kernel
from callfence.tracer.linux import int_in
from callfence.tracer.machine import MACHINE
from callfence.tracer.proc import proc
from callfence.tracer.unwinding.callers import Registers, outside
from callfence.tracer.unwinding.maps import Maps

AT_FDCWD = -100  # linux/fcntl.h
_PAGE = 4096
_MAX_PATH = 4096
"""Bytes of a path with its NUL: PATH_MAX, linux/limits.h."""
_MAPS = 1 << 22
"""How many bytes of /proc/PID/maps are read at most; a program may have many times more."""
_DELAYS = tuple(0.0005 * 2**number for number in range(9))
"""Seconds between checks whether a task waits in its call yet; a quarter of a second in all, for a very busy machine."""
_BUDGET, _REFILL = 0.5, 0.05
"""Seconds that finding call sites may take at most, and how many are added per second: other calls wait meanwhile."""


class WaitingTask:
    """A task that waits in a call, from which `policygen.evidence.pointed` reads.

    If this process may not trace the task (Yama, a program that is not dumpable), its memory reads as empty."""

    __slots__ = ("ids",)

    def __init__(self, task: int, process: int) -> None:
        self.ids = (task, process)

    @property
    def can_be_read(self) -> bool:
        """Whether its memory can be read."""
        try:
            kernel.memory_of(self.ids[0], 0, 1)
        except OSError as error:
            return error.errno == errno.EFAULT  # at that address alone
        return True

    def read(self, address: int, length: int) -> bytes:
        """Return `length` bytes of its memory, which must be within one page; b"" if they cannot be read."""
        try:
            return kernel.memory_of(self.ids[0], address, length) if address >> 63 == 0 else b""
        except OSError:
            return b""

    def path(self, address: int) -> bytes:
        """Return the path at an address in its memory; b"" if there is none, and the call will fail."""
        content = self.read(address, _PAGE - address % _PAGE)  # most paths end on the page on which they begin
        if b"\0" not in content:
            content = self.read_on(address, _MAX_PATH)
        path, end, _ = content.partition(b"\0")
        return path if end else b""

    def status(self, address: int, folder: int | None = None, *, may_be_empty: bool = False) -> os.stat_result:
        """Return the status of the file whose path is at an address; of a link, its own.  Raises OSError, ValueError.

        `folder`: the register that has the descriptor of the folder in which a relative path starts, None for the working
        folder.  `may_be_empty`: without a path, that descriptor is the file."""
        own, number = f"{proc()}/{self.ids[0]}", AT_FDCWD if folder is None else int_in(folder)
        start = f"{own}/cwd" if number == AT_FDCWD else f"{own}/fd/{number}"
        path = self.path(address) if address else b""
        if not path and not may_be_empty:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
        if not path:
            return os.stat(start)
        return os.lstat(os.fsencode(f"{own}/root" if path.startswith(b"/") else f"{start}/") + path)

    def read_on(self, address: int, length: int) -> bytes:
        """Return up to `length` bytes of its memory, on any number of pages, as many as can be read."""
        content = b""
        while length:
            part = self.read(address, min(length, _PAGE - address % _PAGE))
            content += part
            address, length = address + len(part), length - len(part)
            if not part:
                break
        return content

    def link(self, name: str) -> str:
        """Return the target of a link in its folder of /proc, such as `cwd` or `fd/3`; "" if that cannot be read."""
        try:
            return os.readlink(f"{proc()}/{self.ids[0]}/{name}")
        except OSError:
            return ""

    def site(self, arch: int, ip: int) -> str:
        """Return the call site, as `app+0x10f5a3`: the first caller outside of libc and the loader, or the call's own
        instruction `ip` if that cannot be found; only the address if its file is not known."""
        begin = time.monotonic()
        try:
            if _spent.has_time(begin):
                with open(f"{proc()}/{self.ids[0]}/maps", "rb", buffering=0) as file:
                    maps = Maps(os.fsdecode(_whole(file.fileno(), _MAPS)))
                ip = self._outside(maps, ip) if arch == MACHINE.native.audit else ip
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
        """Return the return address in the first caller outside of libc and the loader; `ip` if it cannot be found."""
        try:
            sp = self._stack()
            return (outside(maps, Registers(ip, sp), self.read) if sp else 0) or ip
        except (OSError, ValueError):
            return ip

    def _stack(self) -> int:
        """Return its stack pointer, from /proc/PID/syscall (proc(5)); 0 if it does not wait in time.  Raises OSError,
        ValueError.  Until the task waits, the file says `running`.  Other registers could only be read by stopping the task."""
        for delay in _DELAYS:
            with open(f"{proc()}/{self.ids[0]}/syscall", "rb", buffering=0) as file:
                fields = file.read(512).split()
            if len(fields) > 2:
                return int(fields[-2], 16)
            time.sleep(delay)
        return 0


class _Budget:
    """The time that finding call sites may still take."""

    def __init__(self) -> None:
        self._seconds, self._at = _BUDGET, 0.0

    def has_time(self, now: float) -> bool:
        """Return whether time is left at `now` (monotonic seconds)."""
        self._seconds, self._at = min(_BUDGET, self._seconds + _REFILL * (now - self._at)), now
        return self._seconds > 0

    def spend(self, seconds: float) -> None:
        """Subtract the seconds that finding a call site has taken."""
        self._seconds -= seconds


_spent = _Budget()


def _whole(descriptor: int, most: int) -> bytes:
    """Return the content of a descriptor up to its end, at most `most` bytes."""
    parts, remaining = [], most
    while remaining and (part := os.read(descriptor, remaining)):
        parts.append(part)
        remaining -= len(part)
    return b"".join(parts)
