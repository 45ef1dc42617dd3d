"""A call to another host that waits, in the start of a program with phases: all else goes on meanwhile."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from calls import allowing_all

if TYPE_CHECKING:
    from tests.enforcer.conftest import Workplace

PROGRAM = Path(__file__).with_name("waits.py")
CHILD, DENIED = "child: full\n", "denied\n"


@pytest.mark.parametrize(
    ("what", "status", "printed"),
    [
        ("interrupted", 0, f"{CHILD}interrupted\n{DENIED}"),
        ("serving", 0, f"{CHILD}interrupted\n{DENIED}"),
        ("stopped", 0, f"{CHILD}connected\n{DENIED}"),
        ("enters", 0, f"{CHILD}connected\n{DENIED}"),
        ("executes", 0, f"{CHILD}executed\n"),
        ("killed", -9, CHILD),
    ],
)
def test_all_else_goes_on(place: Workplace, what: str, status: int, printed: str) -> None:
    text = allowing_all("phase serving after sched_yield", f"unix connect {place.folder}/full")
    text = "".join(line for line in text.splitlines(keepends=True) if line != "mkdir: allow\n")
    place.policy(text.replace("\nmkdirat: allow\n", "\nmkdirat: allow until serving\n"), "it.policy")
    shutil.copy(PROGRAM, place.folder)
    done = place.enforce("-p", "it.policy", sys.executable, "waits.py", what, timeout=30)
    assert (done.returncode, done.stdout) == (status, printed), done.stderr
    assert "cannot" not in done.stderr
    place.wait_for_helpers(10)
