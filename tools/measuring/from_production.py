"""Prints docs/from-production.md, or the transcripts of some servers: from_production.py [SERVER ...].

Each server is learned from one start alone, audited while it does what the recipe of docs/learning-a-server.md says, its log is
reviewed on a terminal, where every change is accepted, and then it is enforced while it does more.  A call that is denied then
is a failure.
It needs what servers.py needs.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from servers import BIN, run

if TYPE_CHECKING:
    from collections.abc import Sequence

SERVERS = {"gunicorn": "gunicorn", "nginx": "nginx", "redis": "redis-server", "postgres": "postgres", "small": "python3"}
"""The name of each server's program."""
PAGE = ("gunicorn", "nginx", "redis", "postgres")
HEAD = """\
# Four servers, from an audit log to a reviewed policy

[production.md](production.md) shows the way; here are gunicorn, nginx, redis and Postgres on it. Each was learned from one
start and one stop, without a single request. Then it ran under `enforce --audit` while it did what the recipe of
[learning-a-server.md](learning-a-server.md) says: requests and errors, reload, rotation of its logs, load, a crash. One command
(`callfence review POLICY --log LOG`) asked about each thing that the log has and the policy lacks; all were accepted here. Then
the server was enforced while it did all of that again and more, with more clients, in another order: nothing was denied, so the
log is empty. (nginx's workers have become another user, so their memory may not be read: their call sites are libc's, and names
are addresses.)

The scripts are in [tests/programs/servers](../tests/programs/servers). This page is what `tools/measuring/from_production.py`
prints, and what was typed in it is what that program runs. `tests/programs/test_from_production.py` goes the same way with a
small server, with nginx, with gunicorn and with redis; Postgres takes a minute.
"""
QUESTION = r"(?s).*?(\[\?\]: |for none\): )"
ANSWERS = {"[?]: ": "a", "for none): ": "it serves"}
COLUMNS = 120


def main(servers: Sequence[str]) -> None:
    """Print a section for each server, after the head of the page if none is named."""
    if not servers:
        print(HEAD)
    for server in servers or PAGE:
        with tempfile.TemporaryDirectory(prefix="callfence-production-") as name:
            Path(name).chmod(0o755)
            section(server, Path(name))


def section(server: str, folder: Path) -> None:
    """Print what was typed, and what was seen."""
    work, log = folder / "server", folder / "server" / "log"
    policy = work / f"{SERVERS[server]}.policy"
    print(f"## {server}\n\n```text")
    type_(server, "start", work, "learn", "-q", "--")
    before = len(policy.read_text().splitlines())
    type_(server, "recipe", work, "enforce", "--audit", "--log", "log", "--")
    print(f"$ callfence review {policy.name} --log log", flush=True)
    reviewed(policy.name, work)
    log.unlink()
    type_(server, "everything", work, "enforce", "--log", "log", "--")
    denied = [line for line in log.read_text().splitlines(keepends=True) if json.loads(line)["event"] == "denied"]
    print("$ grep '\"event\": \"denied\"' log")
    print("".join(denied), end="")
    after = len(policy.read_text().splitlines())
    print(f"$ wc -l < {policy.name}   # {before} before\n{after}\n```\n", flush=True)
    if denied:
        sys.exit(f"{server}: the reviewed policy denies what the server does")


def type_(server: str, part: str, work: Path, *command: str) -> None:
    print(f"$ bash {server}.sh {part} {' '.join(command)}", flush=True)
    run(server, part, work, BIN / command[0], *command[1:])


def reviewed(policy: str, work: Path) -> None:
    """Run the review on a terminal, answer its questions, and print what is seen."""
    words = ["sh", "-c", f'stty echo cols {COLUMNS}; exec "$@"', "sh", str(BIN / "callfence"), "review", policy, "--log", "log"]
    terminal = _terminal()(words, work)
    said = ""
    while (found := asked(terminal)) is not None:
        said += found[0]
        terminal.send(f"{ANSWERS[found[1]]}\n")
    status = terminal.wait()
    said += terminal.rest()
    terminal.close()
    print(said.replace("\r", ""), end="")
    if status:
        sys.exit(f"callfence review {policy}: status {status}")


def asked(terminal: Any) -> Any:
    """The next question, or None after the last."""
    try:
        return terminal.expect(QUESTION, 60)
    except AssertionError:
        return None


def _terminal() -> Any:
    place = Path(__file__).resolve().parents[2] / "tests" / "support" / "terminal.py"
    spec = importlib.util.spec_from_file_location("terminal", place)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Terminal


if __name__ == "__main__":
    main(sys.argv[1:])
