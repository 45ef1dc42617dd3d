"""The way of docs/from-production.md: what an audit of a server logged, reviewed in one command, is all that it lacked."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from needed import require

TOOL = Path(__file__).parents[2] / "tools" / "measuring" / "from_production.py"


@pytest.mark.long
@pytest.mark.parametrize(
    ("server", "packages", "asked"),
    [
        ("small", ("curl", "procps"), "+ unlink: allow"),
        ("nginx", ("nginx", "curl", "procps"), "+ sendfile: allow"),
        ("gunicorn", ("gunicorn", "python3-flask", "curl", "procps"), "+ sendfile: allow"),
        ("redis", ("redis-server", "redis-tools", "procps"), "+ clone: clone_flags == SIGCHLD"),
    ],
    ids=["small", "nginx", "gunicorn", "redis"],
)
def test_from_an_audit_log_to_a_reviewed_policy(server: str, packages: tuple[str, ...], asked: str) -> None:
    """The tool fails if anything is denied afterwards, or if an answer of the server is not the expected one."""
    require(*packages)
    if server == "nginx" and os.geteuid() != 0:
        pytest.skip("its script starts it as root")
    done = subprocess.run([sys.executable, TOOL, server], capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
    assert asked in done.stdout
    assert " accepted\n$ bash " in done.stdout
