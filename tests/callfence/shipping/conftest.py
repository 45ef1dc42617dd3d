"""Records as `enforce` writes them, and `callfence ship` as a process."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests.enforcer.conftest import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

COMMON = {
    "version": 1, "time": "2026-03-01T12:00:00.250+00:00", "host": "web1", "unit": "app.service", "run": "0123abcd",
    "policies": [{"file": "/etc/callfence/app.policy", "sha256": "ab" * 32}],
}  # fmt: skip
OF_EVENT: dict[str, dict[str, Any]] = {
    "start": {
        "mode": "enforce", "best_effort": False, "pid": 7, "parent": 1, "executable": "/bin/app", "command": ["app", "-v"],
        "folder": "/",
    },
    "denied": {
        "call": "ptrace(request=PTRACE_ATTACH)", "arch": "x86_64", "number": 101, "arguments": ["0x10"] * 6,
        "verdict": "denied",
        "action": "errno EPERM", "ungranted": [], "phase": None, "pid": 7, "parent": 1, "command": ["app"], "folder": "/",
        "executable": "/bin/app", "site": "app+0x10", "evidence": [], "count": 1,
        "allow": [{"file": "/etc/callfence/app.policy", "line": "ptrace: allow", "risk": None}],
    },
    "answered": {"rule": [{"file": "app.policy", "line": "getpid: allow"}], "answer": "once", "who": "an operator", "calls": 1},
    "message": {"level": "warning", "message": "files are not enforced"},
    "refused": {"message": "there is no policy", "status": 125, "command": ["app"]},
    "end": {"status": 0, "signal": None, "denied": 0, "lost": 0, "complete": True},
}  # fmt: skip


def record(event: str, sequence: int = 1, **fields: Any) -> dict[str, Any]:
    """A record; `fields` are those that differ from usual ones."""
    return {**COMMON, "event": event, "sequence": sequence, **OF_EVENT[event], **fields}


def line(event: str, sequence: int = 1, **fields: Any) -> bytes:
    return json.dumps(record(event, sequence, **fields)).encode() + b"\n"


def metrics(text: str) -> dict[str, float]:
    """The values of a text file by series: `name{label="value"}`."""
    return {name: float(value) for name, value in re.findall(r"(?m)^(\w+(?:\{.*\})?) (\S+)$", text)}


def total(values: dict[str, float], name: str) -> float:
    """The sum of all series of a metric."""
    return sum(value for series, value in values.items() if series.partition("{")[0] == name)


class Place:
    """A folder with logs, and shippers that run in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "callfence.prom"
        self.errors = folder / "errors"
        self.running: list[subprocess.Popen[bytes]] = []

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "callfence", "ship", "--state", "state", "--every", "0.05", *arguments]

    def once(self, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        settings = {"cwd": self.folder, "capture_output": True, "text": True, "timeout": 60} | options
        return subprocess.run(self.command("--once", *arguments), check=False, **settings)

    def start(self, *arguments: str, under: tuple[str, ...] = (), **options: Any) -> subprocess.Popen[bytes]:
        with open(self.errors, "ab") as errors:
            settings = {"cwd": self.folder, "stderr": errors} | options
            process = subprocess.Popen([*under, *self.command(*arguments)], **settings)
        self.running.append(process)
        return process

    def stop(self, process: subprocess.Popen[bytes], number: int = signal.SIGTERM) -> int:
        process.send_signal(number)
        self.running.remove(process)
        return process.wait(timeout=60)

    def values(self) -> dict[str, float]:
        return metrics(self.file.read_text()) if self.file.exists() else {}

    def wait_for(self, name: str, value: float) -> None:
        """Until a metric's sum has a value."""
        wait_until(lambda: self.file.exists() and total(self.values(), name) == value, 30)

    def said(self) -> str:
        return self.errors.read_text()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    yield made
    for process in made.running:
        process.kill()
        process.wait()


def append(path: Path, data: bytes) -> None:
    """In one write, as `enforce` does."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    assert os.write(descriptor, data) == len(data)
    os.close(descriptor)


def rotate(path: Path) -> None:
    """As logrotate does: log.2 becomes log.3 ..."""
    for number in range(500, 0, -1):
        old = path.with_name(f"{path.name}.{number}")
        if old.exists():
            old.rename(path.with_name(f"{path.name}.{number + 1}"))
    path.rename(path.with_name(f"{path.name}.1"))
