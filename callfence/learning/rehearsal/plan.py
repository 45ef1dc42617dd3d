"""A recording of plain runs -> the runs that rehearse what it does not show.  A pure function, in an order of usefulness:
the circumstances first, then one failure for each place in turn, so that a small budget reaches every place.

How each call can fail is in failures.tsv; the circumstances are a table here, with what each row changes in the child before
its execve.
"""

from __future__ import annotations

import errno
import re
import resource
import signal
from enum import StrEnum
from functools import cache
from itertools import zip_longest
from pathlib import Path, PurePath
from signal import Signals
from typing import TYPE_CHECKING, Final

from policygen.language.naming import format_value
from policygen.recording.model import recorded_values
from tracer.abi import Arch, Kind, table
from tracer.errors import UserError
from tracer.named import NamedTuple
from tracer.watch.faults import Exhaust, Fail, Fault, Send, Shorten

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

    from policygen.recording.model import Observation, Recording
    from tracer.abi import Event
    from tracer.abi.table import Table
    from tracer.watch.faults import Effect

_RESOURCES: Final = {"memory": resource.RLIMIT_AS, "descriptors": resource.RLIMIT_NOFILE}
_SAYS: Final = {"memory": "finds no more memory", "descriptors": "finds no more descriptors"}
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
"""Those that are sent to a program that catches them; not all, since some language runtimes catch every one."""
_WAITS: Final = (
    "epoll_wait", "epoll_pwait", "epoll_pwait2", "poll", "ppoll", "select", "pselect6", "accept", "accept4", "pause",
    "rt_sigsuspend", "wait4", "waitid", "nanosleep", "clock_nanosleep", "read", "recvfrom", "recvmsg", "futex",
)  # fmt: skip
"""Calls in which a program waits, the likeliest place for a signal first."""
BETWEEN: Final = 2
"""Failures of a call that is neither the first nor the last of its place."""
_LOADER: Final = re.compile(r"ld-linux[^/]*\.so|ld-[\d.]+\.so")
"""glibc's dynamic loader; musl's is its C library, too."""


@cache
def failures() -> Mapping[str, tuple[str, ...]]:
    """The failures of each call by its name, the most telling first."""
    rows = [line for line in Path(__file__).with_name("failures.tsv").read_text().splitlines() if line[:1] != "#"]
    split = [row.split("\t") for row in rows[1:]]
    return {name: tuple(kinds.split(",")) for names, kinds in split for name in names.split(",")}


def effect(failure: str) -> Effect:
    """What the tracer is to inject for a failure of the table."""
    if failure in _RESOURCES:
        return Exhaust(_RESOURCES[failure])
    if failure.startswith("short "):
        return Shorten(int(failure.removeprefix("short ")))
    return Fail(getattr(errno, failure), signal.SIGPIPE if failure == "EPIPE" else 0)


def says(failure: str) -> str:
    """`fails with EIO`, as it follows a call in a sentence."""
    if failure.startswith("short "):
        return "is cut short"
    return _SAYS.get(failure, f"fails with {failure}")


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
    Circumstance("empty-folder", "environment", "in an empty folder", is_elsewhere=True),
    Circumstance("few-descriptors", "limits", "with few descriptors", exhaust=(Exhaust(resource.RLIMIT_NOFILE, 1),)),
    Circumstance("little-memory", "limits", "with little memory", exhaust=(Exhaust(resource.RLIMIT_AS, 1 << 18),)),
    Circumstance("small-files", "limits", "with files of 1 byte at most", exhaust=(Exhaust(resource.RLIMIT_FSIZE, 1),)),
    Circumstance("other-user", "user", "as another user", is_other_user=True),
)


NAMES: Final = (*GROUPS, *(one.name for one in CIRCUMSTANCES), *(signal.name for signal in SIGNALS))
"""What --rehearse-only can choose."""


class Place(NamedTuple):
    """Calls that are alike: made by one executable, with the same constrained arguments, on the same descriptors."""

    executable: str
    arch: int
    """AUDIT_ARCH_*."""
    number: int
    arguments: tuple[int | None, ...]
    """None where any value will do."""

    @property
    def name(self) -> str:
        return _calls(self.arch).by_number[self.number].name

    def __str__(self) -> str:
        """`write(fd=1)`"""
        meanings = zip(_calls(self.arch).arguments(self.number, _registers(self.arguments)), self.arguments, strict=True)
        arch = _arch(self.arch)
        shown = [f"{one.name}={format_value(arch, one, value)}" for one, value in meanings if value is not None]
        return f"{self.name}({', '.join(shown)})"

    def matches(self, event: Event) -> bool:
        """Whether a call of this number is one of them."""
        return all(mine in (None, other) for mine, other in zip(self.arguments, _arguments(event), strict=True))


class Rehearsal(NamedTuple):
    """One run."""

    name: str
    """As an option names it: a circumstance, a signal, or `faults`."""
    group: str
    says: str
    """`write(fd=1) fails with EPIPE`, `in a terminal`: what is other than in the plain run."""
    fault: Fault | None = None
    circumstance: Circumstance | None = None
    place: Place | None = None
    """Where the fault happens."""

    @property
    def is_first(self) -> bool:
        """Whether it is about the first call of its place, which fails."""
        return self.group == "faults" and self.fault is not None and self.fault.nth == 1


class Choice(NamedTuple):
    """Which rehearsals are wanted."""

    only: Collection[str] = ()
    """Names or groups; empty is all."""

    @classmethod
    def parse(cls, only: str) -> Choice:
        """Of names separated by commas.  Raises UserError for one that there is not."""
        chosen = tuple(filter(None, only.split(",")))
        if unknown := [name for name in chosen if name not in NAMES]:
            raise UserError(f"{', '.join(unknown)} cannot be rehearsed; what can be is {', '.join(NAMES)}")
        return cls(chosen)

    def has(self, one: Rehearsal) -> bool:
        return not self.only or not {one.name, one.group}.isdisjoint(self.only)


def plan(recording: Recording, caught: Collection[int], choice: Choice, *, is_root: bool) -> tuple[Rehearsal, ...]:
    """`caught`: the signals that the program has handlers for."""
    places = _places(recording)
    possible = [one for one in CIRCUMSTANCES if is_root or not one.is_other_user]
    found = [
        *(Rehearsal(one.name, one.group, one.says, circumstance=one) for one in possible),
        *_signals(places, caught),
        *_faults(places),
    ]
    return tuple(one for one in found if choice.has(one))


def _places(recording: Recording) -> dict[Place, int]:
    """Where calls can fail, and how often each was seen in the run that made most; by executable, the first one first."""
    plain = [column for column, run in enumerate(recording.runs) if not run.rehearsed]
    first = [after for run in recording.runs for before, after in run.executed if before == ""]
    found: dict[Place, int] = {}
    for seen in recording.observations:
        count = max((seen.counts[column] for column in plain), default=0)
        if count and (place := _place(seen)) and not _LOADER.match(PurePath(seen.site).name):
            found[place] = found.get(place, 0) + count
    return dict(sorted(found.items(), key=lambda item: item[0].executable not in first))


def _place(seen: Observation) -> Place | None:
    arch = Arch.from_audit(seen.arch)
    if arch is None or seen.number not in table(arch).by_number or seen.executable == "?":
        return None
    calls = table(arch)
    values = zip(calls.by_number[seen.number].arguments, seen.fitted(calls).arguments, _arguments(seen.event), strict=True)
    arguments = tuple(None if one.kind is Kind.FD and recorded is None else value for one, recorded, value in values)
    return Place(seen.executable, seen.arch, seen.number, arguments)


def _faults(places: dict[Place, int]) -> Iterator[Rehearsal]:
    """The first failure of every place, then the second one of each, ...; at the first of its calls, then at the last, and
    at some of those between, of which only the most telling failures."""
    mine = [(place, [*_occurrences(count)], failures().get(place.name, ())) for place, count in places.items()]
    for turn in range(max((len(nths) for _, nths, _ in mine), default=0)):
        most = None if turn < 2 else BETWEEN
        for some in zip_longest(*(kinds[:most] if turn < len(nths) else () for _, nths, kinds in mine)):
            for (place, nths, _), failure in zip(mine, some, strict=True):
                if failure is not None:
                    which = f"call {nths[turn]} of {place}" if turn else str(place)
                    fault = Fault(place.arch, place.number, place.executable, place.matches, nths[turn], effect(failure))
                    yield Rehearsal("faults", "faults", f"{which} {says(failure)}", fault, place=place)


def _occurrences(count: int) -> Iterator[int]:
    """Which of so many calls fail: the first, the last, then some between."""
    yield 1
    if count > 1:
        yield count
    between, following = 2, 3
    while between < count:
        yield between
        between, following = following, between + following


def _signals(places: dict[Place, int], caught: Collection[int]) -> Iterator[Rehearsal]:
    """Each signal while the program waits, and at a write; at any call if it does neither."""
    first = next(iter(places)).executable if places else ""
    mine = [place for place in places if place.executable == first]
    waits = sorted((place for place in mine if place.name in _WAITS), key=lambda place: _WAITS.index(place.name))
    writes = [place for place in mine if place.name in ("write", "writev", "sendto", "sendmsg")]
    for sent in [one for one in SIGNALS if one in caught]:
        for place in dict.fromkeys((*waits[:1], *writes[:1])) or mine[:1]:
            fault = Fault(place.arch, place.number, place.executable, place.matches, 1, Send(sent))
            yield Rehearsal(sent.name, "signals", f"{sent.name} arrives at {place}", fault, place=place)


def _arguments(event: Event) -> tuple[int | None, ...]:
    """What `Place.arguments` has of a call."""
    calls = _calls(event.arch)
    plain = calls.by_number[event.number].arguments
    return tuple(
        one.value(register) if one.kind is Kind.FD else value
        for one, register, value in zip(plain, event.arguments, recorded_values(calls, event), strict=False)
    )


def _registers(arguments: tuple[int | None, ...]) -> tuple[int, ...]:
    return tuple((value or 0) & (1 << 64) - 1 for value in (*arguments, *[0] * (6 - len(arguments))))


def _arch(audit: int) -> Arch:
    arch = Arch.from_audit(audit)
    assert arch is not None
    return arch


def _calls(audit: int) -> Table:
    return table(_arch(audit))
