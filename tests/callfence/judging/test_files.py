"""How many of the recorded names are shown below a line about a path."""

from __future__ import annotations

from typing import Any

import pytest

from callfence.judging.files import _of_path


@pytest.mark.parametrize(
    ("count", "last"), [(1, "  name 1"), (6, "  name 6"), (7, "  and 1 name more"), (9, "  and 3 names more")]
)
def test_six_names_are_shown_and_the_others_counted(count: int, last: str) -> None:
    names: list[Any] = [f"name {number}" for number in range(1, count + 1)]
    lines = [*_of_path("/etc", names, {})]
    assert (lines[:6], lines[-1]) == ([f"  {name}" for name in names[:6]], last)
    assert len(lines) == min(count, 7)


def test_a_line_that_no_run_used_and_for_which_there_is_no_reason_was_not_learned() -> None:
    (line,) = _of_path("/etc", [], {})
    assert line.startswith("  no recorded run used it: ")
    assert [*_of_path("/etc", [], {"/etc": "because"})] == []
