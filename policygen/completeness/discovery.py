"""How the rules of a policy were found, run after run, and what that says of those not found yet.

The estimates take runs for draws, as `confidence` does, and a rule for a species that a run has or has not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from policygen.completeness.needs import known_from, needed, needed_by, needs, widened_by
from policygen.learning.rule import Flags
from tracer.abi import Arch, table

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from policygen.completeness.needs import Column, Need
    from policygen.learning.rule import Element
    from policygen.recording.observation import Observation
    from policygen.recording.runs import Recording
    from tracer.abi import Argument


@dataclass(frozen=True, slots=True)
class Step:
    """What one run brought, the runs taken in their order."""

    new: int
    """Rules that no earlier run gave."""
    wider: int
    """Rules of earlier runs that this one made wider."""
    total: int
    """Rules that the runs up to this one give, without the floor."""
    alone: bool | None
    """Whether the other runs together, later ones too, would not give all that this one needs.  None where that is not
    known: of a single run, and of runs before a warm one, which does not record what is allowed already."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """Of at least two runs, none of them warm but the first."""

    once: int
    """Rules that one run alone has given."""
    expected: float
    """How many new rules one more run brings, on average: once / runs (I. J. Good, Biometrika 40, 1953)."""
    unfound: float
    """How many rules there are at least that no run has given yet: (m-1)/m * q1*(q1-1) / (2*(q2+1)), with m runs and
    q1, q2 rules that one, two of them gave (A. Chao, Biometrics 43, 1987; the bias-corrected form)."""


@dataclass(frozen=True, slots=True)
class Growing:
    """An argument, constrained to what was seen of it, of which a run in the later half still brought more."""

    arch: Arch
    number: int
    index: int
    """Which argument: 0-5."""
    argument: Argument
    """As the newest value means it."""
    first: int
    """How many values, or bits of flags, the first run that made the call brought."""
    total: int
    """How many there are by now."""
    newest: int
    """The last one that was brought; the smallest of several."""
    column: Column
    """The run that brought it."""


@dataclass(frozen=True, slots=True)
class Discovery:
    steps: tuple[Step, ...]
    """One for each run."""
    estimate: Estimate | None
    """None where the runs do not say enough for one."""
    growing: tuple[Growing, ...]
    """By architecture, number and argument."""


def discovery(recording: Recording, *, names_only: bool = False) -> Discovery:
    """With `names_only`, for a policy that was learned so."""
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
    """Of each constrained argument (AUDIT_ARCH_*, number, index): its values or bits, with the run that first brought
    each, and what the argument means there."""
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
    """The values that an element holds: each bit of flags is one, and so is their field, or having no bit at all."""
    if isinstance(element, Flags):
        bits = element.bits & ~element.field
        yield from (1 << shift for shift in range(bits.bit_length()) if bits >> shift & 1)
        if element.field or not bits:
            yield element.bits & element.field
    elif element is not None:
        yield element.value
