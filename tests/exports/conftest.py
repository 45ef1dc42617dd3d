"""What the tests of exports share: the program that they confine, and its policy."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def probe(compile_c: Callable[..., Path]) -> Path:
    """Makes the system calls that its arguments say; see its source."""
    return compile_c(HERE / "programs" / "probe.c", "-nostdlib", "-static")
