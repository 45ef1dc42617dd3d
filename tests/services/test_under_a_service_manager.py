"""`learn` as the main process of a service: signals while it writes, and what systemd says to the main process."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

LEARN = (sys.executable, "-m", "callfence", "learn", "-q", "-o", "it.policy")


def has_open(process: int, path: Path) -> bool:
    """Whether a process has a file open, as one that waits for its lock does."""
    for descriptor in Path(f"/proc/{process}/fd").iterdir():
        with suppress(FileNotFoundError):  # it is closed meanwhile
            if descriptor.readlink() == path:
                return True
    return False


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_while_it_writes_loses_nothing(tmp_path: Path, signum: signal.Signals) -> None:
    """As when a manager first has the program stop, and then ends what is left."""
    (tmp_path / ".callfence").mkdir()
    path = tmp_path / ".callfence" / ".it.rec.lock"
    lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    with subprocess.Popen([*LEARN, "sh", "-c", "exit 3"], cwd=tmp_path) as learn:
        try:
            while not has_open(learn.pid, path):
                assert learn.poll() is None
                time.sleep(0.01)
            learn.send_signal(signum)
            time.sleep(0.1)
            assert learn.poll() is None
        finally:
            os.close(lock)
        assert learn.wait(60) == 3
    assert (tmp_path / "it.policy").exists()
    assert (tmp_path / ".callfence" / "it.rec").exists()


def test_the_program_is_told_what_systemd_says_to_the_main_process(tmp_path: Path) -> None:
    """sd_listen_fds(3) compares LISTEN_PID with the pid of the process that asks; sd_watchdog_enabled(3) WATCHDOG_PID."""
    script = 'export LISTEN_PID=$$ WATCHDOG_PID=$$ LISTEN_PIDFDID=7; exec "$@"'
    asked = 'echo $$ $LISTEN_PID $WATCHDOG_PID "${LISTEN_PIDFDID-none}" "$LISTEN_FDS"'
    command = ["sh", "-c", script, "-", *LEARN, "sh", "-c", asked]
    ran = subprocess.run(command, cwd=tmp_path, env={**os.environ, "LISTEN_FDS": "2"}, capture_output=True, check=True)
    pid, *found = ran.stdout.decode().split()
    assert found == [pid, pid, "none", "2"]


def test_what_is_said_to_another_process_stays(tmp_path: Path) -> None:
    environment = {**os.environ, "LISTEN_PID": "1", "LISTEN_PIDFDID": "7"}
    command = [*LEARN, "sh", "-c", "echo $LISTEN_PID $LISTEN_PIDFDID"]
    ran = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, check=True)
    assert ran.stdout == b"1 7\n"
