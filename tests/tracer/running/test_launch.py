"""Why a program cannot be started, what of the environment is for it, and whose files are of 32 bits."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from callfence.tracer.errors import StartError, TracerError
from callfence.tracer.running import launch
from callfence.tracer.running.launch import Dispositions, Launch, Program

FILTER, PREPARE = "cannot install the recording filter", "the program cannot be started"


def checked(text: bytes) -> str:
    """What `check` raises for what the child has written."""
    made = Launch.__new__(Launch)
    made._failure, writer = os.pipe()
    os.write(writer, text)
    os.close(writer)
    try:
        made.check()
    except (StartError, TracerError) as error:
        return f"{type(error).__name__} {error.call} {error.errno}: {error}"
    return ""


@pytest.mark.parametrize(
    ("stage", "error", "expected"),
    [
        ("execve", OSError(errno.ENOENT, "x"), f"StartError execve {errno.ENOENT}: {errno.ENOENT}"),
        ("seize", OSError(errno.EPERM, "x"), f"TracerError seize 1: {FILTER}: seize: Operation not permitted"),
        ("seccomp", OSError(errno.EINVAL, "x"), f"TracerError seccomp 22: {FILTER}: seccomp: Invalid argument"),
        ("seccomp", OSError("no number"), f"TracerError seccomp 22: {FILTER}: seccomp: Invalid argument"),
        ("prepare", MemoryError(), f"TracerError prepare 12: {PREPARE}: prepare: Cannot allocate memory"),
        ("prepare", ValueError("two words"), f"TracerError prepare 0: {PREPARE}: prepare: ValueError: two words"),
        ("prepare", KeyboardInterrupt(), f"TracerError prepare 0: {PREPARE}: prepare: KeyboardInterrupt"),
    ],
)  # fmt: skip
def test_why_it_cannot_be_started(stage: str, error: BaseException, expected: str) -> None:
    assert checked(launch._reason(stage, error).encode()) == expected


def test_what_runs_has_no_reason() -> None:
    assert checked(b"") == ""


def test_a_limit_of_processes_is_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def fork(*_: object) -> int:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(launch, "fork", fork)
    with pytest.raises(TracerError, match="no process can be started: the limit of processes"):
        Launch(Program(b"true", (), ()), Dispositions.__new__(Dispositions), b"")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([b"LISTEN_PID=%(parent)d", b"LISTEN_FDS=1", b"LISTEN_PIDFDID=7"], [b"LISTEN_PID=%(own)d", b"LISTEN_FDS=1"]),
        ([b"WATCHDOG_PID=%(parent)d", b"A=b"], [b"WATCHDOG_PID=%(own)d", b"A=b"]),
        ([b"LISTEN_PID=1%(parent)d", b"LISTEN_PIDFDID=7"], [b"LISTEN_PID=1%(parent)d", b"LISTEN_PIDFDID=7"]),
        ([b"A=b", b"A=c"], [b"A=b", b"A=c"]),
    ],
)
def test_what_systemd_says_to_this_process_is_for_the_program(given: list[bytes], expected: list[bytes]) -> None:
    ids = {b"parent": os.getppid(), b"own": os.getpid()}
    assert launch._of_child([entry % ids for entry in given]) == [entry % ids for entry in expected]


@pytest.mark.parametrize(
    ("content", "wide"), [(b"\x7fELF\x02", True), (b"\x7fELF\x01", False), (b"#!/bin/sh\n", True), (b"", True), (None, False)]
)
def test_whose_program_may_be_of_64_bits(tmp_path: Path, content: bytes | None, wide: bool) -> None:
    file = tmp_path / "file"
    if content is not None:
        file.write_bytes(content)
    assert launch.is_64_bit(os.fsencode(file)) is wide
