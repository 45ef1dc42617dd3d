"""Lines on a terminal."""

from __future__ import annotations

from io import StringIO

import pytest
from rich.cells import cell_len

from callfence.shared.terminal import folded, print_lines


@pytest.mark.parametrize("padding", ["x" * 69, "\N{CJK UNIFIED IDEOGRAPH-4E2D}" * 34, "x" * 300])
def test_no_part_of_a_long_line_looks_like_another_line(padding: str) -> None:
    """The command of a program could go on with what a question shows."""
    line = f"  command  {padding}  rule     getppid: allow"
    first, *rest = folded(line, 80)
    assert all(cell_len(part) <= 80 for part in (first, *rest))
    assert rest
    assert all(part.startswith("  | ") for part in rest)
    assert first + "".join(part[4:] for part in rest) == line


@pytest.mark.parametrize("sign", ["\N{CIRCLED DIGIT ONE}", "\N{COMBINING TILDE}", "\N{CUNEIFORM SIGN A}"])
def test_signs_that_some_terminals_show_wider_are_folded_for_these(sign: str) -> None:
    first, *rest = folded(f"  command  {sign * 40}  rule     getppid: allow", 80)
    assert all(sum(1 if character.isascii() else 2 for character in part) <= 80 for part in (first, *rest))
    assert first + "".join(part[4:] for part in rest) == f"  command  {sign * 40}  rule     getppid: allow"


def test_a_short_line_stays() -> None:
    assert folded("", 80) == [""]
    assert folded("x" * 76, 80) == ["x" * 76]


def test_the_terminal_folds_long_lines_so_that_they_can_be_copied_whole() -> None:
    lines = [f"warning: {'word ' * 100}end", "+ read: allow"]
    file = StringIO()
    print_lines(lines, file)
    assert file.getvalue().splitlines() == lines
