"""Measures what docs/learning-a-server.md says of servers: servers.py [SERVER ...].

It needs nginx, redis-server, gunicorn with Flask, node and postgres, or those that are named.  As root, it runs postgres as the
user of that name, who must be able to read this Python.  It prints the table, and each denied call on standard error.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

SCRIPTS = Path(__file__).resolve().parents[2] / "tests" / "programs" / "servers"
BIN = Path(sys.executable).parent
SERVERS = ("postgres", "nginx", "gunicorn", "redis", "node")
MODES = {"--exact": ("--exact",), "implied 1": ()}
TABLE = """\
| policy | learned from | runs | lines: `--exact` | `implied 1` | denied: `--exact` | `implied 1` |
|---|---|--:|--:|--:|--:|--:|"""


def main(servers: Sequence[str]) -> None:
    print(TABLE)
    with tempfile.TemporaryDirectory(prefix="callfence-servers-") as name:
        Path(name).chmod(0o755)
        for server in servers:
            measure(server, Path(name))


def measure(server: str, folder: Path) -> None:
    """Print two rows for each policy of a server."""
    for part, name in (("once", "one plain run"), ("recipe", "the recipe")):
        lines, denials = list[dict[str, int]](), list[dict[str, int]]()
        for mode, options in MODES.items():
            work = folder / f"{server} {part} {mode}".replace(" ", "-")
            run(server, part, work, BIN / "learn", "-q", *options, "--")
            starts = Counter((work / "starts").read_text().split("\n"))
            policies = sorted(work.glob("*.policy"))
            lines.append({policy.stem: len(policy.read_text().splitlines()) for policy in policies})
            audit = ["--audit"] * (part == "once")
            run(server, "everything", work, BIN / "enforce", "--log", log := work / "denied", *audit, "--")
            denials.append(denied(log, f"{server}, {part}, {mode}", [policy.stem for policy in policies]))
        for policy in lines[0]:
            cells = [policy, name, starts[policy], *(counts[policy] for counts in (*lines, *denials))]
            print(f"| {' | '.join(map(str, cells))} |", flush=True)


def run(server: str, part: str, folder: Path, *command: str | Path, **settings: str) -> None:
    """Run a part of a server's script, with `settings` in its environment; as the user postgres if it refuses to be root."""
    folder.mkdir(exist_ok=True)
    become: tuple[str, ...] = ()
    if server == "postgres" and os.geteuid() == 0:
        shutil.chown(folder, "postgres", "postgres")
        become = ("setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups")
    path = f"{BIN}:{os.environ['PATH']}:/usr/sbin"
    environment = {"PATH": path, "HOME": str(folder), "LC_ALL": "C.UTF-8", "PORT": port(), "UPSTREAM": port()} | settings
    words = [*become, "bash", SCRIPTS / f"{server}.sh", part, *command]
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        output = (folder / "out").read_text()[-2000:]
        sys.exit(f"{server}, {part}, {command[0]}: {done.stdout}{done.stderr}{output}")
    if "--log" in command:
        complete(folder / command[command.index("--log") + 1])


def complete(log: Path) -> None:
    """Wait until the log has the end of each start; if removed before, its file is made again."""
    deadline = time.monotonic() + 60
    while (text := log.read_text()).count('"event": "end"') < text.count('"event": "start"'):
        if time.monotonic() > deadline:
            sys.exit(f"{log}: a start without an end")
        time.sleep(0.05)


def port() -> str:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        return str(server.getsockname()[1])


def denied(log: Path, what: str, policies: Sequence[str]) -> dict[str, int]:
    """How many different lines each policy lacks, by a log of violations; they are told on standard error."""
    lacking: dict[str, dict[str, str]] = {policy: {} for policy in policies}
    for violation in map(json.loads, log.read_text().splitlines()):
        for advice in violation.get("allow", ()):  # other records are messages
            lacking[Path(advice["file"]).stem].setdefault(advice["line"], violation["call"])
    for policy, calls in lacking.items():
        for line, call in calls.items():
            print(f"{what}: {policy}: {call}\n    {line}", file=sys.stderr)
    return {policy: len(calls) for policy, calls in lacking.items()}


if __name__ == "__main__":
    main(sys.argv[1:] or SERVERS)
