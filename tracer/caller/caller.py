"""What the recorder may ask about the task that makes a call."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from tracer import kernel
from tracer.caller.site import call_site
from tracer.task import proc

if TYPE_CHECKING:
    from tracer.abi import Event
    from tracer.task import Task


class Caller:
    """A task that is stopped in a call."""

    __slots__ = ("_event", "ids")

    def __init__(self, task: Task, event: Event) -> None:
        self._event = event
        self.ids = (task.tid, task.tgid)

    def site(self) -> str:
        """Where the call came from: `site.call_site`."""
        return call_site(self.ids[0], self._event.ip)

    def read(self, address: int, length: int) -> bytes:
        """Bytes within one page of its memory; fewer, or none, where they cannot be read."""
        return kernel.read_memory(self.ids[0], address, length) if address >> 63 == 0 else b""

    def link(self, name: str) -> str:
        """Where a link in its folder of /proc leads (`cwd`, `fd/3`); "" if that cannot be read."""
        try:
            return os.readlink(f"{proc()}/{self.ids[0]}/{name}")
        except OSError:
            return ""
