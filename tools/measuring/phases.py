"""Measures what docs/phases.md says of servers: phases.py [SERVER ...].

It needs what servers.py needs.  Each server is learned by the recipe of docs/learning-a-server.md with `--phases`, and
then does everything that its script has, enforced, except with `--exact`.  It prints the table, and each denied call on
standard error.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests" / "support"), str(Path(__file__).parent)]

from calls import event  # noqa: E402 -- the tests' own modules
from servers import BIN, MODES, SERVERS, denied, run  # noqa: E402
from shellcodes import SHELLCODES  # noqa: E402

from policygen.evaluate import evaluate  # noqa: E402
from policygen.implied.expand import expanded  # noqa: E402
from policygen.language.document import parse_file  # noqa: E402
from policygen.model import alternatives  # noqa: E402
from policygen.phases import phase_policies  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Sequence

    from policygen.model import Policy

TABLE = """\
| policy | after | calls | in serving | rules | in serving | shellcodes stopped | in serving | left in serving | denied |
|---|---|--:|--:|--:|--:|--:|--:|---|--:|"""
GRAVE = {
    "execve": "execve", "execveat": "execveat 3 0 0 0 0", "code": "mmap 0 4096 PROT_READ|PROT_EXEC MAP_PRIVATE 3 0",
    "mprotect to code": "mprotect 0 4096 PROT_READ|PROT_EXEC", "socket": "socket AF_INET SOCK_STREAM 0",
    "socketpair or unix": "socket AF_UNIX SOCK_STREAM 0", "connect": "connect 3 0 16", "bind": "bind 3 0 16",
    "listen": "listen 3 128", "accept4": "accept4 3 0 0 SOCK_NONBLOCK|SOCK_CLOEXEC", "accept": "accept 3 0 0",
    "open for writing": "openat AT_FDCWD 0 O_WRONLY|O_CREAT 0o644",
    "append": "openat AT_FDCWD 0 O_WRONLY|O_CREAT|O_APPEND 0o644",
    "clone": "clone CLONE_CHILD_CLEARTID|CLONE_CHILD_SETTID|SIGCHLD", "threads": "clone 0x3d0f00", "ptrace": "ptrace 16 1 0 0",
    "setuid": "setuid 1", "setresuid": "setresuid 1 1 1",
}  # fmt: skip
"""A call of each kind that is dangerous in a server that serves."""


def main(servers: Sequence[str]) -> None:
    print(TABLE)
    with tempfile.TemporaryDirectory(prefix="callfence-phases-") as name:
        Path(name).chmod(0o755)
        for server in servers:
            for mode, options in MODES.items():
                measure(server, Path(name) / f"{server}{'-exact' * bool(options)}", mode, options)


def measure(server: str, folder: Path, mode: str, options: Sequence[str]) -> None:
    """Print a row for each policy of a server."""
    run(server, "recipe", folder, BIN / "learn", "-q", "--phases", *options, "--")
    policies = sorted(folder.glob("*.policy"))
    lacking: dict[str, int] = {}
    if not options:
        run(server, "everything", folder, BIN / "enforce", "--log", log := folder / "denied", "--")
        lacking = denied(log, server, [policy.stem for policy in policies]) if log.exists() else dict.fromkeys(
            (policy.stem for policy in policies), 0
        )
    for path in policies:
        policy = parse_file(path).policy
        triggers = ", ".join(policy.phases[0].triggers) if policy.phases else "no phase"
        before, after = phase_policies(policy)[0][1], phase_policies(policy)[-1][1]
        cells: list[object] = [f"{path.stem}, {mode}", triggers]
        for count in (calls, rules, stopped):
            cells += [count(before), count(after)]
        cells += [", ".join(left(after)) or "none", lacking.get(path.stem, "")]
        print(f"| {' | '.join(map(str, cells))} |", flush=True)


def calls(policy: Policy) -> int:
    """How many calls it allows, in some way, with its implied set."""
    entries = (entry for section in expanded(policy).entries.values() for entry in section.values())
    return sum(entry.action.lets_run and bool(alternatives(entry.expression)) for entry in entries)


def rules(policy: Policy) -> int:
    return sum(len(alternatives(entry.expression)) for section in policy.entries.values() for entry in section.values())


def stopped(policy: Policy) -> str:
    found = sum(any(not evaluate(policy, event(call)).lets_run for call in one.calls) for one in SHELLCODES)
    return f"{found} of {len(SHELLCODES)}"


def left(policy: Policy) -> list[str]:
    return [name for name, call in GRAVE.items() if evaluate(policy, event(call)).lets_run]


if __name__ == "__main__":
    main(sys.argv[1:] or SERVERS)
