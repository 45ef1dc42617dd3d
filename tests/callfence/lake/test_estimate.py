"""What `ask safe` says of the chance of another rule, and what `completeness.estimate` says of the same recordings."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st
from lakes import X86_64, add, observation

from callfence.lake import asking, engine
from callfence.lake.identity import Identity
from callfence.policygen.completeness import estimate
from callfence.policygen.recording import recording_file
from callfence.policygen.recording.many import merge
from callfence.policygen.recording.model import Observation, Recording, Run, recorded_values
from callfence.tracer.abi import Arch, Event, table

OPENAT = 257


def opening(flags: int) -> Observation:
    event = Event(X86_64, OPENAT, (3, 0, flags, 0, 0, 0))
    return observation(OPENAT)._replace(arguments=recorded_values(table(Arch.X86_64), event), example=event.arguments)


PLAIN = [observation(number) for number in (0, 3, 39, 83, 60)]
"""Calls whose rules cannot be joined with others; the last is allowed anyway."""
FLAGS = [opening(flags) for flags in (0, 1, 2, 1 | 0o100, 0o100, 0o2000)]


@st.composite
def several_runs(draw: st.DrawFn, calls: list[Observation]) -> list[Recording]:
    made = []
    for number in range(draw(st.integers(1, 6))):
        seen = draw(st.lists(st.sampled_from(calls), unique=True, max_size=4))
        warm = draw(st.integers(0, 4)) == 0
        run = Run(f"{number}", 1 + draw(st.integers(0, 3)), ("./app",), 0, True, warm=warm)
        made.append(Recording((run,), tuple(sorted(seen, key=lambda one: one.order))))
    return made


def chance(recordings: list[Recording]) -> float:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number, recording in enumerate(recordings):
            recording_file.save(folder / f"{number}.rec", recording)
        add(folder / "lake", folder, whose=Identity("web1", "1", "app"))
        with engine.opened(folder / "lake", {}) as lake:
            values = {"hosts": 1, "chance": 0.05, "since_ns": 0}
            answer = asking.answer(lake, "safe", values, None)
    (row,) = answer.rows
    return float(row[answer.columns.index("chance")])


def expected(recordings: list[Recording]) -> float:
    """The estimate as one number; 1 where there is none."""
    estimated = estimate(merge(*recordings))
    return next((value for value in (estimated.chance, estimated.at_most) if value), 1.0)


@pytest.mark.long
@settings(max_examples=30)
@given(several_runs(PLAIN))
def test_it_is_the_estimate(recordings: list[Recording]) -> None:
    """Or, if that is less, what so many runs can show at most."""
    if any(recording.runs[0].warm for recording in recordings):
        assert chance(recordings) >= expected(recordings) - 1e-12
    else:
        bound = 1 - 0.05 ** (1 / len(recordings)) if len(recordings) > 1 else 1
        assert chance(recordings) == pytest.approx(max(expected(recordings), bound))


@pytest.mark.long
@settings(max_examples=30)
@given(several_runs([*FLAGS, PLAIN[0]]))
def test_it_is_never_lower(recordings: list[Recording]) -> None:
    """`learn` joins combinations of flags into one rule; each is a rule of its own here."""
    assert chance(recordings) >= expected(recordings) - 1e-12
