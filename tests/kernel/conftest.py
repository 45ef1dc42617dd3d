"""Small programs that detect what a tracer changes, run plainly and under the commands: nothing forks inside pytest."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAMS = Path(__file__).parent / "programs"
LEARN = (sys.executable, "-m", "callfence", "learn")
ENFORCE = (sys.executable, "-m", "callfence", "enforce")


@pytest.fixture(scope="session")
def program(compile_c):
    """program("tasks", "-m32") -> the path of programs/tasks.c, compiled with those flags."""
    return lambda name, *flags: compile_c(PROGRAMS / f"{name}.c", "-pthread", "-Wno-clobbered", *flags)


class Learned:
    """A finished `learn`."""

    def __init__(self, done, policy):
        self.done = done
        self.policy = policy
        self.recording = policy.parent / ".callfence" / f"{policy.name.removesuffix('.policy')}.rec"

    def _rows(self):
        return [json.loads(line) for line in self.recording.read_text().splitlines()]

    def calls(self):
        """{(arch, number): how often}"""
        found = {}
        for row in self._rows():
            if "arch" in row:
                key = row["arch"], row["number"]
                found[key] = found.get(key, 0) + sum(row["counts"])
        return found

    def gaps(self):
        return [gap for row in self._rows() for gap in row.get("gaps", ())]


@pytest.fixture
def plain(tmp_path):
    """plain(*argv, **options of subprocess.run) -> the finished process."""

    def run(*argv, **options):
        settings = {"capture_output": True, "timeout": 60, "cwd": tmp_path, "stdin": subprocess.DEVNULL} | options
        return subprocess.run(argv, check=False, **settings)

    return run


@pytest.fixture
def learn(tmp_path, plain):
    """learn(*argv, options=(...), under=(...), **options of subprocess.run) -> Learned."""
    policy = tmp_path / "learned.policy"

    def run(*argv, options=("-q",), under=(), **settings):
        return Learned(plain(*under, *LEARN, *options, "-o", policy, *argv, **settings), policy)

    return run


@pytest.fixture
def same(plain, learn):
    """same(*argv) -> Learned: the program says and returns under learn what it does without."""

    def run(*argv, options=("-q",), **settings):
        expected = plain(*argv, **settings)
        learned = learn(*argv, options=options, **settings)
        found = learned.done
        assert (found.returncode, found.stdout, found.stderr) == (expected.returncode, expected.stdout, expected.stderr)
        return learned

    return run
