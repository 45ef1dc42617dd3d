"""End a service that `learn` runs: systemd calls this before it kills what is left of the unit (ExecStop= of the drop-in).

A program that tells systemd its own pid (MAINPID=, sd_notify(3)) becomes the main process in place of `learn`.  systemd would
then send the signal for the end to the program alone, wait for nobody, since the program is not its child, and kill `learn`
before that has written what it learned.
"""

from __future__ import annotations

import os
import select
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path


def end(output: str, name: str, main: int) -> None:
    """Send a signal to the unit's `learn`, which passes it on, and wait until that has ended; do nothing if it is the main
    process, which systemd ends itself.

    `output`: the file that it writes the policy to.  `name`: the signal that ends the unit's program, as KillSignal= has it.
    `main`: the main process as systemd knows it, 0 if that has ended."""
    number = int(name) if name.isdigit() else getattr(signal, f"SIG{name.removeprefix('SIG')}", signal.SIGTERM)
    for learner, pidfd in _learners(output):
        if learner != main:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, number)
            select.select([pidfd], [], [])  # TimeoutStopSec= ends a program that does not end


def _learners(output: str) -> Iterator[tuple[int, int]]:
    """Yield the ids and pidfds of the processes in this unit that write a policy to `output`."""
    own = Path("/proc/self/cgroup").read_text().replace("/.control", "")
    for folder in Path("/proc").glob("[0-9]*"):
        pid = int(folder.name)
        with suppress(OSError):  # it has ended
            pidfd = os.pidfd_open(pid)  # first: what is read below is of this process, or of none
            words = (folder / "cmdline").read_bytes().split(b"\0")
            if pid != os.getpid() and os.fsencode(output) in words and (folder / "cgroup").read_text() == own:
                yield pid, pidfd
            else:
                os.close(pidfd)


if __name__ == "__main__":
    end(sys.argv[1], sys.argv[2], int(sys.argv[3] or 0))
