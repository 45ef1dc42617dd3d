"""The executables of a recording, and which of them started which."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING

from policygen.values import frozen

if TYPE_CHECKING:
    from collections.abc import Mapping

    from policygen.completeness.needs import Column
    from policygen.recording.runs import Recording


@frozen
class Executable:
    """One executable of a recording."""

    executable: str
    syscalls: Mapping[tuple[int, int], int]
    """Number of its calls by (AUDIT_ARCH_*, number), over all runs."""
    runs: tuple[Column, ...]
    """The runs in which it ran."""
    is_first: bool
    """Whether a run began with it."""
    starters: tuple[str, ...]
    """The executables that started it, ascending; it may be one itself.  Empty, too, if that is not known."""

    @property
    def calls(self) -> int:
        """Number of its calls, over all runs.  A warm run counts only calls that were new then."""
        return sum(self.syscalls.values())


def executables(recording: Recording) -> tuple[Executable, ...]:
    """Return the executables of all runs, by path."""
    syscalls: defaultdict[str, Counter[tuple[int, int]]] = defaultdict(Counter)
    runs: defaultdict[str, set[Column]] = defaultdict(set)
    starters: defaultdict[str, set[str]] = defaultdict(set)
    for observation in recording.observations:
        syscalls[observation.executable][observation.arch, observation.number] += observation.calls
        runs[observation.executable].update(column for column, count in enumerate(observation.counts) if count)
    for column, run in enumerate(recording.runs):
        for before, after in run.executed:
            runs[after].add(column)
            starters[after].add(before)
    return tuple(
        Executable(
            one,
            dict(sorted(syscalls[one].items())),
            tuple(sorted(those)),
            "" in starters[one],
            tuple(sorted(starters[one] - {""})),
        )
        for one, those in sorted(runs.items())
    )
