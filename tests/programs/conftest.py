"""Whether the line that a violation suggests allows the denied call, for the tests of whole programs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from callfence.policygen.evaluate import evaluate
from callfence.policygen.language.document import parse, parse_file
from callfence.policygen.values import replace
from callfence.tracer.abi import Arch, Event

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from callfence.policygen.model import Action


def _follow(policy: Path, violation: dict[str, Any]) -> tuple[Action, Action]:
    (advice,) = violation["allow"]
    before = parse_file(policy).policy
    suggested = parse(advice["line"], "<suggestion>").policy
    entries = {
        arch: {**before.entries.get(arch, {}), **suggested.entries.get(arch, {})}
        for arch in before.entries.keys() | suggested.entries.keys()
    }
    registers = tuple(int(text, 16) for text in violation["arguments"])
    event = Event(Arch(violation["arch"]).audit, violation["number"], registers)
    return evaluate(before, event), evaluate(replace(before, entries=entries), event)


@pytest.fixture
def follow_advice() -> Callable[[Path, dict[str, Any]], tuple[Action, Action]]:
    """`follow_advice(policy, violation)` -> what the policy does with the call that was denied, and what it does when
    the suggested line takes the place of the entry that it has."""
    return _follow
