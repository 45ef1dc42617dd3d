"""What a recording says of how a program was started."""

from __future__ import annotations

import os
import pty
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from callfence.learning.watch import circumstances
from callfence.policygen.recording import recording_file


def started(folder: Path, shell: str = "", **streams: object) -> tuple[str, ...]:
    """What learn recorded, with those streams, or with what a shell's redirections say."""
    learn = f"{sys.executable} -m callfence learn -q -o it.policy true {shell}"
    how = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL} | streams
    environment = os.environ | {"LC_ALL": "", "LC_CTYPE": "C.UTF-8", "LANG": "de_DE"}
    subprocess.run(["sh", "-c", learn], cwd=folder, env=environment, timeout=60, check=True, **how)  # type: ignore[call-overload]
    return recording_file.load(folder / ".callfence" / "it.rec").runs[0].circumstances


def test_streams_user_and_locale(tmp_path: Path) -> None:
    controller, terminal = pty.openpty()
    mine, other = socket.socketpair()
    with mine, other, (tmp_path / "out").open("w") as out:
        found = started(tmp_path, stdin=terminal, stdout=out, stderr=mine)
    os.close(controller)
    os.close(terminal)
    assert found == ("a terminal", "a file", "a socket", "user" if os.geteuid() else "root", "C.UTF-8")


def test_closed_streams_and_pipes(tmp_path: Path) -> None:
    found = started(tmp_path, "<&- | cat", stderr=subprocess.DEVNULL)
    assert found[:3] == ("closed", "a pipe", "/dev/null")


def test_a_stream_that_the_program_does_not_inherit_is_closed() -> None:
    code = "import os; os.close(0); os.open('/etc/passwd', os.O_RDONLY); "
    code += "from callfence.learning.watch import circumstances; print(circumstances([]).input)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "closed\n"


@pytest.mark.parametrize(
    ("environment", "locale"),
    [
        ([], "C"),
        ([b"LANG=de_DE.UTF-8"], "de_DE.UTF-8"),
        ([b"LANG=de_DE", b"LC_CTYPE=", b"LC_ALL=C"], "C"),
        ([b"LANGUAGE=de", b"LANG=\xff"], "\udcff"),
    ],
)
def test_locale(environment: list[bytes], locale: str) -> None:
    assert circumstances(environment).locale == locale
