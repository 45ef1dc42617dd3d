"""Plans the runs of a rehearsal from the recording of plain runs, the most useful first: the circumstances, then one failure
for each place in turn, so that a small budget reaches every place.

How each call can fail is in failures.tsv; the circumstances are a table here, with what each row changes in the child before
its execve.
"""

from __future__ import annotations

import errno
import re
import resource
import signal
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from enum import StrEnum
from functools import cache
from itertools import zip_longest
from pathlib import PurePath
from signal import Signals
from typing import Final

from callfence.policygen.language.naming import format_value
from callfence.policygen.recording.model import Observation, Recording, recorded_values
from callfence.tracer.abi import NATIVE, Arch, Event, Kind, table, table_of
from callfence.tracer.abi.constants import table_rows
from callfence.tracer.abi.table import Table
from callfence.tracer.errors import UserError
from callfence.tracer.faults import Effect, Exhaust, Fail, Fault, Send, Shorten
from callfence.tracer.named import NamedTuple

_RESOURCES: Final = {"memory": resource.RLIMIT_AS, "descriptors": resource.RLIMIT_NOFILE}
_VERBS: Final = {"memory": "finds no more memory", "descriptors": "finds no more descriptors"}
GROUPS: Final = ("faults", "signals", "streams", "environment", "limits", "user")
_LOCALE: Final = (b"LC_ALL", b"LC_CTYPE", b"LANG")
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
"""The signals that are sent to a program with a handler for them; not all, since some language runtimes handle every signal."""
_WAITS: Final = (
    "epoll_wait", "epoll_pwait", "epoll_pwait2", "poll", "ppoll", "select", "pselect6", "accept", "accept4", "pause",
    "rt_sigsuspend", "wait4", "waitid", "nanosleep", "clock_nanosleep", "read", "recvfrom", "recvmsg", "futex",
)  # fmt: skip
"""Calls in which a program waits, the likeliest in which it gets a signal first."""
BETWEEN: Final = 2
"""The most failures that are tried at a call that is neither the first nor the last of its place."""
_LOADER: Final = re.compile(r"ld-linux[^/]*\.so|ld-[\d.]+\.so")
"""The file name of glibc's dynamic loader; in musl the loader is the C library."""


@cache
def failures() -> Mapping[str, tuple[str, ...]]:
    """Return the ways in which each call can fail, by its name; those that most often lead to new calls first."""
    rows = table_rows(__spec__, "failures.tsv")
    return {name: tuple(kinds.split(",")) for names, kinds in rows for name in names.split(",")}


def effect(failure: str) -> Effect:
    """Return the effect that the tracer injects for a failure, a word of failures.tsv."""
    if failure in _RESOURCES:
        return Exhaust(_RESOURCES[failure])
    if failure.startswith("short "):
        return Shorten(int(failure.removeprefix("short ")))
    return Fail(getattr(errno, failure), signal.SIGPIPE if failure == "EPIPE" else 0)


def verb(failure: str) -> str:
    """Return a failure as the predicate of a sentence, such as `fails with EIO`."""
    if failure.startswith("short "):
        return "is cut short"
    return _VERBS.get(failure, f"fails with {failure}")


class Stream(StrEnum):
    """The kind of file that standard input, output or error is."""

    CLOSED = "closed"
    NULL = "/dev/null"
    FULL = "/dev/full"
    BROKEN = "a pipe whose other end is closed"
    PIPE = "a pipe"
    FILE = "a file"
    TERMINAL = "a terminal"


class Circumstance(NamedTuple):
    """A way in which the circumstances of a rehearsed run differ from those of the plain run."""

    name: str
    """The name for --rehearse-only."""
    group: str
    """One of GROUPS."""
    description: str
    """A phrase for the user, such as `in a terminal`."""
    streams: Mapping[int, Stream] = {}
    """The standard streams that differ from the plain run, by descriptor."""
    environment: Callable[[Sequence[bytes]], tuple[bytes, ...]] = tuple
    """Returns the environment, given that of the plain run."""
    exhaust: tuple[Exhaust, ...] = ()
    """The resources that run out at the program's entry point."""
    is_other_user: bool = False
    """Whether the program runs as another user, for which learn must run as root."""
    empty: str = ""
    """What names an empty folder that the run gets: `.`, the folder in which it starts, or `TMPDIR`; "" without one."""


def _without(*names: bytes) -> Callable[[Sequence[bytes]], tuple[bytes, ...]]:
    return lambda given: tuple(entry for entry in given if entry.partition(b"=")[0] not in names)


def _other_locale(given: Sequence[bytes]) -> tuple[bytes, ...]:
    """Return the environment with the locale C.UTF-8; with C if the plain run has a UTF-8 locale."""
    locale = next((entry.partition(b"=")[2] for name in _LOCALE for entry in given if entry.startswith(name + b"=")), b"")
    other = b"C" if b"utf" in locale.lower() else b"C.UTF-8"
    return (*_without(*_LOCALE)(given), b"LC_ALL=" + other)


_ALL_TERMINAL: Final = dict.fromkeys((0, 1, 2), Stream.TERMINAL)
_ALL_CLOSED: Final = dict.fromkeys((0, 1, 2), Stream.CLOSED)

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
    Circumstance("empty-folder", "environment", "in an empty folder", empty="."),
    Circumstance("other-tmpdir", "environment", "with TMPDIR elsewhere", environment=_without(b"TMPDIR"), empty="TMPDIR"),
    Circumstance("few-descriptors", "limits", "with few descriptors", exhaust=(Exhaust(resource.RLIMIT_NOFILE, 1),)),
    Circumstance("little-memory", "limits", "with little memory", exhaust=(Exhaust(resource.RLIMIT_AS, 1 << 18),)),
    Circumstance("small-files", "limits", "with files of 1 byte at most", exhaust=(Exhaust(resource.RLIMIT_FSIZE, 1),)),
    Circumstance("other-user", "user", "as another user", is_other_user=True),
)


NAMES: Final = (*GROUPS, *(row.name for row in CIRCUMSTANCES), *(signal.name for signal in SIGNALS))
"""The names and groups that --rehearse-only accepts."""


class Place(NamedTuple):
    """Calls by one executable of one system call, with equal descriptors and equal values of the recorded arguments."""

    executable: str
    arch: int
    """AUDIT_ARCH_*."""
    number: int
    arguments: tuple[int | None, ...]
    """The value of each argument; None for any value."""

    @property
    def name(self) -> str:
        return _calls(self.arch).by_number[self.number].name

    def __str__(self) -> str:
        """Return the call with its fixed arguments, such as `write(fd=1)`."""
        calls = _calls(self.arch)
        registers = [(value or 0) & (1 << 64) - 1 for value in (*self.arguments, *[0] * 6)]
        meanings = zip(calls.arguments(self.number, registers[:6]), self.arguments, strict=True)
        shown = [f"{each.name}={format_value(calls.arch, each, value)}" for each, value in meanings if value is not None]
        return f"{self.name}({', '.join(shown)})"

    def matches(self, event: Event) -> bool:
        """Return whether a call of this number belongs to the place."""
        return all(value in (None, other) for value, other in zip(self.arguments, _arguments(event), strict=True))


class Rehearsal(NamedTuple):
    """A planned run of a rehearsal: it has a fault or a circumstance."""

    name: str
    """The name for --rehearse-only: that of a circumstance, that of a signal, or `faults`."""
    group: str
    description: str
    """What differs from the plain run, such as `write(fd=1) fails with EPIPE` or `in a terminal`."""
    fault: Fault | None = None
    circumstance: Circumstance | None = None
    place: Place | None = None
    """The place of the fault; None without one."""

    @property
    def is_first(self) -> bool:
        """Whether the first call of its place fails."""
        return self.group == "faults" and self.fault is not None and self.fault.nth == 1

    def is_chosen(self, only: Collection[str]) -> bool:
        """Return whether `only` has its name or group, or is empty."""
        return not only or self.name in only or self.group in only


def parse_choice(text: str) -> frozenset[str]:
    """Return the names and groups in the value of --rehearse-only, between commas.  Raises UserError for an unknown one."""
    chosen = list(filter(None, text.split(",")))
    if unknown := [name for name in chosen if name not in NAMES]:
        raise UserError(f"unknown name to rehearse: {', '.join(unknown)}; choose from {', '.join(NAMES)}")
    return frozenset(chosen)


def plan(recording: Recording, caught: Collection[int], only: Collection[str], *, is_root: bool) -> tuple[Rehearsal, ...]:
    """Return the runs to make after the plain runs of a recording, the most useful first.  `caught`: the signals for which the
    program has handlers.  `only`: names and groups of rehearsals; () for all."""
    places = _places(recording)
    rehearsals = [
        *(Rehearsal(row.name, row.group, row.description, circumstance=row) for row in CIRCUMSTANCES),
        *_signals(places, caught),
        *_faults(places),
    ]
    if not is_root:
        rehearsals = [rehearsal for rehearsal in rehearsals if rehearsal.group != "user"]
    return tuple(rehearsal for rehearsal in rehearsals if rehearsal.is_chosen(only))


def _places(recording: Recording) -> dict[Place, int]:
    """Return the places at which calls can fail, those of the first executable first, and for each the number of its calls, for
    each observation in the run with the most."""
    plain = [column for column, run in enumerate(recording.runs) if not run.rehearsed]
    first = [after for run in recording.runs for before, after in run.executed if before == ""]
    places: dict[Place, int] = {}
    for observation in recording.observations:
        count = max((observation.counts[column] for column in plain), default=0)
        if count and (place := _place(observation)) and not _LOADER.match(PurePath(observation.site).name):
            places[place] = places.get(place, 0) + count
    return dict(sorted(places.items(), key=lambda item: item[0].executable not in first))


def _place(observation: Observation) -> Place | None:
    calls, number = table_of(observation.arch, observation.number), observation.number
    if calls is None or observation.executable == "?":
        return None
    recorded, values = observation.fitted(calls).arguments, _arguments(observation.event)
    arguments = tuple(
        None if argument.kind is Kind.FD and constrained is None else value
        for argument, constrained, value in zip(calls.by_number[number].arguments, recorded, values, strict=True)
    )
    return Place(observation.executable, observation.arch, number, arguments)


def _faults(places: dict[Place, int]) -> Iterator[Rehearsal]:
    """Yield the first failure of every place, then the second of every place, and so on, at the first call of the place; then
    the same at the last call; then BETWEEN failures at some calls between them."""
    rows = [(place, [*_occurrences(count)], failures().get(place.name, ())) for place, count in places.items()]
    for turn in range(max((len(nths) for _, nths, _ in rows), default=0)):
        most = None if turn < 2 else BETWEEN
        for column in zip_longest(*(kinds[:most] if turn < len(nths) else () for _, nths, kinds in rows)):
            for (place, nths, _), failure in zip(rows, column, strict=True):
                if failure is not None:
                    which = f"call {nths[turn]} of {place}" if turn else str(place)
                    yield _fault("faults", f"{which} {verb(failure)}", place, nths[turn], effect(failure))


def _fault(name: str, description: str, place: Place, nth: int, effect: Effect) -> Rehearsal:
    fault = Fault(place.arch, place.number, place.executable, place.matches, nth, effect)
    return Rehearsal(name, "faults" if name == "faults" else "signals", description, fault, place=place)


def _occurrences(count: int) -> Iterator[int]:
    """Yield which of `count` calls fail, from 1: the first, the last, then some between."""
    yield 1
    if count > 1:
        yield count
    between, following = 2, 3
    while between < count:
        yield between
        between, following = following, between + following


def _signals(places: dict[Place, int], caught: Collection[int]) -> Iterator[Rehearsal]:
    """Yield each signal at a call that waits and at a call that writes; at the first call if there is neither."""
    first = next(iter(places)).executable if places else ""
    own = [place for place in places if place.executable == first]
    waits = sorted((place for place in own if place.name in _WAITS), key=lambda place: _WAITS.index(place.name))
    writes = [place for place in own if place.name in ("write", "writev", "sendto", "sendmsg")]
    for sent in (signum for signum in SIGNALS if signum in caught):
        for place in dict.fromkeys((*waits[:1], *writes[:1])) or own[:1]:
            yield _fault(sent.name, f"{sent.name} arrives at {place}", place, 1, Send(sent))


def _arguments(event: Event) -> tuple[int | None, ...]:
    """Return the values of a call's arguments as in `Place.arguments`."""
    calls = _calls(event.arch)
    arguments = zip(calls.by_number[event.number].arguments, event.arguments, recorded_values(calls, event), strict=False)
    return tuple(argument.value(register) if argument.kind is Kind.FD else value for argument, register, value in arguments)


def _calls(audit: int) -> Table:
    return table(Arch.from_audit(audit) or NATIVE)
