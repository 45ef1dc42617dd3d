"""Observations: all equal events of a recording, folded into one.

Two events are equal if `kept` is the same for each argument.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tracer.abi import Argument, Event, Kind
from tracer.named import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Collection

    from tracer.abi.table import Table

Registers = tuple[int, int, int, int, int, int]


class Observation(NamedTuple):
    """Equal events: the same call, with the same kept arguments, made by the same executable."""

    arch: int
    """AUDIT_ARCH_*, as in `Event`."""
    number: int
    """32 bits, unsigned, as in `Event`."""
    arguments: tuple[int | None, ...]
    """One for each argument of the call, as its C type reads it (see `kept`); None where the value was not kept.
    Empty for a call that the tables do not have."""
    executable: str
    """Path of the program that made the calls; bytes that are not UTF-8 are surrogate-escaped."""
    counts: tuple[int, ...]
    """How often, in each run of the recording, in the order of its runs."""
    site: str
    """Call site of the first event: `/path/file+0xoffset (build id)`, the offset being that in the file; without the
    parentheses where none is known, and without folders in older recordings.  `[name]+0xoffset` or `?` elsewhere."""
    example: Registers
    """The registers of the first event."""
    evidence: tuple[str, ...] = ()
    """What the pointers of the first events point to (`evidence.facts`), ascending."""
    after: tuple[int, ...] = ()
    """The sets of waits after which its processes made the calls, as bits of tracer.abi.waits, ascending; 0 is before any.
    Empty if that is not known."""

    @property
    def calls(self) -> int:
        return sum(self.counts)

    @property
    def event(self) -> Event:
        """The first event, without its task."""
        return Event(self.arch, self.number, self.example)

    def fitted(self, calls: Table) -> Observation:
        """Return the observation with as many arguments as the table says; one recorded with older tables may have none."""
        arity = len(calls.by_number[self.number].arguments)
        return self if len(self.arguments) == arity else self._replace(arguments=(None,) * arity)

    @property
    def key(self) -> Key:
        """Unique within a recording."""
        return (self.arch, self.number, self.arguments, self.executable)

    @property
    def order(self) -> tuple[object, ...]:
        """Total sort key: `order` of its `key`."""
        return order(self.key)


Key = tuple[int, int, tuple[int | None, ...], str]
_LEAST = -(1 << 64)
"""Less than any value of an argument."""


def order(key: Key) -> tuple[object, ...]:
    """Return a total sort key for an observation's key; None sorts before any value."""
    arch, number, arguments, executable = key
    if None in arguments:
        return (arch, number, tuple([_LEAST if value is None else value for value in arguments]), executable)
    return key


def joined(evidence: Collection[str]) -> tuple[str, ...]:
    """The evidence of equal events of several runs (`facts.join`)."""
    if not evidence:
        return ()
    from policygen.evidence.facts import join  # not loaded where nothing is new

    return join(evidence)


def kept(calls: Table, event: Event) -> tuple[int | None, ...]:
    """Return what an observation keeps of each argument of a call that the table has."""
    plain = calls.by_number[event.number].arguments
    resolved = calls.arguments(event.number, event.arguments)
    return tuple(
        _kept(meaning, argument.value(register))
        for argument, meaning, register in zip(plain, resolved, event.arguments, strict=False)
    )


def _kept(argument: Argument, value: int) -> int | None:
    """Return what is kept of a value: None unless learning constrains arguments of this kind.

    A negative clock carries a pid or a descriptor, which differs between runs: all of them become -1
    (linux/posix-timers.h, CPUCLOCK_PERTHREAD_MASK).  Of a field only the exact bits are kept, of tasks only the caller.
    """
    if argument.kind is Kind.CLOCK:
        return max(value, -1)
    if argument.kind is Kind.FIELD:
        return value & argument.exact
    if argument.kind is Kind.TASK:
        return None if value else 0
    return value if argument.kind.is_constrained else None
