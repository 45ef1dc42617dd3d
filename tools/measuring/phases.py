"""Measures what docs/phases-measured.md says of servers: phases.py [SERVER ...].

It needs what servers.py needs, lighttpd, memcached and sshd, or what those need that are named.  Each server is learned by the
recipe of docs/learning-a-server.md with `--phases --files`, and then does everything that its script has, enforced, except
with `--exact`.  It prints the table, and what was denied on standard error.
"""

from __future__ import annotations

import socket
import sys
import tempfile
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests" / "support"), str(Path(__file__).parent)]

from servers import BIN, MODES, denied, run  # noqa: E402 -- beside this file
from shellcodes import SHELLCODES  # noqa: E402 -- the tests' own module

from callfence.policygen.evaluate import answers  # noqa: E402
from callfence.policygen.grants import NOT_CONFINED  # noqa: E402
from callfence.policygen.implied.resolve import resolved  # noqa: E402
from callfence.policygen.language.document import parse, parse_file  # noqa: E402
from callfence.policygen.model import alternatives  # noqa: E402
from callfence.policygen.phases import phase_policies  # noqa: E402
from callfence.policygen.sets.algebra import FALSE  # noqa: E402
from callfence.policygen.sets.region import space, to_bdd  # noqa: E402
from callfence.policygen.values import replace  # noqa: E402
from callfence.tracer.abi import table  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Sequence

    from callfence.policygen.model import Policy

TABLE = """\
| policy | after | lines | calls | in serving | rules | in serving | stopped | in serving | with files | left | denied |
|---|---|--:|--:|--:|--:|--:|--:|--:|--:|---|--:|"""
VARIANTS = {"nginx, static": ("nginx", {"UPSTREAM": ""})}
"""Servers that are measured in another way, too: the script, and what is in its environment."""
ALL = ("redis", "nginx", "nginx, static", "lighttpd", "memcached", "gunicorn", "postgres", "node", "sshd")
_WRITES = "flags & O_ACCMODE == O_WRONLY || flags & O_ACCMODE == O_RDWR"
GRAVE = {
    "execve": ("execve: allow",),
    "execveat": ("execveat: allow",),
    "code": ("mmap: prot has PROT_EXEC",),
    "mprotect to code": ("mprotect: prot has PROT_EXEC",),
    "socket": ("socket: family == AF_INET || family == AF_INET6",),
    "other sockets": ("socket: family != AF_INET && family != AF_INET6", "socketpair: allow"),
    "connect": ("connect: allow",),
    "bind": ("bind: allow",),
    "listen": ("listen: allow",),
    "accept": ("accept: allow", "accept4: allow"),
    "open for writing": (f"open: {_WRITES}", f"openat: {_WRITES}", "creat: allow"),
    "processes": ("clone: !(clone_flags has CLONE_THREAD)", "fork: allow", "vfork: allow"),
    "threads": ("clone: clone_flags has CLONE_THREAD",),
    "ptrace": ("ptrace: allow",),
    "kill": ("kill: allow", "tgkill: allow", "tkill: allow"),
    "setuid": tuple(f"set{name}: allow" for name in ("uid", "gid", "reuid", "regid", "resuid", "resgid", "groups")),
}
"""What is dangerous in a server that serves, each as entries that allow it."""


def main(servers: Sequence[str]) -> None:
    print(TABLE)
    with tempfile.TemporaryDirectory(prefix="callfence-phases-") as name:
        Path(name).chmod(0o755)
        for server in servers:
            for mode, options in MODES.items():
                measure(server, Path(name) / f"{server.replace(', ', '-')}{'-exact' * bool(options)}", mode, options)


def measure(server: str, folder: Path, mode: str, options: Sequence[str]) -> None:
    """Print a row for each policy of a server."""
    script, settings = VARIANTS.get(server, (server, {}))
    environment = {"PORT": str(free_port(20000)), "UPSTREAM": str(free_port(21000))} | settings  # the policy has the ports
    run(script, "recipe", folder, BIN / "learn", "-q", "--phases", "--files", *options, "--", **environment)
    policies = sorted(folder.glob("*.policy"))
    lacking: dict[str, int] = {}
    if not options:
        command = (BIN / "enforce", "--explain", "--log", log := folder / "denied", "--")
        run(script, "everything", folder, *command, **environment)
        lacking = denied(log, server, [policy.stem for policy in policies])
    for path in policies:
        policy = parse_file(path).policy
        triggers = ", ".join(policy.phases[0].triggers) if policy.phases else "no phase"
        before, after = phase_policies(policy)[0][1], phase_policies(policy)[-1][1]
        name = f"{path.stem}, {server.partition(', ')[2]}".removesuffix(", ")
        cells: list[object] = [f"{name}, {mode}", triggers, len(path.read_text().splitlines())]
        for count in (calls, rules, stopped):
            cells += [count(before), count(after)]
        cells += [stopped(after, files=True), ", ".join(left(after)) or "none", lacking.get(path.stem, "")]
        print(f"| {' | '.join(map(str, cells))} |", flush=True)


def free_port(first: int) -> int:
    """A port from the first one on, below those that the kernel chooses, which no policy has one by one."""
    for port in range(first, first + 1000):
        with suppress(OSError), closing(socket.create_server(("127.0.0.1", port))):
            return port
    raise OSError("no port is free")


def calls(policy: Policy) -> int:
    """How many calls it allows, in some way, with its implied set."""
    entries = (entry for section in resolved(policy).entries.values() for entry in section.values())
    return sum(entry.action.allows and bool(alternatives(entry.expression)) for entry in entries)


def rules(policy: Policy) -> int:
    return sum(len(alternatives(entry.expression)) for section in policy.entries.values() for entry in section.values())


def stopped(policy: Policy, *, files: bool = False) -> int:
    """How many of SHELLCODES it stops, by its calls alone or by what it grants of files, too."""
    meant = policy if files else replace(policy, files=NOT_CONFINED)
    return sum(one.is_stopped(meant) for one in SHELLCODES)


def left(policy: Policy) -> list[str]:
    return [name for name, lines in GRAVE.items() if any(overlaps(policy, parse(line).policy) for line in lines)]


def overlaps(policy: Policy, other: Policy) -> bool:
    """Whether a policy allows a call that the entry of another one allows."""
    ((arch, section),) = other.entries.items()
    ((number, entry),) = section.items()
    sets = space()
    wanted = to_bdd(sets, entry.expression, table(arch).by_number[number].arguments)
    found = (where for where, action in answers(sets, resolved(policy), arch, number) if action.allows)
    return any(sets.and_(where, wanted) != FALSE for where in found)


if __name__ == "__main__":
    main(sys.argv[1:] or ALL)
