"""Learns what the start policies (docs/start-policies.md) are made from: start_policies.py FOLDER [NAME ...].

FOLDER/NAME.policy is what wide runs of each tool need, learned from nothing; what these runs need beyond the start policy NAME
is printed, for a person to judge.  Nothing changes the start policies themselves.  A tool that is not installed is left out."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from callfence.learning.prepare import FOLDER, names

if TYPE_CHECKING:
    from collections.abc import Sequence

STARTS = Path(__file__).resolve().parents[2] / "tests" / "programs" / "starts"
LEARN = Path(sys.executable).parent / "learn"
PATH = "/usr/local/bin:/usr/bin:/bin"
COMMANDS = {"python-agent": [("python3", "agent.py")], "mcp-server": [("python3", "server.py"), ("node", "server.mjs")]}
"""What is run, where it is not `sh NAME.sh`."""
CALLS = "".join(
    f'{{"method": "tools/call", "id": 1, "params": {{"name": "{name}", "arguments": {{"path": "{path}"}}}}}}\n'
    for name, path in (("list", "."), ("read", "agent.py"), ("read", "absent"))
)
"""What `mcp-server` is asked."""
CACHES = (".cache/pip", ".npm/_cacache", ".npm/_logs", ".cargo/registry", ".cargo/git")


def main(folder: Path, chosen: Sequence[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in chosen or names():
        tool = {"mcp-server": "node", "python-agent": "git", "shell": "bash", "pip": "python3"}.get(name, name)
        if tool != "pytest" and shutil.which(tool, path=PATH) is None:
            print(f"{name}: {tool} is not installed")
            continue
        for words in COMMANDS.get(name, [("sh", f"{name}.sh")]):
            for has_caches in (False, True):
                run(folder / f"{name}.policy", ["-q", "--files", "--hosts"], words, has_caches=has_caches)
                print(run(FOLDER / f"{name}.policy", ["--check"], words, has_caches=has_caches), end="", flush=True)


def run(policy: Path, flags: Sequence[str], words: Sequence[str], *, has_caches: bool) -> str:
    """Run a program under learn in a new folder, with a home of its own, and return what learn says is new."""
    with tempfile.TemporaryDirectory(prefix="callfence-start-") as name:
        place = Path(name)
        for made in ("tmp", "home", *(f"home/{cache}" for cache in CACHES if has_caches)):
            (place / made).mkdir(parents=True)
        shutil.copytree(STARTS, place / "project")
        environment = {"PATH": PATH, "HOME": f"{place}/home", "TMPDIR": f"{place}/tmp", "LC_ALL": "C.UTF-8", "TERM": "dumb"}
        command = [LEARN, *flags, "-o", policy.resolve(), "--", *words]
        done = subprocess.run(
            command, cwd=place / "project", env=environment, input=CALLS, capture_output=True, text=True, check=False
        )
    if "done" not in done.stdout and "result" not in done.stdout:
        sys.exit(f"{policy.stem}: {done.stdout[-1000:]}{done.stderr[-1000:]}")
    return "".join(f"{policy.stem}: {line}\n" for line in done.stderr.splitlines() if line.startswith("  +"))


if __name__ == "__main__":
    os.umask(0o022)
    main(Path(sys.argv[1]), sys.argv[2:])
