"""A short version of `make storm`: trouble at random moments, and no denied call runs or is forgotten."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from needed import needs


@pytest.mark.long
@needs("gcc", "libc6-dev")
@pytest.mark.parametrize(
    ("tool", "arguments", "last"),
    [
        ("storm", ["25"], "25 rounds, 0 wrong"),
        ("storm_phases", ["25", "--seed", "1"], "25 starts, 0 wrong"),
        ("storm_attacks", ["3"], "24 rounds of 8 attacks, 0 wrong"),
    ],
)
def test_a_short_storm(tool: str, arguments: list[str], last: str) -> None:
    path = Path(__file__).parent.parent.parent / "tools" / "storm" / f"{tool}.py"
    done = subprocess.run([sys.executable, path, *arguments], check=False, capture_output=True, text=True, timeout=600)
    assert done.stdout.splitlines()[-1].startswith(last), done.stdout + done.stderr
