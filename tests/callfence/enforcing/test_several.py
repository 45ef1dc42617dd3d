"""`enforce -p A -p B`: the strictest policy decides, whatever the order."""

from __future__ import annotations

import signal
import subprocess
import sys
from itertools import permutations
from pathlib import Path

import pytest
from calls import native

from callfence.policygen.language.document import newest_table
from callfence.tracer.abi import NATIVE, table


@pytest.mark.parametrize("options", [(), ("--quiet-kernel",)])
@pytest.mark.parametrize("order", [*permutations(["errno", "kill", "allow"])], ids="-".join)
def test_the_strictest_action_wins(tmp_path: Path, order: tuple[str, ...], options: tuple[str, ...]) -> None:
    without = (native("mkdir"), "seccomp", "prctl")
    others = "".join(f"{call.name}: allow\n" for call in table(NATIVE).by_number.values() if call.name not in without)
    errno = f"default allow\n{native('mkdir')}: errno EPERM\n"
    texts = {"errno": errno, "kill": f"{newest_table()}default kill\n{others}", "allow": "default allow\n"}
    for name, text in texts.items():
        (tmp_path / f"{name}.policy").write_text(text)
    policies = [word for name in order for word in ("-p", f"{name}.policy")]
    program = [sys.executable, "-I", "-S", "-c", "import os; os.mkdir('made')"]
    command = [sys.executable, "-m", "callfence", "enforce", *options, *policies, *program]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == -signal.SIGSYS, done.stderr
    assert not (tmp_path / "made").exists()
