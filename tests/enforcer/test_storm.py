"""A short version of `make storm`: signals at random moments, and no denied call runs or is forgotten."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from needed import needs


@needs("gcc", "libc6-dev")
@pytest.mark.parametrize(("tool", "count"), [("storm", "25 rounds"), ("storm_phases", "16 starts")])
def test_a_short_storm(tool: str, count: str) -> None:
    path = Path(__file__).parent.parent.parent / "tools" / f"{tool}.py"
    command = [sys.executable, path, count.split()[0]]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=300)
    assert done.stdout.startswith(f"{count}, 0 wrong"), done.stdout + done.stderr
