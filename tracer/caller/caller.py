"""What the recorder may ask about the task that makes a call."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from tracer import kernel, linux
from tracer.abi import Arch
from tracer.caller.site import call_site
from tracer.task import proc
from tracer.unwind.walk import Registers

if TYPE_CHECKING:
    from tracer.abi import Event
    from tracer.task import Task


class Caller:
    """A task that is stopped in a call."""

    __slots__ = ("_event", "_sp", "ids")

    def __init__(self, task: Task, event: Event, sp: int) -> None:
        self._event = event
        self._sp = sp
        self.ids = (task.tid, task.tgid)

    def site(self) -> str:
        """Where the call came from: `site.call_site`."""
        tid = self.ids[0]
        if self._event.arch != Arch.X86_64.audit:
            return call_site(tid, Registers(self._event.ip, self._sp, 0))
        return call_site(tid, Registers(self._event.ip, self._sp, kernel.peek_user(tid, linux.RBP)), self.read)

    def read(self, address: int, length: int) -> bytes:
        """Bytes within one page of its memory; fewer, or none, where they cannot be read."""
        return kernel.read_memory(self.ids[0], address, length) if address >> 63 == 0 else b""

    def link(self, name: str) -> str:
        """Where a link in its folder of /proc leads (`cwd`, `fd/3`); "" if that cannot be read."""
        try:
            return os.readlink(f"{proc()}/{self.ids[0]}/{name}")
        except OSError:
            return ""
