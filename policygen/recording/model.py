"""The values that a recording is made of: runs, and the observations of what they did.

An observation is all equal events of a recording, folded into one value.  Two events are equal if `recorded_values` is the same
for each argument.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Literal

from callfence.tracer.abi import Argument, Event, Kind, call_of
from callfence.tracer.abi.table import Table
from callfence.tracer.errors import InternalError
from callfence.tracer.named import NamedTuple

Registers = tuple[int, int, int, int, int, int]


class Observation(NamedTuple):
    """A set of equal events: the same call, with the same recorded values, made by the same executable."""

    arch: int
    """The AUDIT_ARCH_* of the calls, as in `Event`."""
    number: int
    """The call's number, 32 bits, unsigned, as in `Event`."""
    arguments: tuple[int | None, ...]
    """The recorded value of each argument, as its C type reads it (`recorded_values`); None where the value is not recorded.
    Empty for a call that the tables do not have."""
    executable: str
    """Path of the executable that made the calls; bytes that are not UTF-8 are surrogate-escaped."""
    counts: tuple[int, ...]
    """The number of events in each run of the recording, in the order of its runs."""
    site: str
    """Call site of the first event: `/path/file+0xoffset (build id)`, where the offset is that in the file.  The parentheses
    are missing if the build id is unknown, and the folders in older recordings.  `[name]+0xoffset` or `?` if the call did not
    come from a file."""
    example: Registers
    """The registers of the first event."""
    evidence: tuple[str, ...] = ()
    """The facts (`evidence.facts`) about the pointers of the first events, ascending."""
    after: tuple[int, ...] = ()
    """The sets of waits that processes had begun when they made the calls, with how often each was forked, as bits of
    callfence.tracer.abi.waits, ascending; 0 is before any wait.  Empty if unknown.  Older recordings lack the forks."""

    @property
    def calls(self) -> int:
        return sum(self.counts)

    @property
    def name(self) -> str:
        """The name of the call; "" if the tables do not have it."""
        call = call_of(self.arch, self.number)
        return call.name if call else ""

    @property
    def event(self) -> Event:
        """The first event, without its task."""
        return Event(self.arch, self.number, self.example)

    def fitted(self, calls: Table) -> Observation:
        """Return the observation with as many arguments as the call has in the table.  If the number differs, because older
        tables were used to record it, all values become None."""
        arity = len(calls.by_number[self.number].arguments)
        return self if len(self.arguments) == arity else self._replace(arguments=(None,) * arity)

    @property
    def key(self) -> Key:
        """The key of the observation, which is unique within a recording."""
        return (self.arch, self.number, self.arguments, self.executable)

    @property
    def order(self) -> tuple[object, ...]:
        """A total sort key (`order` of `key`)."""
        return order(self.key)


Key = tuple[int, int, tuple[int | None, ...], str]
_LEAST = -(1 << 64)
"""A number less than any value of an argument."""


def order(key: Key) -> tuple[object, ...]:
    """Return a total sort key for the key of an observation, where None sorts before any value."""
    arch, number, arguments, executable = key
    if None in arguments:
        return (arch, number, tuple([_LEAST if value is None else value for value in arguments]), executable)
    return key


def joined(evidence: Collection[str]) -> tuple[str, ...]:
    """Return the union of evidence of equal events (`facts.join`)."""
    if not evidence:
        return ()
    from callfence.policygen.evidence.facts import join  # not loaded where nothing is new

    return join(evidence)


def recorded_values(calls: Table, event: Event) -> tuple[int | None, ...]:
    """Return the value that an observation records for each argument of an event, None for one whose value is not recorded.
    The table must have the call."""
    plain = calls.by_number[event.number].arguments
    resolved = calls.arguments(event.number, event.arguments)
    return tuple(
        _recorded(meaning, argument.value(register))
        for argument, meaning, register in zip(plain, resolved, event.arguments, strict=False)
    )


def _recorded(argument: Argument, value: int) -> int | None:
    """Return the recorded form of a value; None unless learning constrains arguments of this kind.

    A negative clock carries a pid or a descriptor, which differs between runs: all of them become -1 (linux/posix-timers.h,
    CPUCLOCK_PERTHREAD_MASK).  Of a field only the exact bits are recorded; of IDs of tasks only 0, the caller."""
    if argument.kind is Kind.CLOCK:
        return max(value, -1)
    if argument.kind is Kind.FIELD:
        return value & argument.exact
    if argument.kind is Kind.TASK:
        return None if value else 0
    return value if argument.kind.is_constrained else None


Signals = Literal["", "family", "others"]


class Circumstances(NamedTuple):
    """The circumstances in which a run was started; '' where one is unknown, as in old and imported recordings."""

    input: str = ""
    """The kind of standard input: `a file`, `a pipe`, `a socket`, `a terminal`, `/dev/null`, `a device` or `closed`."""
    output: str = ""
    """The kind of standard output, in the same words."""
    error: str = ""
    """The kind of standard error, in the same words."""
    user: str = ""
    """`root` or `user`."""
    locale: str = ""
    """The locale of LC_ALL, LC_CTYPE or LANG; C if none is set."""


class Run(NamedTuple):
    """One run of a program under observation."""

    id: str
    """A random id, unique among all runs of all machines."""
    started: int
    """Nanoseconds since the epoch.  Runs are ordered by this, then by id."""
    command: tuple[str, ...]
    """Bytes that are not UTF-8 are surrogate-escaped."""
    status: int | None
    """Exit status 0-255, or -N if signal N ended the program; None if its end was not observed."""
    complete: bool
    """Whether the program was observed from its execve to its end."""
    gaps: tuple[str, ...] = ()
    """Sentences about what could not be observed, ascending."""
    warm: bool = False
    """Whether this was a run of incremental learn, which records only calls that the policy did not allow at the time."""
    executed: tuple[tuple[str, str], ...] = ()
    """Pairs of executables, ascending, of which the first executed the second; the first is '' if the second is the run's
    program.  Empty if unknown."""
    rehearsed: str = ""
    """The fault that made the run differ from an ordinary one, such as `write(fd=1) fails with EPIPE`; "" for an ordinary run.
    Only what was new in a rehearsed run is recorded."""
    circumstances: Circumstances = Circumstances()
    files: tuple[tuple[str, str, str], ...] = ()
    """The uses of files and ports, ascending: a path as a policy writes it, its rights, and the executable; or `tcp connect` or
    `tcp bind`, a port, and the executable; or `made`, the path of a file that the run made, and "".  Empty if they were not
    recorded."""
    waits: tuple[int, ...] = ()
    """The sets of waits that processes had begun by their end, as those of `Observation.after`, 0 among them; empty without
    `learn --phases`."""
    signals: Signals = ""
    """Which processes the run signalled or read through /proc/PID: only its own, others too, or '' if none or unknown."""

    @property
    def order(self) -> tuple[int, str]:
        return (self.started, self.id)


class _Parts(NamedTuple):
    runs: tuple[Run, ...]
    observations: tuple[Observation, ...]


class Recording(_Parts):
    """Runs, ascending by `Run.order`, and their observations, ascending by `Observation.order`.  Every observation has a count
    for each run, of which at least one is not 0."""

    __slots__ = ()

    def __new__(cls, runs: tuple[Run, ...] = (), observations: tuple[Observation, ...] = ()) -> Recording:
        """Return a recording.  Raises WrongPlaceError for runs or observations out of order, repeated, or wrongly counted."""
        _check_runs(runs)
        _check_observations(observations, len(runs))
        return super().__new__(cls, runs, observations)

    def of_run(self, run_id: str) -> tuple[Observation, ...]:
        """Return the observations made in one run, with their counts in all.  Raises ValueError if there is no such run."""
        column = [run.id for run in self.runs].index(run_id)
        return tuple(observation for observation in self.observations if observation.counts[column])

    def plain(self) -> Recording:
        """Return the recording without rehearsed runs, and without observations that only these runs have."""
        runs = tuple(run for run in self.runs if not run.rehearsed)
        if len(runs) == len(self.runs):
            return self
        plain = map(self.in_plain_runs, self.observations)
        return Recording(runs, tuple(observation for observation in plain if any(observation.counts)))

    def in_plain_runs(self, observation: Observation) -> Observation:
        """Return an observation of this recording with the counts of only those runs that `plain()` keeps; they may all be
        0."""
        pairs = zip(observation.counts, self.runs, strict=True)
        return observation._replace(counts=tuple(count for count, run in pairs if not run.rehearsed))

    def rehearsed(self, observation: Observation) -> tuple[str, ...]:
        """Return the faults (`Run.rehearsed`) of the runs with this observation; () if one of these was an ordinary run."""
        pairs = zip(self.runs, observation.counts, strict=True)
        rehearsed = dict.fromkeys(run.rehearsed for run, count in pairs if count)
        return () if "" in rehearsed else tuple(rehearsed)


def completeness(run: Run) -> tuple[object, ...]:
    """Return a total sort key for records of one run, which is greater for the more complete record."""
    ended = (run.complete, run.status is not None, run.status or 0)
    details = (run.gaps, run.warm, run.executed, run.rehearsed, run.circumstances, run.files, run.waits, run.signals)
    return (*ended, run.started, run.command, *details)


class WrongPlaceError(InternalError, ValueError):
    """A run or an observation is out of order, repeated, or has a wrong number of counts."""

    def __init__(self, index: int, *, is_run: bool) -> None:
        what = "run" if is_run else "observation"
        super().__init__(f"{what} {index} out of order, given twice, or not counted for each run")
        self.index = index
        self.is_run = is_run


def _check_runs(runs: Sequence[Run]) -> None:
    ids: set[str] = set()
    for index, run in enumerate(runs):
        if run.id in ids or (index and runs[index - 1].order >= run.order):
            raise WrongPlaceError(index, is_run=True)
        ids.add(run.id)


def _check_observations(observations: Sequence[Observation], runs: int) -> None:
    before: Key | None = None
    for index, observation in enumerate(observations):
        key = observation[:4]
        try:
            is_ascending = before is None or before < key
        except TypeError:  # None and a value: `order` tells, and takes longer
            is_ascending = before is None or order(before) < order(key)
        if not is_ascending or len(observation.counts) != runs or not any(observation.counts):
            raise WrongPlaceError(index, is_run=False)
        before = key
