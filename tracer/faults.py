"""Faults that the tracer injects while it records: one call fails, or a resource runs out, as `learn --rehearse` asks.

Nothing fails before the program's entry point: what the dynamic loader does is the same in every run.
"""

from __future__ import annotations

import os
import resource
import signal
from typing import TYPE_CHECKING

from tracer import kernel, linux
from tracer.abi import Arch
from tracer.named import NamedTuple
from tracer.proc import is_caught, proc

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tracer.abi import Event
    from tracer.calls import Calls
    from tracer.task import Task


class Fail(NamedTuple):
    """The call is not run and fails."""

    errno: int
    signum: int = 0
    """A signal that comes with it: SIGPIPE with EPIPE.  0 for none."""


class Shorten(NamedTuple):
    """The call is given half the count that it asks for."""

    argument: int
    """Which argument is the count: 0-5."""


class Exhaust(NamedTuple):
    """From this call on the process can have no more of a resource."""

    resource: int
    """RLIMIT_AS, RLIMIT_NOFILE or RLIMIT_FSIZE."""
    room: int = 0
    """How much more than it has at this moment it can still get."""


class Send(NamedTuple):
    """The process gets a signal, if it catches that."""

    signum: int


Effect = Fail | Shorten | Exhaust | Send


class Fault(NamedTuple):
    """What happens at which call."""

    arch: int
    """AUDIT_ARCH_*."""
    number: int
    executable: str
    matches: Callable[[Event], bool]
    """Whether a call of that number is one of those that are counted."""
    nth: int
    """Which of the counted calls, those before the entry point included; the next one after it if that is earlier."""
    effect: Effect


class Injector:
    """Injects one fault, once, into one run."""

    def __init__(self, fault: Fault | None, at_entry: Sequence[Exhaust] = (), renamed: Callable[[str], str] = str) -> None:
        """`at_entry`: what runs out as soon as a process reaches its program's entry point.  `renamed` gives the path that
        the fault has for an executable."""
        self.fired = fault is None
        """Whether the fault has happened."""
        self._fault = fault
        self._at_entry = at_entry
        self._renamed = renamed
        self._counted = 0
        self._shortened: dict[int, tuple[int, int]] = {}
        """By tid: the register of the count, and its value."""
        self._is_loading: Callable[[int], bool] = lambda pid: True

    def attach(self, calls: Calls, is_loading: Callable[[int], bool]) -> None:
        """Look at the calls of a run.  `is_loading`: whether a process has yet to reach its entry point."""
        self._is_loading = is_loading
        if self._fault is not None:
            calls.also(self._fault.arch, self._fault.number, self._called)

    def entered(self, task: Task) -> None:
        """Note that a process has reached its program's entry point."""
        for exhaust in self._at_entry:
            _exhaust(task.tgid, exhaust)

    def returned(self, task: Task) -> None:
        """At the exit of a call, restore the register that was changed at its entry.  Raises PtraceError."""
        if changed := self._shortened.pop(task.tid, None):
            task.pending = False
            kernel.poke_user(task.tid, *changed)

    def _called(self, task: Task, event: Event) -> None:
        fault = self._fault
        if self.fired or fault is None or self._renamed(task.executable) != fault.executable or not fault.matches(event):
            return
        self._counted += 1
        if self._counted >= fault.nth and not self._is_loading(task.tgid):
            self.fired = self._inject(task, event, fault.effect)

    def _inject(self, task: Task, event: Event, effect: Effect) -> bool:
        """Inject a fault, and return whether that was possible.  Raises PtraceError, OSError."""
        match effect:
            case Fail(errno, signum):
                if signum:
                    os.kill(task.tgid, signum)
                kernel.skip_call(task.tid, errno)
            case Shorten(index):
                register, count = linux.ARGUMENT_REGISTERS[event.arch][index], event.arguments[index]
                if count < 2 or task.leaving:
                    return False
                kernel.poke_user(task.tid, register, count // 2)
                self._shortened[task.tid] = register, count
                task.pending = True
            case Exhaust():
                _exhaust(task.tgid, effect)
            case Send(signum):
                if not is_caught(task.tid, signum):
                    return False
                os.kill(task.tgid, signum)
        return True


class Witness:
    """Notes of an ordinary run what decides how it can be repeated."""

    def __init__(self) -> None:
        self.caught: set[int] = set()
        """The signals for which a handler was installed."""
        self.reads_input = False
        """Whether descriptor 0 was read."""

    def attach(self, calls: Calls) -> None:
        """Look at the calls of a run."""
        calls.also_named("rt_sigaction", self._handled)
        calls.also_named("read", self._read)
        calls.also_named("readv", self._read)

    def _handled(self, task: Task, event: Event) -> None:
        signum, action = event.arguments[:2]
        wide = (1 << 64) - 1 if event.arch == Arch.X86_64.audit else (1 << 32) - 1
        if action and kernel.peek(task.tid, action) & wide > signal.SIG_IGN:  # struct sigaction begins with the handler
            self.caught.add(signum & 0xFFFFFFFF)

    def _read(self, task: Task, event: Event) -> None:
        self.reads_input |= event.arguments[0] & 0xFFFFFFFF == 0


def _exhaust(pid: int, what: Exhaust) -> None:
    """Lower a process's soft limit to what it uses now, and `room` more.  Raises OSError."""
    _, hard = resource.prlimit(pid, what.resource)
    limit = _used(pid, what.resource) + what.room
    resource.prlimit(pid, what.resource, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


def _used(pid: int, kind: int) -> int:
    """Return how much of a resource a process has, in the unit of its limit."""
    if kind == resource.RLIMIT_AS:
        with open(f"{proc()}/{pid}/statm") as file:
            return int(file.read().split()[0]) * kernel.PAGE
    if kind == resource.RLIMIT_NOFILE:
        return max(map(int, os.listdir(f"{proc()}/{pid}/fd")), default=-1) + 1
    return 0
