"""Systems of their own, in which callfence is installed in /opt/callfence."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from installations import install

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[2]


@pytest.fixture
def system(tmp_path: Path) -> Callable[..., str]:
    """Run a script of bash in a system with callfence, and return what it prints; it must end with 0."""
    install(tmp_path / "opt", "/opt/callfence")

    def run(script: str, seconds: float = 240) -> str:
        (tmp_path / "script").write_text(f"set -eu\nPATH=/opt/callfence/bin:$PATH\ncd /mnt\n{script}")
        command = ["bash", ROOT / "tests/support/system.sh", tmp_path, "bash", "/mnt/script"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        return done.stdout

    return run
