"""Which waits each process has begun: what it did before and after each is counted apart.

A server starts until it first waits for work.  Only a recorder whose slots have five elements takes this: count, call site,
example, and the waits (bits of tracer.abi.waits) after which, and before which, the observation was made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tracer import kernel
from tracer.abi import Arch, table
from tracer.abi.waits import CANDIDATES, ENTER, NOTIFY, calls_of, is_ready
from tracer.linux import CALLFENCE_ENTER

if TYPE_CHECKING:
    from tracer.abi import Event
    from tracer.loop import Loop
    from tracer.task import Task


class Waits:
    """The waits of all processes of a loop."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self.reached: dict[int, int] = {}
        """By process, the waits that it and those that it comes from have begun, also when it has ended."""
        loop.tally.has_waits = True
        for bit, name in enumerate(CANDIDATES):
            for arch in (Arch.X86_64, Arch.I386):
                for call in filter(None, map(table(arch).by_name.get, calls_of(name))):
                    loop.calls.also(arch.audit, call.number, self._handler(1 << bit, _WHEN.get(name, _always)))

    def _handler(self, bit: int, begins: Callable[[Task, Event], bool]) -> Handler:
        def handle(task: Task, event: Event) -> None:
            if not task.entered & bit and begins(task, event):
                self._enter(task, bit, event)

        return handle

    def _enter(self, task: Task, bit: int, event: Event) -> None:
        for other in list(self._loop.tasks.values()):
            if other.tgid == task.tgid:
                other.entered |= bit
                other.hot = self._loop.tally.hot(other.executable, other.entered)
        self.reached[task.tgid] = task.entered
        self._loop.tally.note(task, event)


def _always(_task: Task, _event: Event) -> bool:
    return True


def _enters(_task: Task, event: Event) -> bool:
    return event.arguments[0] == CALLFENCE_ENTER


def _notifies(task: Task, event: Event) -> bool:
    arch = Arch.from_audit(event.arch) or Arch.X86_64
    is_sendmsg = table(arch).by_number[event.number].name == "sendmsg"

    def read(address: int, size: int) -> bytes:
        return kernel.read_memory(task.tid, address, size) if address >> 63 == 0 else b""

    return is_ready(event.arguments, read, pointer=arch.bits // 8, is_sendmsg=is_sendmsg)


_WHEN = {ENTER: _enters, NOTIFY: _notifies}
"""Of triggers that are some calls only."""

if TYPE_CHECKING:
    from collections.abc import Callable

    Handler = Callable[[Task, Event], None]
