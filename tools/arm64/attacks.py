"""The attacks of tests/programs/attacks/victim.c under policies that were learned on another machine and carried:

    attacks.py learn FOLDER ARCH    here: learns the benign run into FOLDER, with an implied set and exactly, carried to ARCH
    attacks.py enforce FOLDER       on a machine of ARCH: runs the benign work and each attack under these policies

Prints what was not as it should be, and a count; ends with 1 then.  For docs/architectures.md.
"""

from __future__ import annotations

import errno
import re
import subprocess
import sys
import tempfile
from pathlib import Path

BIN = Path(sys.executable).parent
SOURCE = Path(__file__).parents[2] / "tests" / "programs" / "attacks" / "victim.c"
POLICIES = {"implied": (), "exact": ("--exact",)}
BENIGN = "benign work done\n"


def run(folder: str | Path, *command: str | Path) -> tuple[int, str, str]:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace", timeout=300, check=False)
    return done.returncode, done.stdout, done.stderr


def build(folder: str) -> None:
    subprocess.run(["cc", "-w", "-pthread", "-o", "victim", SOURCE], cwd=folder, check=True)


def learn(folder: Path, arch: str) -> int:
    with tempfile.TemporaryDirectory() as place:
        build(place)
        for name, options in POLICIES.items():
            policy = folder / f"{name}.policy"
            subprocess.run([BIN / "learn", "-q", *options, "-o", policy, "--", "./victim", "benign"], cwd=place, check=True)
            subprocess.run([BIN / "callfence", "carry", policy, "--to", arch], check=True)
    return 0


def enforce(folder: Path) -> int:
    wrong = count = 0
    with tempfile.TemporaryDirectory() as place:
        build(place)
        names = run(place, "./victim", "list")[1].split()
        for name in POLICIES:
            enforced = (BIN / "enforce", "-p", folder / f"{name}.policy", "--", "./victim")
            status, output, errors = run(place, *enforced, "benign")
            if (status, output) != (0, BENIGN):
                wrong += 1
                print(f"{name}: no attack was tried, since the benign run ended with {status}: {errors}", flush=True)
                continue
            for attack in names:
                status, output, _ = run(place, *enforced, attack)
                answer = re.search(rf"^attack {attack}: (-?\d+)$", output, re.MULTILINE)
                count += 1
                if not output.startswith(BENIGN) or (answer and int(answer[1]) != -errno.ENOSYS):
                    wrong += 1
                    print(f"{name}: {attack} ended with {status}: {output!r}", flush=True)
    print(f"{count} attacks under {len(POLICIES)} policies, {wrong} wrong")
    return bool(wrong)


if __name__ == "__main__":
    mode, where, *more = sys.argv[1:]
    sys.exit(learn(Path(where).resolve(), *more) if mode == "learn" else enforce(Path(where).resolve()))
