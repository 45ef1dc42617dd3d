"""The races of tests/enforcer/attacks/hosts/attack.c with many rounds, as root: `storm_hosts.py ROUNDS`, by default until they
have made a million calls.

Addresses, messages, descriptors and links change while the helper reads them.  An attack is wrong if a peer that is forbidden
receives anything, or if the allowed one is not reached afterwards.  Ends with 1 if one was.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from storm import ENFORCE

HERE = Path(__file__).parent.parent.parent / "tests" / "enforcer" / "attacks" / "hosts"
RACES = {
    "race_connect": 1.0, "race_sendto": 1.0, "race_sendmsg": 1.0, "race_sendmmsg": 1.0, "race_descriptor": 4.0,
    "look_race": 1.0, "clone_memory": 1 / 3, "clone_all": 1 / 3,
    "race_connect_tcp": 0.1, "race_symlink": 0.1, "address_form": 0.5,
}  # fmt: skip
"""Calls in a round, roughly."""
POLICY = """default allow
tcp connect 10.77.0.1: 7000
tcp connect 10.77.0.3: 443
udp send 10.77.0.1: 7000
unix connect {}/allowed/stream
"""
ALLOWED = ("10.77.0.1", "allowed")


def stormed(folder: Path, under: list[str], race: str) -> str:
    """What was wrong with an attack, or ''."""
    arrivals = folder / "arrivals"
    arrivals.write_text("")
    command = [*under, ENFORCE, "-p", "storm.policy", "./attack", race]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    time.sleep(0.5)
    lines = arrivals.read_text().splitlines()
    if wrong := [line for line in lines if line.split()[1] not in ALLOWED]:
        return f"{len(wrong)} arrived: {wrong[0]}"
    if f"tcp 10.77.0.1 <{race}.ok>" not in lines or done.returncode or "status" in done.stdout:
        return f"status {done.returncode}, {done.stdout[-500:]!r}, {done.stderr[-1000:]!r}"
    return ""


def main() -> int:
    parser = argparse.ArgumentParser(description="races about addresses, again and again")
    parser.add_argument("rounds", type=int, nargs="?", default=int(1e6 / sum(RACES.values())))
    parser.add_argument("races", nargs="*", default=[*RACES], metavar="RACE", help=", ".join(RACES))
    options = parser.parse_args()
    if os.geteuid() != 0:
        print("races about addresses need a network of their own, which takes root")
        return 0
    rounds, races = options.rounds, {race: RACES[race] for race in options.races}
    count = 0
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        build = ["cc", "-O1", "-w", "-pthread", f"-DROUNDS={rounds}", "-o", folder / "attack", HERE / "attack.c"]
        subprocess.run(build, check=True)
        (folder / "storm.policy").write_text(POLICY.format(folder))
        command = [sys.executable, HERE / "network.py", folder]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as network:
            assert network.stdout
            if network.stdout.readline() != "ready\n":
                return 1
            under = ["nsenter", f"--target={network.pid}", "--net", "--mount", f"--wdns={folder}"]
            for race, calls in races.items():
                began = time.monotonic()
                problem = stormed(folder, under, race)
                count += bool(problem)
                took = f"{rounds * calls:.0f} calls in {time.monotonic() - began:.0f} s"
                print(f"{race}: {took}: {problem or 'none wrong'}", flush=True)
            network.communicate()
    print(f"{rounds * sum(races.values()):.0f} calls in {len(races)} races, {count} races wrong")
    return bool(count)


if __name__ == "__main__":
    sys.exit(main())
