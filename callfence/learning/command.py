"""`learn`: run a program, and write what it does into a policy."""

from __future__ import annotations

import argparse
import errno
import gc
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from callfence.enforcing import filters
from callfence.learning.progress import progress
from callfence.shared.ending import end_like
from callfence.shared.files import policy_path, recording_path
from callfence.version import __version__
from enforcer.errors import FAILED, EnforceError
from enforcer.program import failure, initial_environment, locate
from policygen.recording import atomic, recording_file
from policygen.recording.fold import Folder
from policygen.recording.runs import Recording, Run, merge
from tracer import session
from tracer.errors import StartError, TracerError
from tracer.launch import Program
from tracer.linux import OPAQUE

if TYPE_CHECKING:
    from collections.abc import Callable

    from callfence.enforcing.cache import Compiled
    from tracer.loop import Loop

DESCRIPTION = """\
Run PROGRAM as it would run without learn, record its system calls and those of all that it starts, and write the policy
that allows them.  If the policy exists, what is new is merged into it and shown."""

EPILOG = """\
files: NAME.policy in the current folder (-o chooses another) and .callfence/NAME.rec beside it, NAME being the basename
of PROGRAM.  Exit status: the program's own; a signal that ended it ends learn too; 125 learn failed, 126 PROGRAM cannot
be executed, 127 PROGRAM was not found.  ^C reaches the program as it would without learn; what was seen is kept.
If learn itself is killed, so is the program; one attached to with -p goes on."""


class _Recorder(Folder):
    """What becomes of the tracer's events: the folder's observations, who executed what, and what could not be observed."""

    def __init__(self) -> None:
        super().__init__()
        self.execs: set[tuple[str, str]] = set()
        self.gaps: dict[str, None] = {}

    def executed(self, before: str, after: str) -> None:
        if "?" not in (before, after):
            self.execs.add((before, after))

    def gap(self, what: str) -> None:
        self.gaps.setdefault(what)


class _Parser(argparse.ArgumentParser):
    def format_help(self) -> str:
        """As wide as the terminal.  To ask that takes 3 ms, and every option that is added would ask."""
        self.formatter_class = argparse.RawDescriptionHelpFormatter
        return super().format_help()

    def error(self, message: str) -> NoReturn:
        """125: argparse's own 2 could be the program's."""
        _fail(f"{message}; see learn --help", FAILED)


def main(arguments: list[str] | None = None) -> NoReturn:
    """Never returns: ends as the program ended, or with 125-127."""
    gc.freeze()  # what has been imported stays
    gc.enable()  # see cli.learn
    options = _parse(sys.argv[1:] if arguments is None else arguments)
    try:
        status = _learn(options)
    except KeyboardInterrupt:  # while the policy is made; before that, ^C is the program's
        with suppress(OSError, AttributeError):
            sys.stderr.write("learn: interrupted\n")
        end_like(signal.SIGINT)
    except Exception as error:  # Python's own status for a bug of ours, 1, could be taken for the program's
        _fail(_explained(error), error.status if isinstance(error, EnforceError) else FAILED)
    end_like(status)


def _explained(error: Exception) -> str:
    from policygen.filter.compile import CompileError
    from policygen.filter.library import LibseccompError
    from policygen.language.document import PolicyError
    from policygen.learning.replay import ReplayError
    from policygen.recording.recording_file import RecordingError
    from tracer.errors import UserError

    if isinstance(error, OSError):
        what = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        return f"{what}; nothing was changed there"
    expected = (UserError, PolicyError, RecordingError, CompileError, LibseccompError, TracerError, EnforceError, ReplayError)
    if isinstance(error, expected):
        return str(error)
    import traceback

    return f"internal error, please report it:\n{''.join(traceback.format_exception(error))}"


def _fail(message: str, status: int) -> NoReturn:
    with suppress(OSError, AttributeError):  # no room; closed when we were started
        sys.stdout.flush()
        sys.stderr.write(f"learn: {message}\n")
        sys.stderr.flush()
    os._exit(status)


def parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="learn",
        usage="learn [OPTION ...] [--] PROGRAM [ARGUMENT ...]\n       learn [OPTION ...] -p PID",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=partial(argparse.RawDescriptionHelpFormatter, width=80),
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("-o", "--output", metavar="POLICY", type=Path, help="the policy to write, or to merge into")
    add("-p", "--pid", type=int, help="attach to a running process, until it ends or ^C lets go of it")
    add("--check", action="store_true", help="write nothing: show what is new to the policy, and end with 1 if anything is")
    add("--fresh", action="store_true", help="start over: replace the policy and its recording")
    add("--names", action="store_true", help="learn names only, no arguments")
    add("--tight", action="store_true", help="constrain descriptors and sizes too, where several runs agree on few values")
    add("--portable", action="store_true", help="allow what other C libraries do instead, too: now, and in later merges")
    add("--within", metavar="BASE", help="never allow what this policy or container profile (JSON) forbids, and show it")
    add("--arm", choices=["now", "exec", "entry"], help="when the filter takes effect, and recording begins (default: exec)")
    add(
        "--allow-opaque",
        metavar="NAME",
        action="append",
        default=[],
        choices=OPAQUE,
        help=f"let a call through whose arguments no filter sees ({', '.join(OPAQUE)}); it fails with ENOSYS otherwise",
    )
    add("-q", "--quiet", action="store_true", help="no progress and no summary")
    add("-V", "--version", action="version", version=f"callfence {__version__}")
    add("command", metavar="PROGRAM", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    return parser


def _parse(arguments: list[str]) -> argparse.Namespace:
    commands = parser()
    options = commands.parse_args(arguments)
    options.accept = ["learn", *arguments]
    if options.check:
        options.accept.remove("--check")  # the first one: what comes after the program's name is its own
    if options.command[:1] == ["--"]:
        del options.command[0]
    if options.pid is None and not options.command:
        commands.error("no program given")
    if options.output == Path("-"):
        commands.error("-o -: a policy is a file, since the next run is merged into it")
    if options.check and (options.fresh or options.tight or options.portable):
        commands.error("--check compares with the policy that there is: not with --fresh, --tight or --portable")
    if options.tight and options.portable:
        commands.error("give either --tight or --portable: descriptors and sizes differ from one C library to another")
    if options.pid is not None and options.command:
        commands.error("give either a program or -p PID, not both")
    return options


def _learn(options: argparse.Namespace) -> int | None:
    """The wait status that learn ends with."""
    program = None if options.pid is not None else _program(options.command)
    name = options.command[0] if program else _name_of(options.pid)
    policy = options.output or policy_path(name)
    recording = recording_path(policy)
    known = _check_files(policy, recording, options)

    recorder = _Recorder()
    started = time.time_ns()
    with progress(lambda: len(recorder), quiet=options.quiet, warm=known is not None) as draw:
        outcome = _trace(program, known, options, recorder, _preparing(draw, options, recorder, known))
    if not outcome.started:
        if sys.stderr is not None:
            print(f"learn: {name} was killed in its execve, before it ran: nothing is learned of it", file=sys.stderr)
        return outcome.status
    run = Run(
        id=os.urandom(8).hex(),
        started=started,
        command=tuple(options.command) or (name,),
        status=None if outcome.status is None else os.waitstatus_to_exitcode(outcome.status),
        complete=program is not None,
        gaps=tuple(sorted(recorder.gaps)),
        warm=known is not None,
        executed=tuple(sorted(recorder.execs)),
    )
    observations = recorder.observations()
    if not observations and _leaves_all_as_it_is(known, options):
        if not options.check:
            recording_file.update(recording, lambda old: merge(old, Recording((run,))))
        return outcome.status
    from callfence.learning import store

    if options.check:
        return store.check(policy, run, observations, options, outcome.status)
    learned = store.add(policy, recording, run, observations, options)
    if not options.quiet and sys.stderr is not None:
        from callfence.learning.summary import print_summary

        with suppress(OSError):  # it has hung up, or is a full disk: what was learned is written
            print_summary(learned, sys.stderr)
    return outcome.status


def _leaves_all_as_it_is(known: Compiled | None, options: argparse.Namespace) -> bool:
    """Whether a run in which nothing was new has nothing to be told, and changes nothing but the recording: then most of
    what has to be loaded for either is not needed."""
    changes = options.arm or options.portable or options.within
    return known is not None and known.is_settled and options.quiet and not changes


def _program(command: list[str]) -> Program:
    argv = [os.fsencode(argument) for argument in command]
    environment = initial_environment()
    return Program(locate(argv[0], environment), tuple(argv), tuple(environment))


def _name_of(pid: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/exe").removesuffix(" (deleted)")
    except FileNotFoundError:
        raise TracerError(f"no process {pid}") from None
    except PermissionError:
        raise TracerError(f"process {pid} may not be traced: it is another user's, or has privileges") from None


def _check_files(policy: Path, recording: Path, options: argparse.Namespace) -> Compiled | None:
    """Find out before the program runs what would keep its behaviour from being written.  Raises what `_learn` does.

    Returns the policy's filter that lets run what it knows already; none where all is to be recorded.
    """
    machine = os.uname()
    if machine.sysname != "Linux" or machine.machine not in ("x86_64", "i686"):  # the latter is setarch(8)'s
        raise TracerError(f"learn runs on Linux on x86_64, and this is {machine.sysname} on {machine.machine}")
    known = None
    if policy.exists() and not policy.is_file():  # reading a pipe could wait forever
        raise TracerError(f"the policy {policy} is not a regular file")
    if not options.fresh:
        if policy.exists():
            known = filters.compiled(str(policy), "warm")
        if recording.exists() and not options.check:
            _load(recording)
    if options.within is not None:
        from callfence.learning import baseline

        options.base = baseline.read(options.within)
        if known and not baseline.is_within(policy, options.base):
            known = None  # so that what the policy allows and the baseline forbids is seen
    if options.check:
        if not policy.exists():
            raise TracerError(f"{policy}: there is no policy to check against; learn without --check writes one")
        return known
    if not known:  # which there would not be without it
        from policygen.filter import library

        library.require()
    if not policy.parent.is_dir():
        raise TracerError(f"{policy}: there is no folder {policy.parent}")
    try:
        recording.parent.mkdir(exist_ok=True)
        for path in (policy, recording):
            atomic.check_writable(path)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EROFS):
            raise
        raise TracerError(f"{error.filename}: {error.strerror}; -o chooses another policy") from error
    return None if options.tight else known


def _load(recording: Path) -> None:
    """Raises TracerError if the file there is no recording."""
    if not recording.is_file():
        raise TracerError(f"{recording}: is not a regular file")
    try:
        recording_file.load(recording)
    except recording_file.RecordingError as error:
        raise TracerError(f"{error}\n  remove the file, or start over with --fresh, which replaces the policy too") from error


def _trace(
    program: Program | None,
    known: Compiled | None,
    options: argparse.Namespace,
    recorder: _Recorder,
    tick: Callable[[Loop], None],
) -> session.Outcome:
    allow_opaque = frozenset(options.allow_opaque)
    if program is None:
        return session.attach(options.pid, recorder, allow_opaque=allow_opaque, tick=tick)
    try:
        return session.trace(
            program,
            recorder,
            allow_opaque=allow_opaque,
            from_entry=options.arm == "entry",
            known=known.filter if known else b"",
            tick=tick,
            exited=_say_that_it_goes_on,
        )
    except StartError as error:
        raise failure(program.argv[0], error.errno) from None


def _preparing(
    tick: Callable[[Loop], None], options: argparse.Namespace, recorder: _Recorder, known: Compiled | None
) -> Callable[[Loop], None]:
    """`tick`, which starts to import what will be needed when the program has ended, once it is clear that it will be.

    While known behaviour runs, or the program computes or waits, the tracer has nothing to do; and these imports take as
    long as the rest of a start."""

    def prepare() -> None:
        from callfence.learning import store, summary  # noqa: F401

        if not options.quiet and sys.stderr is not None and sys.stderr.isatty():
            from callfence.shared import terminal  # noqa: F401

    thread = threading.Thread(target=prepare, daemon=True)

    def first(loop: Loop) -> None:
        if not thread.ident and (len(recorder) or (known and not _leaves_all_as_it_is(known, options))):
            thread.start()
        tick(loop)

    return first


def _say_that_it_goes_on(loop: Loop) -> None:
    """A daemon has left its starter; learn stays, for without it the daemon's calls would fail."""
    if sys.stderr is not None:
        count = len({task.tgid for task in loop.tasks.values()})
        processes = "a process" if count == 1 else f"{count} processes"
        print(f"learn: the program has ended; still learning {processes} that it left (^C ends them)", file=sys.stderr)
