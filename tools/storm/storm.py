"""A storm on the helper: `storm.py ROUNDS` starts a program that makes denied calls while signals hit its helper.

Each round sends STOP, CONT, TRAP, ALRM or KILL to the helper or its stand-in at random moments.  No denied call may run, and
none may go without a report, unless the reports say that a helper was replaced.  Prints what was wrong, and ends with 1 then.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ENFORCE = Path(sys.executable).parent / "enforce"
CALLS = 40
SIGNALS = (signal.SIGSTOP, signal.SIGCONT, signal.SIGTRAP, signal.SIGALRM, signal.SIGKILL)
POLICY = "default errno EACCES\n" + "".join(f"{name}: allow\n" for name in ("read", "write", "exit_group", "nanosleep"))
PROGRAM = r"""
#define _GNU_SOURCE
#include <errno.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
int main(void)
{
    struct timespec moment = {0, 500000};
    for (int i = 0; i < %d; i++) {
        char letter = syscall(SYS_getppid) >= 0 ? 'R' : errno == EACCES ? 'd' : errno == ENOSYS ? 'n' : '?';
        if (syscall(SYS_write, 1, &letter, 1) != 1)
            return 1;
        syscall(SYS_nanosleep, &moment, 0);
    }
    syscall(SYS_exit_group, 0);
}
"""


def helpers(mark: str) -> list[int]:
    """The processes that keep the command line of `enforce`: the helper and its stand-in, or the program before its execve."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if mark.encode() in Path(f"/proc/{name}/cmdline").read_bytes().split(b"\0"):
                found.append(int(name))
    return found


def one(folder: Path, chance: random.Random, number: int) -> str:
    """What was wrong in one round, or ''."""
    mark = f"storm-{os.getpid()}-{number}"
    command = [ENFORCE, "-p", "storm.policy", "--", "./storm", mark]
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    killed = 0
    while process.poll() is None and killed < 3:
        time.sleep(chance.random() * 0.03)
        victims = [pid for pid in helpers(mark) if pid != process.pid]
        if not victims:
            continue
        number = chance.choice(SIGNALS)
        victim = chance.choice(victims)
        killed += number == signal.SIGKILL
        with contextlib.suppress(OSError):
            os.kill(victim, number)
        if number == signal.SIGSTOP:
            time.sleep(chance.random() * 0.01)
            with contextlib.suppress(OSError):
                os.kill(victim, signal.SIGCONT)
    for pid in helpers(mark):
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGCONT)
    output, errors = process.communicate(timeout=60)
    if "R" in output or "?" in output:
        return f"a denied call ran: {output!r}"
    if process.returncode == 0 and len(output) != CALLS:
        return f"{len(output)} calls were answered"
    if output and "denied getppid()" not in errors:
        return f"no report: {output!r} {errors!r}"
    counted = f"denied {CALLS} times" in errors
    if process.returncode == 0 and not counted and "replaced" not in errors:
        return f"calls without a report: {output!r} {errors!r}"
    return f"a call was answered by nobody: {output!r} {errors!r}" if "n" in output else ""


def main(rounds: int) -> int:
    wrong = 0
    chance = random.Random(7)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "storm.policy").write_text(POLICY)
        (folder / "storm.c").write_text(PROGRAM % CALLS)
        subprocess.run(["cc", "-O1", "-static", "-o", folder / "storm", folder / "storm.c"], check=True)
        for number in range(rounds):
            if problem := one(folder, chance, number):
                wrong += 1
                print(f"round {number}: {problem}", flush=True)
    print(f"{rounds} rounds, {wrong} wrong, in {time.monotonic() - began:.0f} s")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
