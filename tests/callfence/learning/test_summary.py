"""How sure, in the words that `learn` ends with."""

from __future__ import annotations

import pytest

from callfence.learning.summary import has_names_only, sureness
from callfence.policygen.completeness import estimate
from callfence.policygen.language.document import parse
from callfence.policygen.recording.fold import Aggregator
from callfence.policygen.recording.many import merge
from callfence.policygen.recording.model import Recording, Run
from callfence.tracer.abi import Arch, Event, table

NAMES = table(Arch.X86_64).by_name
Call = tuple[str, int]


def said(*runs: list[Call]) -> str:
    parts = []
    for index, calls in enumerate(runs):
        aggregator = Aggregator()
        for name, first in calls:
            aggregator.counter("/app", Event(Arch.X86_64.audit, NAMES[name].number, (first, 0, 0, 0, 0, 0)), str)[0] += 1
        run = Run(f"r{index}", index, ("./app",), 0, True)
        parts.append(Recording((run,), aggregator.observations()))
    seen = merge(*parts)
    return sureness(estimate(seen))


READ, WRITE, KEEP, DUMP = ("read", 0), ("write", 0), ("prctl", 8), ("prctl", 4)


@pytest.mark.parametrize(
    ("runs", "expected"),
    [
        ([[READ]], "one run says nothing about the next one: record more runs"),
        (
            [[READ], [READ, WRITE]],
            "2 runs; about 50% that one more run needs something new; seen in one run only: write",
        ),
        (
            [[READ, KEEP], [READ, KEEP, DUMP]],
            "2 runs; about 50% that one more run needs something new; seen in one run only: prctl",
        ),
        (
            [[READ]] * 3,
            "3 runs; each needed only rules that others needed, too; but so few runs say little about the next"
            " one: record more runs",
        ),
        (
            [[READ]] * 10,
            "10 runs; each needed only rules that others needed, too; at least 74 of 100 further runs need"
            " nothing new (95% confidence)",
        ),
    ],
)
def test_what_is_said(runs: list[list[Call]], expected: str) -> None:
    assert said(*runs) == expected


@pytest.mark.parametrize(("text", "names"), [("read: allow\n", True), ("read: allow\nwrite: fd == 1\n", False)])
def test_a_policy_of_names(text: str, names: bool) -> None:
    assert has_names_only(parse(text).policy) is names
