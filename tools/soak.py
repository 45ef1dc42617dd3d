#!/usr/bin/env python3
"""Random process trees with signals, threads and execs under learn, for as long as asked.

    tools/soak.py [SECONDS] [--seed N]

Two hours by default.  Each round runs one seeded tree, of which the same seed makes the same one.  A round fails if it
hangs, if its exit status is not that of the tree, if fewer calls are recorded than its tasks say they have made, or if
a process is left.  In every other round known calls run without a stop, so that of each call one must be recorded.  At the end
the memory of learn must not have grown with the rounds' calls.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROUND_LIMIT = 600
"""Seconds after which a round counts as hung: a plain one takes a few, one on a machine with a load of 200 some hundred."""
SLACK_KIB = 40_000
"""How much larger the largest learn may be than the smallest: their trees differ."""
TREE = Path(__file__).parents[1] / "tests/kernel/programs/tree.c"
GETPPID = 110


def build(folder: Path) -> Path:
    target = folder / "tree"
    subprocess.run(["gcc", "-O1", "-pthread", "-o", target, TREE], check=True)
    return target


def left_over(marker: str) -> list[str]:
    """Processes that were started by a round: they have its marker in their environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if marker.encode() in path.read_bytes() and int(path.parent.name) != os.getpid():
                found.append(path.parent.name)
        except OSError:
            continue
    return found


def one_round(program: Path, folder: Path, seed: int) -> tuple[str, int]:
    """What was wrong, or '', and the peak memory of learn in KiB."""
    policy, counts, marker = folder / f"{seed}.policy", folder / f"{seed}.counts", f"SOAK_ROUND={seed}-{os.getpid()}"
    name, value = marker.split("=")
    how = "--every-call" if seed % 2 else f"--late-after={seed % 50}"
    command = [sys.executable, "-m", "callfence", "learn", "-q", how, "-o", policy, program, str(seed), counts]
    process = subprocess.Popen(command, env=os.environ | {name: value}, stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + ROUND_LIMIT
    while True:
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        if pid:
            process.returncode = os.waitstatus_to_exitcode(status)
            break
        if time.monotonic() > end:
            process.kill()
            process.communicate()
            return "it hangs", 0
        time.sleep(0.01)
    said = process.stderr.read() if process.stderr else ""
    if process.returncode != seed % 100:
        return f"status {process.returncode} instead of {seed % 100}: {said}", 0
    if left := left_over(marker):
        return f"processes are left: {' '.join(left)}", 0
    made = os.stat(counts).st_size  # a byte a call
    rows = [json.loads(line) for line in (folder / ".callfence" / f"{seed}.rec").read_text().splitlines()]
    seen = sum(sum(row["counts"]) for row in rows if row.get("number") == GETPPID)
    if seen < (made if seed % 2 else min(made, 1)):
        return f"{made} calls were made, {seen} recorded", 0
    return "", usage.ru_maxrss


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("seconds", type=float, nargs="?", default=7200)
    parser.add_argument("--seed", type=int, default=None, help="of the first round")
    options = parser.parse_args()
    seed = random.randrange(1 << 30) if options.seed is None else options.seed
    end, rounds, memory = time.monotonic() + options.seconds, 0, []
    with tempfile.TemporaryDirectory(prefix="soak-") as temporary:
        folder = Path(temporary)
        program = build(folder)
        while not rounds or time.monotonic() < end:
            wrong, peak = one_round(program, folder, seed + rounds)
            if wrong:
                print(f"seed {seed + rounds}: {wrong}")
                return 1
            memory.append(peak)
            rounds += 1
            for path in (*folder.glob("*.policy"), *folder.glob("*.counts"), *folder.glob(".callfence/*")):
                path.unlink()
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"{rounds} rounds from seed {seed}: learn took {min(memory)} to {max(memory)} KiB, this script {own} KiB")
    if max(memory) - min(memory) > SLACK_KIB:
        print("its memory is not flat")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
