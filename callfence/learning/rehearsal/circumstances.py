"""The circumstances in which a program is run again: a table, and what each row changes in the child before its execve."""

from __future__ import annotations

import resource
from enum import StrEnum
from signal import Signals
from typing import TYPE_CHECKING, Final

from tracer.named import NamedTuple
from tracer.watch.faults import Exhaust

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


GROUPS: Final = ("faults", "signals", "streams", "environment", "limits", "user")


class Stream(StrEnum):
    """What standard input, output or error is."""

    CLOSED = "closed"
    NULL = "/dev/null"
    FULL = "/dev/full"
    BROKEN = "a pipe whose other end is closed"
    PIPE = "a pipe"
    FILE = "a file"
    TERMINAL = "a terminal"


class Circumstance(NamedTuple):
    """One way in which a run differs from the plain one."""

    name: str
    """As an option names it."""
    group: str
    says: str
    """`in a terminal`: follows `run` in a sentence."""
    streams: Mapping[int, Stream] = {}
    """What is other than in the plain run, by descriptor."""
    environment: Callable[[Sequence[bytes]], tuple[bytes, ...]] = tuple
    """The environment made of the plain run's."""
    exhaust: tuple[Exhaust, ...] = ()
    """What runs out as soon as the program begins."""
    is_other_user: bool = False
    """Whether it runs as another user: only root can do that."""
    is_elsewhere: bool = False
    """Whether it is started in an empty folder."""


def _without(*names: bytes) -> Callable[[Sequence[bytes]], tuple[bytes, ...]]:
    return lambda given: tuple(entry for entry in given if entry.partition(b"=")[0] not in names)


def _other_locale(given: Sequence[bytes]) -> tuple[bytes, ...]:
    """C.UTF-8, or C if the plain run's is a UTF-8 one."""
    locale = next((entry.partition(b"=")[2] for name in _LOCALE for entry in given if entry.startswith(name + b"=")), b"")
    other = b"C" if b"utf" in locale.lower() else b"C.UTF-8"
    return (*_without(*_LOCALE)(given), b"LC_ALL=" + other)


_LOCALE: Final = (b"LC_ALL", b"LC_CTYPE", b"LANG")
_ALL_TERMINAL: Final = dict.fromkeys((0, 1, 2), Stream.TERMINAL)
_ALL_CLOSED: Final = dict.fromkeys((0, 1, 2), Stream.CLOSED)
SIGNALS: Final = (
    Signals.SIGTERM,
    Signals.SIGINT,
    Signals.SIGHUP,
    Signals.SIGQUIT,
    Signals.SIGUSR1,
    Signals.SIGUSR2,
    Signals.SIGALRM,
    Signals.SIGWINCH,
    Signals.SIGTSTP,
    Signals.SIGCONT,
    Signals.SIGABRT,
    Signals.SIGSEGV,
)
"""Those that are sent to a program that catches them; not all, since some language runtimes catch every one."""

CIRCUMSTANCES: Final = (
    Circumstance("terminal", "streams", "in a terminal", _ALL_TERMINAL),
    Circumstance("stdout-closed", "streams", "with standard output closed", {1: Stream.CLOSED}),
    Circumstance("stdout-full", "streams", "with standard output on a full device", {1: Stream.FULL}),
    Circumstance("stdout-broken", "streams", "with standard output on a pipe without a reader", {1: Stream.BROKEN}),
    Circumstance("stdout-file", "streams", "with standard output on a file", {1: Stream.FILE}),
    Circumstance("stdout-pipe", "streams", "with standard output on a pipe", {1: Stream.PIPE}),
    Circumstance("stdout-null", "streams", "with standard output on /dev/null", {1: Stream.NULL}),
    Circumstance("stdin-closed", "streams", "with standard input closed", {0: Stream.CLOSED}),
    Circumstance("stdin-empty", "streams", "with an empty pipe as standard input", {0: Stream.BROKEN}),
    Circumstance("stderr-closed", "streams", "with standard error closed", {2: Stream.CLOSED}),
    Circumstance("stderr-full", "streams", "with standard error on a full device", {2: Stream.FULL}),
    Circumstance("stderr-pipe", "streams", "with standard error on a pipe", {2: Stream.PIPE}),
    Circumstance("all-closed", "streams", "with all standard streams closed", _ALL_CLOSED),
    Circumstance("all-full", "streams", "with output and errors on a full device", {1: Stream.FULL, 2: Stream.FULL}),
    Circumstance("no-environment", "environment", "with an empty environment", environment=lambda given: ()),
    Circumstance("no-home", "environment", "without HOME", environment=_without(b"HOME")),
    Circumstance("other-locale", "environment", "in another locale", environment=_other_locale),
    Circumstance("empty-folder", "environment", "in an empty folder", is_elsewhere=True),
    Circumstance("few-descriptors", "limits", "with few descriptors", exhaust=(Exhaust(resource.RLIMIT_NOFILE, 1),)),
    Circumstance("little-memory", "limits", "with little memory", exhaust=(Exhaust(resource.RLIMIT_AS, 1 << 18),)),
    Circumstance("small-files", "limits", "with files of 1 byte at most", exhaust=(Exhaust(resource.RLIMIT_FSIZE, 1),)),
    Circumstance("other-user", "user", "as another user", is_other_user=True),
)
