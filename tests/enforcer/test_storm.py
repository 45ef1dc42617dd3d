"""A short version of `make storm`: signals hit the helper at random moments, and no denied call runs or is forgotten."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from needed import needs


@needs("gcc", "libc6-dev")
def test_a_short_storm() -> None:
    tool = Path(__file__).parent.parent.parent / "tools" / "storm.py"
    done = subprocess.run([sys.executable, tool, "25"], check=False, capture_output=True, text=True, timeout=300)
    assert done.stdout.startswith("25 rounds, 0 wrong"), done.stdout + done.stderr
