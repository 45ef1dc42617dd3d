"""The attacks that depend on timing, again and again: `storm_attacks.py ROUNDS`, half of the rounds beside busy processors.

They are programs of tests/enforcer/attacks: grab.c and share.c take the listener of a process that enters its phase, lost.c
has parents die while they fork.  A round is wrong if the attack succeeds, or does not end.  Ends with 1 if one was.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from storm import ENFORCE, helpers

sys.path.append(str(Path(__file__).parents[2] / "tests" / "support"))
from calls import for_this_machine

if TYPE_CHECKING:
    from collections.abc import Iterator

ATTACKS = Path(__file__).parents[2] / "tests" / "enforcer" / "attacks"
TIMEOUT = 60
"""Seconds for a round, and for what it leaves behind."""


class Attack(NamedTuple):
    program: str
    policy: str
    arguments: tuple[str, ...]
    held: str
    """In the output of a program that failed, whatever else it prints."""
    lost: str
    """In that of one that succeeded; a folder of the name `made` or `lost` says so, too."""
    added: str = ""
    """To the policy."""
    at_once: int = 1
    """Rounds in one start: the argument `ROUNDS`."""


TABLE = (
    Attack("listener/grab", "listener/grab", ("4", "4", "made"), "", "RAN"),
    Attack("listener/share", "listener/grab", ("made",), "missed\n", "GRABBED", "kill: allow\n"),
    *(
        Attack("phases/lost", f"phases/{policy}", (mode, "ROUNDS"), "held after", "RAN", at_once=50)
        for policy in ("lost", "lost2", "hang")
        for mode in ("1", "2")
    ),
)


@contextlib.contextmanager
def load() -> Iterator[None]:
    """A busy loop on each processor."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in os.sched_getaffinity(0)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def wrong(folder: Path, attack: Attack, rounds: int, mark: str) -> str:
    """What was wrong with so many rounds in one start, or ''."""
    program = "./program"
    arguments = [word.replace("ROUNDS", str(rounds)) for word in attack.arguments]
    command = [ENFORCE, "-p", f"{Path(attack.policy).name}.policy", "--", program, *arguments, mark]
    settings = {"cwd": folder, "text": True, "errors": "replace"}
    try:
        done = subprocess.run(command, check=False, capture_output=True, timeout=TIMEOUT, **settings)  # type: ignore[call-overload]
    except subprocess.TimeoutExpired as error:
        for pid in helpers(mark):
            os.kill(pid, signal.SIGKILL)
        return f"it did not end: {error.stdout!r} {error.stderr!r}"
    until = time.monotonic() + TIMEOUT
    while (rest := helpers(mark)) and time.monotonic() < until:
        time.sleep(0.002)
    if rest:
        for pid in rest:
            os.kill(pid, signal.SIGKILL)
        return f"left behind: {rest}"
    is_made = any((folder / name).exists() for name in ("made", "lost"))
    if attack.lost in done.stdout or attack.held not in done.stdout or is_made or done.returncode not in (0, 1, -9, -31):
        return f"status {done.returncode}, {done.stdout!r}, {done.stderr[-1000:]!r}"
    return ""


def stormed(attack: Attack, rounds: int, seconds: float) -> tuple[int, int]:
    """How many rounds there were, and how many starts were wrong; prints these, and a line with numbers."""
    name = f"{attack.program} {' '.join(attack.arguments[:-1])} with {attack.policy}.policy"
    count = done = 0
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        source = ATTACKS / f"{attack.program}.c"
        subprocess.run(["cc", "-w", "-pthread", "-o", folder / "program", source], check=True)
        text = (ATTACKS / f"{attack.policy}.policy").read_text()
        (folder / f"{Path(attack.policy).name}.policy").write_text(for_this_machine(text + attack.added))
        for is_busy in (False, True):
            with load() if is_busy else contextlib.nullcontext():
                until = began + seconds * (1 if is_busy else 0.5)
                aim = rounds if is_busy else rounds // 2
                while done < aim and time.monotonic() < until:
                    some = min(attack.at_once, aim - done)
                    problem = wrong(folder, attack, some, f"storm-{os.getpid()}")
                    done += some
                    if problem:
                        count += 1
                        print(f"{name}, round {done}: {problem}", flush=True)
                        for made in ("made", "lost"):
                            shutil.rmtree(folder / made, ignore_errors=True)
    print(f"{name}: {done} rounds, {count} starts wrong, in {time.monotonic() - began:.0f} s", flush=True)
    return done, count


def main() -> int:
    parser = argparse.ArgumentParser(description="attacks that depend on timing, again and again")
    parser.add_argument("rounds", type=int)
    parser.add_argument("--seconds", type=float, default=1800, help="for each attack; then it has fewer rounds")
    options = parser.parse_args()
    results = [stormed(attack, options.rounds, options.seconds) for attack in TABLE]
    count = sum(starts for _, starts in results)
    print(f"{sum(rounds for rounds, _ in results)} rounds of {len(TABLE)} attacks, {count} wrong")
    return bool(count)


if __name__ == "__main__":
    sys.exit(main())
