"""A `callfence spawn` in a folder, and its client in C, as users run them; what a hostile client does is in hostile.py."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from callfence.diagnosing import kernels
from callfence.tracer.abi import NATIVE

ROOT = Path(__file__).resolve().parents[3]
COMMANDS = Path(sys.executable).parent
HERE = Path(__file__).parent
ALLOWED = f"callfence 1\narch {NATIVE}\ntable 6.18\ndefault allow\nscope none\n"
SECONDS = 60
CAPTURED = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "timeout": SECONDS}


@pytest.fixture(autouse=True)
def new_enough(request):
    """Skip all tests but that of the refusal where the kernel lacks what spawning needs."""
    if kernels.release() < (6, 5) and request.path.name != "test_kernels.py":
        pytest.skip("needs Linux 6.5")


def wait_until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it takes too long"
        time.sleep(0.01)


def processes_of(socket):
    """The pids of a spawner and of all that it has cloned: only they keep its command line."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0") if entry.name.isdigit() else []
        except OSError:  # it has ended
            continue
        if words[2:5] == [b"spawn", b"--socket", os.fsencode(socket)]:
            found.append(int(entry.name))
    return found


class Spawner:
    """A spawner that listens, and its clients."""

    def __init__(self, folder, client, cache):
        self.folder = folder
        self.client = client
        self.socket = folder / "spawn" / "socket"
        self.socket.parent.mkdir(mode=0o700)
        self.environment = {"PATH": os.defpath + ":/usr/sbin:/sbin", "HOME": str(folder), "XDG_CACHE_HOME": str(cache)}
        self.process = None
        self.policy(ALLOWED)

    def policy(self, text, name="it.policy"):
        (self.folder / name).write_text(text)

    def command(self, *under):
        return [*under, sys.executable, COMMANDS / "callfence", "spawn", "--socket", self.socket]

    def listen(self, *under, **options):
        """Start it, and wait until it listens."""
        settings = {"cwd": self.folder, "env": self.environment, "stdin": subprocess.DEVNULL, "stderr": subprocess.PIPE}
        self.process = subprocess.Popen(self.command(*under), **(settings | options))
        line = self.process.stderr.readline()
        assert b"ready" in line, line + self.process.stderr.read()
        return self

    def words(self, *words, policy="it.policy"):
        return [self.client, "-s", self.socket, *(["-p", policy] if policy else []), *words]

    def options(self, options):
        return {"cwd": self.folder, "env": self.environment, "stdin": subprocess.DEVNULL} | options

    def run(self, *words, under=(), policy="it.policy", **options):
        """The finished command."""
        settings = self.options(CAPTURED | options)
        return subprocess.run([*under, *self.words(*words, policy=policy)], check=False, **settings)

    def start(self, *words, under=(), policy="it.policy", **options):
        """The running command."""
        return subprocess.Popen([*under, *self.words(*words, policy=policy)], **self.options(options))

    def hostile(self, what, *arguments, under=(), **options):
        """hostile.py, finished."""
        command = [*under, sys.executable, HERE / "hostile.py", self.socket, what, *arguments]
        return subprocess.run(command, check=False, **self.options(CAPTURED | options))

    def works(self):
        done = self.run("true")
        assert (done.returncode, done.stderr) == (0, "")

    def processes(self):
        return processes_of(self.socket)

    def helpers(self):
        """The pids of its processes that have a command: their working folder is not that of the spawner, /."""
        found = []
        for pid in self.processes():
            try:
                found += [pid] if os.readlink(f"/proc/{pid}/cwd") != "/" else []
            except OSError:  # it has ended
                continue
        return found

    def wait_for_helpers(self):
        """Until all of them have ended by themselves."""
        wait_until(lambda: not self.helpers())

    wait_until = staticmethod(wait_until)
    here = HERE

    def end(self):
        if self.process and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(SECONDS)
        if self.process:
            self.process.stderr.close()
        wait_until(lambda: not self.processes())


@pytest.fixture(scope="session")
def client(compile_c):
    return compile_c(ROOT / "include" / "callfence-run.c", "-std=c11")


@pytest.fixture
def idle(shown_path, client, cache):
    """A spawner that does not listen yet."""
    made = Spawner(shown_path, client, cache)
    yield made
    made.end()


@pytest.fixture
def spawner(idle):
    return idle.listen()
