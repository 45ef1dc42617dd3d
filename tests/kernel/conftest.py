"""Small programs that detect what a tracer changes, run plainly and under the commands: nothing forks inside pytest."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAMS = Path(__file__).parent / "programs"
LEARN = (sys.executable, "-m", "callfence", "learn")
ENFORCE = (sys.executable, "-m", "callfence", "enforce")


def show_to_all(folder):
    """Let other users into one of pytest's folders."""
    for one in (folder, *folder.parents):
        if one.stat().st_mode & 0o005 == 0o005:
            return
        one.chmod(0o755)


@pytest.fixture
def shown_path(tmp_path):
    """Like tmp_path, and other users may look into it."""
    show_to_all(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def program(tmp_path_factory):
    """program("tasks", "-m32") -> the path of programs/tasks.c, compiled with those flags."""
    if shutil.which("gcc") is None:
        pytest.skip("needs gcc")
    folder = tmp_path_factory.mktemp("programs")
    show_to_all(folder)  # some tests run them as another user
    done = {}

    def built(name, *flags):
        if (name, flags) not in done:
            target = folder / f"{name}{''.join(flags)}"
            command = ["gcc", "-O1", "-Wall", "-Wextra", "-pthread", *flags, "-o", target, PROGRAMS / f"{name}.c"]
            found = subprocess.run(command, capture_output=True, text=True, check=False)
            if found.returncode and "-m32" in flags:
                pytest.skip("needs gcc-multilib")
            assert found.returncode == 0, found.stderr
            done[name, flags] = target
        return done[name, flags]

    return built


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

    def run(*argv, **settings):
        expected = plain(*argv, **settings)
        learned = learn(*argv, **settings)
        found = learned.done
        assert (found.returncode, found.stdout, found.stderr) == (expected.returncode, expected.stdout, expected.stderr)
        return learned

    return run
