"""`callfence spawn`: start commands for clients, each under its own policy, from a process that is loaded once."""

from __future__ import annotations

import gc
import os
import pwd  # noqa: F401  # where a client has no HOME
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, NoReturn

from callfence import start
from callfence.enforcer import kernel
from callfence.enforcer.arming import confining, nested, phase_plan, phases  # noqa: F401  # what starts need
from callfence.enforcer.bpf import ALL_RUN
from callfence.enforcer.errors import EnforceError, refused
from callfence.enforcer.files import granted, landlock  # noqa: F401
from callfence.enforcer.hosts import granted as granted_hosts  # noqa: F401
from callfence.enforcer.importer import Loaded
from callfence.enforcer.launch import Launch, is_filtered
from callfence.enforcer.reporting import audit, opening  # noqa: F401
from callfence.enforcer.spawning.listening import Listener, serve
from callfence.enforcer.spawning.peer import Rights, require_plain
from callfence.enforcer.spawning.serving import Spawner
from callfence.enforcing import cache, files  # noqa: F401  # files: for policies that confine these
from callfence.enforcing.command import Start
from callfence.enforcing.options import parse
from callfence.enforcing.sealed import Compiled, seal, unseal
from callfence.shared.options import Parser
from callfence.shared.text import printable
from callfence.tracer.errors import CallfenceError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence

    from callfence.enforcer.spawning.protocol import Request
    from callfence.enforcer.spawning.serving import Prepare
    from callfence.enforcing.objects import Objects

for name in ("_sha2", "_sha256"):  # of which a log takes the one that there is
    with suppress(ImportError):
        __import__(name)

_COMPILER = "callfence.policygen.filter.compile"
"""The module without which no policy is compiled; this process does not import it."""
OF_PROCESS = ("--chdir", "--close-fds", "--keep-fd", "--die-with-parent", "--drop-caps", "--quiet-kernel", "--ask")
"""The options of `enforce` that a client cannot give: five are about its own process, a start without a helper gains nothing by
a spawner, and the process that asks takes longer to start than a spawner saves."""


_DESCRIPTORS = ("fd:", "/dev/fd", "/dev/std", "/proc/self/", "/proc/thread-self/")
"""Beginnings of logs that are descriptors: those of the process that opens the log, which is not the client."""


def parser() -> argparse.ArgumentParser:
    description = (
        "Start commands for clients that connect to a socket, each confined by its own policy as `enforce` does, in a few "
        "milliseconds: this process is loaded once.  A client (include/callfence-run.c) becomes the program itself.  "
        "SIGTERM ends this process; commands go on."
    )
    parser = Parser(prog="callfence spawn", description=description)
    parser.add_argument("--socket", metavar="PATH", help="where to listen; default: $XDG_RUNTIME_DIR/callfence/spawn")
    parser.add_argument("--idle", metavar="SECONDS", type=float, help="end when no command was started for so long")
    return parser


def main(arguments: list[str]) -> int:
    """Run `spawn`.  Return 0 after SIGTERM, SIGINT or SIGHUP, or after --idle; 2 if it cannot listen, or may
    open too few descriptors."""
    command = parser()
    options = command.parse_args(arguments)
    if options.idle is not None and not options.idle > 0:
        command.error("--idle must be more than 0")
    try:
        own = Rights("/proc/self")
        require_plain(own)
        spawner = Spawner(*_preparing(), own, Loaded())
        listener = Listener(options.socket or _default())
    except (CallfenceError, OSError) as error:
        print(f"callfence spawn: {printable(str(error))}", file=sys.stderr)
        return 2
    print(f"callfence spawn: ready at {printable(listener.path)}", file=sys.stderr, flush=True)
    _describe()
    kernel.set_undumpable()
    os.chdir("/")
    sys.path[:] = [path for path in sys.path if path.startswith("/")]
    gc.collect()
    gc.freeze()  # what is older than a clone is not searched there, which would copy its memory
    try:
        serve(listener, spawner.begin, options.idle)
    except OSError as error:
        print(f"callfence spawn: {printable(str(refused(error)))}", file=sys.stderr)
        return 2
    finally:
        listener.remove()
    return 0


def _describe() -> None:
    """Judge and describe a denied call for nothing, so that what this takes is parsed here, and not by each helper."""
    from callfence.enforcer.reporting.verdict import Verdicts, advise, risk_of
    from callfence.policygen.evidence.words import masked
    from callfence.policygen.implied.tables import parse_all
    from callfence.policygen.language.document import parse as parse_policy
    from callfence.policygen.language.naming import format_call
    from callfence.tracer.abi import NATIVE, Event, table

    parse_all(NATIVE)
    policy = parse_policy(f"implied 1\narch {NATIVE}\nopenat: flags == O_RDONLY\n").policy
    verdicts = Verdicts([("it", policy)])
    for name in ("openat", "ioctl", "connect", "mmap"):
        event = Event(NATIVE.audit, table(NATIVE).by_name[name].number, (1, 2, 3, 4, 5, 6), 0, os.getpid())
        verdicts.of(event, "")
        format_call(event)
        advise(policy, "it", event)
    for line in ("openat: allow", "path /: read", "tcp connect: any"):
        risk_of(line)
    masked("token=")


def _default() -> str:
    """Return the socket in the user's runtime folder, which is created.  Raises EnforceError, OSError."""
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if not runtime.startswith("/"):
        raise EnforceError("XDG_RUNTIME_DIR is not set: name the socket with --socket PATH")
    os.makedirs(f"{runtime}/callfence", 0o700, exist_ok=True)
    return f"{runtime}/callfence/spawn"


def _preparing() -> tuple[Prepare, Callable[[], None]]:
    """Return what decides how programs are run, by the code that this process has loaded; and what does a part of that for no
    program."""
    identity, status, is_nested = cache.compiler(), _status(), is_filtered()

    def prepare(request: Request, stderr: int, process: int) -> tuple[Launch, int, Callable[[CallfenceError], None]]:
        _require(_status() == status)
        words = [os.fsdecode(word) for word in request.words]
        options, argv = parse(words)
        for option in OF_PROCESS:
            if option in options:
                raise EnforceError(f"{option} is not possible with `callfence spawn`")
        if any(log.startswith(_DESCRIPTORS) or log == "-" for log in options.get("--log", ())):
            raise EnforceError("--log cannot be a descriptor with `callfence spawn`: name a file, a socket or `journal`")
        started = Spawned(options, argv, request.environment, stderr)
        started.process, started.is_nested = process, is_nested
        try:
            result = started.prepared()
            if _COMPILER in sys.modules:  # it has been imported just now
                _require(cache.installed() == identity)
        except CallfenceError as error:
            started.refuse(error)
            raise
        return result, len(words) - len(argv), started.refuse

    def rehearse() -> None:
        filter_ = Compiled(ALL_RUN, "exec", [("/", b"")], variant="report", expects_listener=False, is_settled=False)
        unseal(seal(filter_, b"", b""), b"")
        cache.load("/", "report", lambda name: b"")

    return prepare, rehearse


def _status() -> tuple[int, int]:
    """Return what changes when callfence is installed again."""
    try:
        status = os.stat(start.__file__)
    except OSError:
        return 0, 0
    return status.st_mtime_ns, status.st_ino


def _require(is_same: bool) -> None:
    if not is_same:
        raise EnforceError("callfence was changed after `callfence spawn` had been started: start it again")


class Spawned(Start):
    """The start of a program that a client becomes."""

    is_nested = False
    """Whether a filter is in force already: the client has the spawner's (`Rights`)."""

    def _is_nested(self) -> bool:
        return self.is_nested

    def _arm(self, policies: Sequence[Compiled]) -> str:
        """Return when the filters take effect: never before the execve, which is the client's."""
        arm = super()._arm(policies)
        return "exec" if arm == "now" else arm

    def _objects(self, policies: Sequence[Compiled], arm: str) -> Objects:
        objects = super()._objects(policies, arm)
        if objects.hosts and not self.is_audit and "sockets" in objects.scope:
            # The helper would have to be in a domain above the program's; but no two processes can enter the same one.
            raise EnforceError(
                "the policy confines hosts or unix sockets and has `scope abstract sockets`, which is not possible with "
                "`callfence spawn`: use enforce, or --scope signals"
            )
        return objects

    def _arm_untraced(self, arm: str, programs: Sequence[bytes], problem: str, *, is_followed: bool) -> NoReturn:
        raise EnforceError(f"{problem}, so `callfence spawn` cannot confine {self.name}")
