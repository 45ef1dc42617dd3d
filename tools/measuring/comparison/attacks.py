"""The ten attacks of hostile.c: what each is aimed at, and whether it had its effect outside of the program."""

from __future__ import annotations

import contextlib
import select
import socket
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

HOME = Path("/home/user")
KEY = "a key that nobody else may read"
PORT = 17777
WORD = b"attack"
ATTACKS = {
    "read-key": "read `~/.ssh/id_ed25519`",
    "write-outside": "append to `~/.bashrc`",
    "connect": "connect to another port of 127.0.0.1",
    "abstract-socket": "connect to another program's abstract unix socket",
    "ptrace": "trace another process of the user",
    "kill": "kill another process of the user",
    "execute": "write a program into the work folder, and execute it",
    "io_uring": "set up an io_uring",
    "user-namespace": "create a user namespace",
    "add-key": "add a key to the session's keyring",
}


class Target:
    """What one attack is aimed at; `argument` is its TARGET.  `hit(output)` is whether the attack had its effect."""

    def __init__(self, attack: str, as_user: list[str]) -> None:
        self.argument = "0"
        self._end: Callable[[], object] = lambda: None
        self.hit: Callable[[str], bool] = lambda output: f"attack {attack}: done" in output
        if attack == "read-key":
            self.hit = lambda output: KEY in output
        elif attack == "write-outside":
            (HOME / ".bashrc").write_text("")
            self.hit = lambda _: (HOME / ".bashrc").read_bytes() != b""
        elif attack == "execute":
            self.hit = lambda output: "the dropped program runs" in output
        elif attack in ("ptrace", "kill"):
            process = subprocess.Popen([*as_user, "sleep", "1000"])
            while Path(f"/proc/{process.pid}/comm").read_text() != "sleep\n":  # before, it may still be root's
                time.sleep(0.01)
            self.argument, self._end = str(process.pid), lambda: _stop(process)
            if attack == "kill":
                self.hit = lambda _: _ends(process)
        elif attack in ("connect", "abstract-socket"):
            tcp = attack == "connect"
            listener = socket.socket(socket.AF_INET if tcp else socket.AF_UNIX)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("127.0.0.1", PORT) if tcp else "\0callfence-comparison")
            listener.listen()
            self.argument, self._end, self.hit = str(PORT), listener.close, lambda _: _received(listener)

    def close(self) -> None:
        self._end()


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


def _ends(process: subprocess.Popen[bytes]) -> bool:
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(1)
    return process.returncode is not None


def _received(listener: socket.socket) -> bool:
    """Whether somebody who has connected has sent the word; a connection without it counts for nothing."""
    if not select.select([listener], [], [], 0)[0]:
        return False
    connection, _ = listener.accept()
    with connection:
        return connection.recv(len(WORD)) == WORD
