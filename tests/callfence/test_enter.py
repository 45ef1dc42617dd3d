"""`callfence.enter`, in processes of their own: under enforce, and alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import socket, sys, threading
import callfence

def connects(name):
    try:
        socket.socket(socket.AF_INET).close()
        print(name, "has a socket", flush=True)
    except OSError as error:
        print(name, error.strerror, flush=True)

event = threading.Event()
thread = threading.Thread(target=lambda: (event.wait(), connects("thread")))
thread.start()
connects("main")
print("entered", callfence.enter("serving", *sys.argv[1:2]), flush=True)
connects("main")
event.set()
thread.join()
"""
DENIED = "Operation not permitted"


def run(folder: Path, *command: str) -> str:
    (folder / "script.py").write_text(SCRIPT)
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stderr
    return done.stdout


def policy(folder: Path) -> str:
    """What the script needs, and an internet socket only until it serves."""
    learned = (sys.executable, "-m", "callfence", "learn", "-q", "--phases", "--default", "errno EPERM", "-o", "it.policy")
    run(folder, *learned, "--", sys.executable, "script.py")
    text = (folder / "it.policy").read_text()
    assert "phase serving after enter\n" in text
    lines = [line for line in text.splitlines() if not line.startswith("socket:")]
    (folder / "it.policy").write_text("\n".join([*lines, "socket: family == AF_INET until serving", ""]))
    return "it.policy"


def test_without_enforce_nothing_happens(tmp_path: Path) -> None:
    said = run(tmp_path, sys.executable, "script.py")
    assert said.splitlines() == ["main has a socket", "entered False", "main has a socket", "thread has a socket"]


def test_under_enforce_all_threads_enter_it(tmp_path: Path) -> None:
    enforce = (sys.executable, "-m", "callfence", "enforce", "-p", policy(tmp_path))
    said = run(tmp_path, *enforce, sys.executable, "script.py")
    assert said.splitlines() == ["main has a socket", "entered True", f"main {DENIED}", f"thread {DENIED}"]


@pytest.mark.long
def test_alone_with_a_policy(tmp_path: Path) -> None:
    said = run(tmp_path, sys.executable, "script.py", policy(tmp_path))
    assert said.splitlines() == ["main has a socket", "entered True", f"main {DENIED}", f"thread {DENIED}"]
