"""Measures what docs/phases-measured.md says of reloads: reloads.py [ROUNDS], 10 by default; as any user.

It needs nginx and curl.  nginx, which passes requests on, is learned with `--phases --files` in one run, whose workers do less
after a reload than before; then it is enforced, and reloaded in each round while 20 clients make 200 requests.  It ends with 1,
and says why, if a request is lost or a worker that has begun to serve is traced.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from phases import free_port
from servers import BIN, denied, run

from callfence.policygen.language.document import parse_file


def main(rounds: int) -> None:
    with tempfile.TemporaryDirectory(prefix="callfence-reloads-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        settings = {"PORT": str(free_port(20000)), "UPSTREAM": str(free_port(21000)), "ROUNDS": str(rounds)}
        run("nginx", "roles", folder, BIN / "learn", "-q", "--phases", "--files", "--", **settings)
        run("nginx", "reloads", folder, BIN / "enforce", "--log", log := folder / "denied", "--", **settings)
        (phase,) = parse_file(folder / "nginx.policy").policy.phases
        lacking = denied(log, "nginx", ["nginx"])["nginx"]
        print(f"{phase.name} after {', '.join(phase.triggers)}: {200 * rounds:,} requests in {rounds} reloads: 0 lost")
        print(f"denied: {lacking}; workers traced: 0")


if __name__ == "__main__":
    main(int(sys.argv[1]) if sys.argv[1:] else 10)
