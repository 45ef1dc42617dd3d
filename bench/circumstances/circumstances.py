"""The circumstances: how a run differs from the one that was learned.  Data, and one small function for each kind of change."""

from __future__ import annotations

import resource
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

BASE = {"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "LC_ALL": "C", "TERM": "xterm"}
BASE |= {"HOME": "{home}", "TMPDIR": "{home}"}  # programs that are killed leave files there
BASE |= {f"GIT_{who}_{what}": "x" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
BASE |= {"RESTIC_PASSWORD": "x", "PGUSER": "nobody", "PGDATABASE": "postgres", "PGHOST": "127.0.0.1"}


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a program."""

    file: str = "input"
    arguments: str | None = None
    """Instead of all others: `wrong`, or None."""
    waits: bool = False
    """The command that reads standard input."""
    stdin: str = "null"
    """null, closed, terminal, pipe (kept open), or a file of the folder."""
    stdout: str = "pipe"
    """pipe, closed, full, null, terminal, file, broken (a pipe without reader)."""
    stderr: str = "pipe"
    environment: Mapping[str, str] = field(default_factory=lambda: dict(BASE))
    folder: str = "."
    """Where it is started, relative to where its files are."""
    limits: Mapping[int, int] = field(default_factory=dict)
    user: bool = False
    """Another user."""
    writable: bool = True
    """Whether that user may write to the folder."""
    times: int = 1
    """How often it is started on the same files."""
    signal: str = ""
    """Sent while it runs."""
    client: str = "use"
    """What the client of a server does: use, other, load, hangs up, nothing."""
    taken: bool = False
    """Something else listens at the port already."""


Change = Callable[[Run], Run]


@dataclass(frozen=True, slots=True)
class Circumstance:
    name: str
    change: Change
    kind: str = "any"
    """any, program (servers have no such), waits (programs that can read standard input), server."""


def _with(**changes: object) -> Change:
    return lambda run: replace(run, **changes)  # type: ignore[arg-type]


def _environment(**changes: str | None) -> Change:
    def change(run: Run) -> Run:
        changed = {**run.environment, **{name: value for name, value in changes.items() if value is not None}}
        return replace(run, environment={name: value for name, value in changed.items() if changes.get(name, "") is not None})

    return change


def _limit(number: int, value: int) -> Change:
    return _with(limits={number: value})


_ALL = (
    Circumstance("as learned", _with()),
    Circumstance("another file", _with(file="other"), "program"),
    Circumstance("a larger file", _with(file="large"), "program"),
    Circumstance("an empty file", _with(file="empty"), "program"),
    Circumstance("no such file", _with(file="missing"), "program"),
    Circumstance("a folder instead of a file", _with(file="folder"), "program"),
    Circumstance("a name with blanks", _with(file="a b"), "program"),
    Circumstance("an unreadable file", _with(file="secret", user=True), "program"),
    Circumstance("wrong usage", _with(arguments="wrong")),
    Circumstance("twice on the same files", _with(times=2)),
    Circumstance("from standard input", _with(waits=True, stdin="other"), "waits"),
    Circumstance("standard input closed", _with(stdin="closed")),
    Circumstance("output to /dev/null", _with(stdout="null")),
    Circumstance("output to a file", _with(stdout="file", stderr="file")),
    Circumstance("output closed", _with(stdout="closed")),
    Circumstance("output full", _with(stdout="full", stderr="full")),
    Circumstance("a pipe that breaks", _with(stdout="broken", file="large")),
    Circumstance("errors closed", _with(stderr="closed", file="missing")),
    Circumstance("a terminal", _with(stdin="terminal", stdout="terminal", stderr="terminal")),
    Circumstance("C.UTF-8", _environment(LC_ALL="C.UTF-8")),
    Circumstance("a locale that is missing", _environment(LC_ALL="de_DE.UTF-8", LANGUAGE="de")),
    Circumstance("a time zone", _environment(TZ="Asia/Tokyo")),
    Circumstance("empty environment", _with(environment={})),
    Circumstance("no HOME", _environment(HOME=None)),
    Circumstance("TMPDIR elsewhere", _environment(TMPDIR="{home}/../policies")),
    Circumstance("TMPDIR missing", _environment(TMPDIR="/no/such/folder")),
    Circumstance("another user", _with(user=True)),
    Circumstance("another user, folder read-only", _with(user=True, writable=False)),
    Circumstance("another folder", _with(folder="folder")),
    Circumstance("few descriptors", _limit(resource.RLIMIT_NOFILE, 12)),
    Circumstance("little memory", _limit(resource.RLIMIT_AS, 200 << 20)),
    Circumstance("a small stack", _limit(resource.RLIMIT_STACK, 256 << 10)),
    Circumstance("small files", _limit(resource.RLIMIT_FSIZE, 4096)),
    Circumstance("no core file", _limit(resource.RLIMIT_CORE, 0)),
    *(Circumstance(f"SIG{name}", _with(waits=True, stdin="pipe", signal=name), "waits")
      for name in ("TERM", "INT", "HUP", "QUIT", "USR1", "WINCH", "CONT")),
    Circumstance("SIGINT on a terminal",
                 _with(waits=True, stdin="terminal", stdout="terminal", stderr="terminal", signal="INT"), "waits"),
    Circumstance("other requests", _with(client="other"), "server"),
    Circumstance("load", _with(client="load"), "server"),
    Circumstance("a client that hangs up", _with(client="hangs up"), "server"),
    Circumstance("no request", _with(client="nothing"), "server"),
    Circumstance("the port is taken", _with(taken=True), "server"),
    Circumstance("an operator's signals", _with(signal="operator"), "server"),
    Circumstance("killed, started again", _with(signal="KILL", times=2), "server"),
)  # fmt: skip
CIRCUMSTANCES = {circumstance.name: circumstance for circumstance in _ALL}
SEEN = frozenset(list(CIRCUMSTANCES)[::2])
"""The half that may be looked at."""
