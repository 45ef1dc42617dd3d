"""How the rules of a policy were found, run after run, and estimates of the rules not found yet.

The estimates treat runs as draws, as `confidence` does, and a rule as a species that a run has or lacks.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING

from policygen.completeness.confidence import known_from, needed, needed_by, needs, widened_by
from policygen.learning.rule import Flags
from policygen.values import frozen
from tracer.abi import Arch, table

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from policygen.completeness.confidence import Column, Need
    from policygen.learning.rule import Element
    from policygen.recording.model import Observation, Recording
    from tracer.abi import Argument


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


@frozen
class Step:
    """What one run brought, in the order of the runs."""

    new: int
    """Number of rules that no earlier run gave."""
    wider: int
    """Number of rules of earlier runs that this run made wider."""
    total: int
    """Number of rules that the runs up to this one give, without the floor."""
    alone: bool | None
    """Whether this run needs something that all other runs together, later ones too, do not give.  None if that is not
    known: for a single run, and for runs before a warm one, which does not record what is already allowed."""


@frozen
class Estimate:
    """Estimates from at least two runs, none of them warm except the first."""

    once: int
    """Number of rules that only one run gave."""
    expected: float
    """Number of new rules that one more run brings, on average: once / runs (I. J. Good, Biometrika 40, 1953)."""
    unfound: float
    """Lower bound of the number of rules that no run has given yet: (m-1)/m * q1*(q1-1) / (2*(q2+1)), with m runs and
    q1, q2 rules that one, two of them gave (A. Chao, Biometrics 43, 1987; the bias-corrected form)."""


@frozen
class Growing:
    """A constrained argument with values that were first seen in the later half of the runs."""

    arch: Arch
    number: int
    index: int
    """Index of the argument: 0-5."""
    argument: Argument
    """The argument's meaning for the newest value."""
    first: int
    """Number of values, or bits of flags, in the first run that made the call."""
    total: int
    """Number of values, or bits of flags, in all runs."""
    newest: int
    """The value that was first seen last; the smallest of several."""
    column: Column
    """The run that first had it."""


@frozen
class Discovery:
    steps: tuple[Step, ...]
    """One step for each run."""
    estimate: Estimate | None
    """None if the runs do not suffice for one."""
    growing: tuple[Growing, ...]
    """The arguments that still grow, by architecture, number and argument."""


def discovery(recording: Recording, *, names_only: bool = False) -> Discovery:
    """Return what each run brought, and the estimates; `names_only`: for a policy learned with names of calls only."""
    runs = len(recording.runs)
    start = known_from(recording.runs)
    found = needs(recording.observations, names_only=names_only)
    known = runs > 1 and start == 0
    return Discovery(
        _steps(found, runs, start if runs > 1 else runs),
        _estimate([len(need.rules) for need in found], runs) if known else None,
        () if names_only else tuple(_growing(recording.observations, runs)),
    )


def _steps(found: Sequence[Need], runs: int, known: Column) -> tuple[Step, ...]:
    new, wider, alone = [0] * runs, [0] * runs, [False] * runs
    for need in found:
        first, *later = widened_by(need)
        new[first] += 1
        for column in later:
            wider[column] += 1
        for column in needed(need):
            alone[column] = True
    return tuple(
        Step(new[column], wider[column], sum(new[: column + 1]), alone[column] if column >= known else None)
        for column in range(runs)
    )


def _estimate(incidences: Sequence[int], runs: int) -> Estimate:
    once, twice = incidences.count(1), incidences.count(2)
    unfound = (runs - 1) / runs * once * (once - 1) / (2 * (twice + 1))
    return Estimate(once, once / runs, unfound)


def _growing(observations: Iterable[Observation], runs: int) -> Iterator[Growing]:
    for (audit, number, index), values in sorted(_values(observations).items()):
        columns = [column for column, _ in values.values()]
        first, last = min(columns), max(columns)
        arch = Arch.from_audit(audit)
        if arch is not None and last > first and last >= (runs + 1) // 2:
            newest = min(value for value, (column, _) in values.items() if column == last)
            meaning = values[newest][1]
            yield Growing(arch, number, index, meaning, columns.count(first), len(values), newest, last)


def _values(observations: Iterable[Observation]) -> dict[tuple[int, int, int], dict[int, tuple[Column, Argument]]]:
    """Return, for each constrained argument (AUDIT_ARCH_*, number, index), its values or bits, each with the run that
    first had it, and the argument's meaning there."""
    found: dict[tuple[int, int, int], dict[int, tuple[Column, Argument]]] = {}
    for observation in observations:
        arch, rule = Arch.from_audit(observation.arch), needed_by(observation)
        if arch is None or not rule:
            continue
        column = next(index for index, count in enumerate(observation.counts) if count)
        meanings = table(arch).arguments(observation.number, observation.example)
        for index, (element, meaning) in enumerate(zip(rule, meanings, strict=True)):
            for value in _parts(element):
                values = found.setdefault((observation.arch, observation.number, index), {})
                if value not in values or column < values[value][0]:
                    values[value] = (column, meaning)
    return found


def _parts(element: Element) -> Iterator[int]:
    """Yield the values of an element: each bit of flags is one, and so is their field, or the value without bits."""
    if isinstance(element, Flags):
        bits = element.bits & ~element.field
        yield from (1 << shift for shift in range(bits.bit_length()) if bits >> shift & 1)
        if element.field or not bits:
            yield element.bits & element.field
    elif element is not None:
        yield element.value
