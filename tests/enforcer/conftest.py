"""C programs built on demand, and `enforce` run as a command: nothing forks inside pytest."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
DRIVER = HERE / "driver.py"


@pytest.fixture(scope="session")
def build(tmp_path_factory):
    """build("name", "-m32", ...) -> the path of tests/enforcer/programs/name.c, compiled with those flags."""
    if shutil.which("gcc") is None:
        pytest.skip("needs gcc")
    folder = tmp_path_factory.mktemp("programs")
    done = {}

    def built(name, *flags):
        if (name, flags) not in done:
            target = folder / f"{name}{''.join(flags)}"
            source = HERE / "programs" / f"{name}.c"
            subprocess.run(["gcc", "-O1", "-Wall", "-pthread", *flags, "-o", target, source], check=True)
            done[name, flags] = target
        return done[name, flags]

    return built


@pytest.fixture
def drive(tmp_path):
    """drive(arm, denied, *argv) -> the finished process, its program run by the driver beside this file."""

    def driven(arm, denied, *argv, **options):
        command = [sys.executable, DRIVER, arm, ",".join(map(str, denied)), *argv]
        settings = {"capture_output": True, "timeout": 60, "cwd": tmp_path, "stdin": subprocess.DEVNULL}
        return subprocess.run(command, check=False, **(settings | options))

    return driven
