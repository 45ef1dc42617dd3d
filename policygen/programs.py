"""Which executables a recording has, and which of them can have started which.

A recording counts calls by executable; it does not hold whose child a process was.  What it shows is who executed anything
at all: what was executed, was so by one of those.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tracer.abi import Arch, table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from policygen.needs import Column
    from policygen.recording import Recording

_EXECUTE = ("execve", "execveat")


@dataclass(frozen=True, slots=True)
class Program:
    """One executable of a recording."""

    executable: str
    calls: int
    """How many it made, over all runs."""
    syscalls: Mapping[tuple[int, int], int]
    """How often it made each call (AUDIT_ARCH_*, number)."""
    runs: tuple[Column, ...]
    """Those in which it made calls."""
    executes: int
    """How many of its calls would execute something; some of them may have failed."""
    is_first: bool | None
    """Whether a run began with it; None where that is not known."""
    starters: tuple[str, ...]
    """If it is not the first: the executables of which one first started it, ascending.  Empty where nothing is known: a
    warm run does not record an execve that is allowed already."""


def programs(recording: Recording) -> tuple[Program, ...]:
    """By executable."""
    syscalls: dict[str, Counter[tuple[int, int]]] = {}
    seen: list[set[str]] = [set() for _ in recording.runs]
    executing: list[Counter[str]] = [Counter() for _ in recording.runs]
    for observation in recording.observations:
        one, call = observation.executable, (observation.arch, observation.number)
        syscalls.setdefault(one, Counter())[call] += observation.count
        for column, count in enumerate(observation.counts):
            if count:
                seen[column].add(one)
                executing[column][one] += count if _executes(*call) else 0
    started = _started(recording, seen, [set(+counts) for counts in executing])
    return tuple(
        Program(
            one,
            counts.total(),
            dict(sorted(counts.items())),
            tuple(column for column, those in enumerate(seen) if one in those),
            sum(counts[one] for counts in executing),
            *started.get(one, (None, ())),
        )
        for one, counts in sorted(syscalls.items())
    )


def _started(
    recording: Recording, seen: Sequence[set[str]], executing: Sequence[set[str]]
) -> dict[str, tuple[bool | None, tuple[str, ...]]]:
    """For each executable that something is known of, whether it was first, and who else can have started it."""
    first: set[str] = set()
    unsure: set[str] = set()
    starters: dict[str, set[str]] = {}
    for run, those, able in zip(recording.runs, seen, executing, strict=True):
        if run.warm or not run.complete or not those:
            continue
        root = _root(those, able, run.command[0])
        if root is None:
            unsure |= able
        else:
            first.add(root)
        for one in those - {root}:
            starters.setdefault(one, set()).update(able - {one})
    found: dict[str, tuple[bool | None, tuple[str, ...]]] = {
        one: (None if one in unsure else False, () if one in unsure else tuple(sorted(those)))
        for one, those in starters.items()
    }
    return found | dict.fromkeys(first, (True, ()))


def _executes(audit: int, number: int) -> bool:
    arch = Arch.from_audit(audit)
    call = table(arch).by_number.get(number) if arch else None
    return call is not None and call.name in _EXECUTE


def _root(seen: set[str], executing: set[str], command: str) -> str | None:
    """What a run began with: the only one there is, the only one that can have started the others, or the one that has
    the command's name, which a script's interpreter has not."""
    for candidates in (seen, executing):
        if len(candidates) == 1:
            return next(iter(candidates))
    named = [one for one in executing if one.rpartition("/")[2] == command.rpartition("/")[2]]
    return named[0] if len(named) == 1 else None
