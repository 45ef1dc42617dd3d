"""The faults that the tracer injects into a run of `learn --rehearse`: one call fails, or a resource runs out.

Nothing fails before the program's entry point: what the dynamic loader does is the same in every run.
"""

from __future__ import annotations

import os
import resource
import signal
from typing import TYPE_CHECKING

from callfence.tracer import kernel
from callfence.tracer.machine import MACHINE
from callfence.tracer.named import NamedTuple
from callfence.tracer.proc import is_caught, proc

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from callfence.tracer.abi import Event
    from callfence.tracer.calls import Calls
    from callfence.tracer.task import Task


class Fail(NamedTuple):
    """An effect: the call does not run, and fails with `errno`."""

    errno: int
    signum: int = 0
    """A signal that the process gets too, such as SIGPIPE with EPIPE; 0 for none."""


class Shorten(NamedTuple):
    """An effect: the call runs with half of its count argument, as if the kernel could transfer no more."""

    argument: int
    """The index of the count argument, 0 to 5."""


class Exhaust(NamedTuple):
    """An effect: from this call on, the process can use only `room` more of a resource than it uses now."""

    resource: int
    """RLIMIT_AS, RLIMIT_NOFILE or RLIMIT_FSIZE."""
    room: int = 0
    """How much more than it uses now the process can still get, in the unit of the limit."""


class Send(NamedTuple):
    """An effect: the process gets a signal, if it has a handler for it."""

    signum: int


Effect = Fail | Shorten | Exhaust | Send


class Fault(NamedTuple):
    """An effect, such as `Fail`, and the call of the program at which it happens."""

    arch: int
    """AUDIT_ARCH_*."""
    number: int
    executable: str
    matches: Callable[[Event], bool]
    """Returns whether a call of that number counts for `nth`."""
    nth: int
    """At which of the counted calls the effect happens, from 1.  Calls before the entry point count, but nothing happens
    there: then the effect happens at the first counted call after it."""
    effect: Effect


class Injector:
    """Injects one fault, once, into one run."""

    def __init__(self, fault: Fault | None, at_entry: Sequence[Exhaust] = (), renamed: Callable[[str], str] = str) -> None:
        """`fault` is None if no call is to fail.  `at_entry`: the resources that run out when a process reaches its program's
        entry point.  `renamed` returns, for the path of an executable, the path that `fault.executable` has."""
        self.fired = fault is None
        """Whether the fault has happened; True if there is none."""
        self._fault = fault
        self._at_entry = at_entry
        self._renamed = renamed
        self._counted = 0
        self._shortened: dict[int, tuple[int, int]] = {}
        """By tid: the register of the count argument, and its value before."""
        self._is_loading: Callable[[int], bool] = lambda pid: True

    def attach(self, calls: Calls, is_loading: Callable[[int], bool]) -> None:
        """Have the tracer call this injector at the calls of the fault.  `is_loading` returns whether a process has yet to
        reach its entry point; there, nothing is injected."""
        self._is_loading = is_loading
        if self._fault is not None:
            calls.also(self._fault.arch, self._fault.number, self._called)

    def entered(self, task: Task) -> None:
        """Limit the resources of `at_entry` in a process at its entry point.  Raises OSError if a limit cannot be set."""
        for exhaust in self._at_entry:
            _exhaust(task.tgid, exhaust)

    def returned(self, task: Task) -> None:
        """At the exit of a call, restore the register that was changed at its entry.  Raises PtraceError if it is dying."""
        if changed := self._shortened.pop(task.tid, None):
            task.pending = False
            kernel.set_register(task.tid, *changed)

    def _called(self, task: Task, event: Event) -> None:
        fault = self._fault
        if self.fired or fault is None or self._renamed(task.executable) != fault.executable or not fault.matches(event):
            return
        self._counted += 1
        if self._counted >= fault.nth and not self._is_loading(task.tgid):
            self.fired = self._inject(task, event, fault.effect)

    def _inject(self, task: Task, event: Event, effect: Effect) -> bool:
        """Apply the effect at a call; return whether that was possible.  Raises PtraceError or OSError for a dying task."""
        match effect:
            case Fail(errno, signum):
                if signum:
                    os.kill(task.tgid, signum)
                kernel.skip_call(task.tid, errno)
            case Shorten(index):
                register, count = MACHINE.of(event.arch).arguments[index], event.arguments[index]
                if count < 2 or task.leaving:
                    return False
                kernel.set_register(task.tid, register, count // 2)
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
    """Observes in a plain run what planning a rehearsal needs: the signals that the program catches, and whether it reads its
    standard input."""

    def __init__(self) -> None:
        self.caught: set[int] = set()
        """The signals for which a handler was installed."""
        self.reads_input = False
        """Whether the program has read descriptor 0."""

    def attach(self, calls: Calls) -> None:
        """Have the tracer call this witness at rt_sigaction, read and readv."""
        calls.also_named("rt_sigaction", self._handled)
        calls.also_named("read", self._read)
        calls.also_named("readv", self._read)

    def _handled(self, task: Task, event: Event) -> None:
        signum, action = event.arguments[:2]
        wide = (1 << 8 * MACHINE.of(event.arch).pointer) - 1
        if action and kernel.peek(task.tid, action) & wide > signal.SIG_IGN:  # struct sigaction begins with the handler
            self.caught.add(signum & 0xFFFFFFFF)

    def _read(self, task: Task, event: Event) -> None:
        self.reads_input |= event.arguments[0] & 0xFFFFFFFF == 0


def _exhaust(pid: int, what: Exhaust) -> None:
    """Set a process's soft limit to what it uses now plus `what.room`, at most the hard limit.  Raises OSError."""
    _, hard = resource.prlimit(pid, what.resource)
    limit = _used(pid, what.resource) + what.room
    resource.prlimit(pid, what.resource, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


def _used(pid: int, kind: int) -> int:
    """Return how much of a resource a process uses, in the unit of its limit; 0 for RLIMIT_FSIZE."""
    if kind == resource.RLIMIT_AS:
        with open(f"{proc()}/{pid}/statm") as file:
            return int(file.read().split()[0]) * resource.getpagesize()
    if kind == resource.RLIMIT_NOFILE:
        return max(map(int, os.listdir(f"{proc()}/{pid}/fd")), default=-1) + 1
    return 0
