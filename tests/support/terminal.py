"""A terminal with a program in it, driven by a test."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import termios
import time


def _name(pid):
    """The name of a process; "" if there is none."""
    try:
        with open(f"/proc/{pid}/comm") as file:
            return file.read()
    except OSError:
        return ""


class Terminal:
    """`command` as the leader of a session of its own on a new terminal."""

    def __init__(self, command, folder):
        self._master, slave = pty.openpty()
        attributes = termios.tcgetattr(slave)
        attributes[3] &= ~termios.ECHO
        termios.tcsetattr(slave, termios.TCSANOW, attributes)
        environment = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
        environment |= {"PS1": "READY> ", "TERM": "dumb", "HOME": str(folder)}
        # setsid(1) -c makes the terminal the session's: nothing forks inside pytest
        self._process = subprocess.Popen(
            ["setsid", "-c", *command], stdin=slave, stdout=slave, stderr=slave, cwd=folder, env=environment
        )
        os.close(slave)
        self._seen = ""

    def key(self, text):
        """Press a control key, after the program that was started has had time to read the terminal."""
        time.sleep(0.2)
        self.send(text)

    def send(self, text):
        os.write(self._master, text if isinstance(text, bytes) else text.encode())

    def expect(self, pattern, seconds=60):
        """The match, and forgets what was before its end."""
        end = time.monotonic() + seconds
        while not (found := re.search(pattern, self._seen)):
            ready = select.select([self._master], [], [], max(0, end - time.monotonic()))[0]
            assert ready, f"no {pattern!r} in {self._seen!r}"
            try:
                self._seen += os.read(self._master, 4096).decode(errors="replace")
            except OSError:
                raise AssertionError(f"ended without {pattern!r}: {self._seen!r}") from None
        self._seen = self._seen[found.end() :]
        return found

    def prompt(self):
        """Wait for the shell's prompt."""
        self.expect("READY> ")
        time.sleep(0.1)  # until it reads: what comes before may be thrown away

    def command(self, text):
        """Have the shell run a program, and wait until that is in the foreground, and no longer the shell's own code."""
        shell = os.tcgetpgrp(self._master)
        self.send(f"{text}\n")
        end = time.monotonic() + 60
        while (group := os.tcgetpgrp(self._master)) == shell or _name(group) in ("", _name(shell)):
            assert time.monotonic() < end, f"{text!r} is not in the foreground"
            time.sleep(0.01)
        time.sleep(0.05)

    def wait(self, seconds=60):
        """The exit status."""
        end = time.monotonic() + seconds
        while self._process.poll() is None and time.monotonic() < end:
            if select.select([self._master], [], [], 0.05)[0]:
                try:
                    self._seen += os.read(self._master, 4096).decode(errors="replace")
                except OSError:
                    break
        return self._process.wait(max(0.1, end - time.monotonic()))

    def rest(self):
        """What came since the last match, when the program has ended."""
        while select.select([self._master], [], [], 0.1)[0]:
            try:
                self._seen += os.read(self._master, 4096).decode(errors="replace")
            except OSError:
                break
        return self._seen

    def close(self):
        if self._master == -1:
            return
        os.close(self._master)  # hangs up
        self._master = -1
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
