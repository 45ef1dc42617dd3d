"""What the tests of exports share: the program that they confine, and its policy."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

CALLS = Path(__file__).parents[1] / "enforcer" / "programs" / "calls.c"


@pytest.fixture(scope="session")
def probe(compile_c: Callable[..., Path]) -> Path:
    """Makes the system calls that its arguments say, and ends with 9; see its source."""
    return compile_c(CALLS, "-static", "-nostdlib", "-fno-stack-protector")
