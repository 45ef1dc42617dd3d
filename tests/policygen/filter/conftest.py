"""The program that shows what the running kernel does with a filter."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import probe as probes
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture(scope="session")
def probe(compile_c: Callable[..., Path]) -> probes.Probe:
    return probes.Probe(compile_c(Path(probes.__file__).with_name("probe.c"), "-mno-red-zone"))
