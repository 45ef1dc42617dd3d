"""Python's search for cycles, left out where millions of values are made and none of them is in a cycle."""

from __future__ import annotations

import gc
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def no_search() -> Iterator[None]:
    """Halves the time that reading and folding recordings takes; memory is freed as before, by reference counts."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
