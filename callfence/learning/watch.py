"""Runs the program under the tracer for `learn`, and returns the run and its observations."""

from __future__ import annotations

import os
import signal
import stat
import sys
import threading
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from callfence.enforcer.execution import failure, initial_environment, locate
from callfence.learning.ports import PortWatcher
from callfence.learning.progress import Attached, progress, say
from callfence.policygen.recording.fold import Aggregator
from callfence.policygen.recording.model import Circumstances, Observation, Run, Signals
from callfence.shared.files import working_folder
from callfence.tracer import proc
from callfence.tracer.errors import StartError, TracerError
from callfence.tracer.loop import Loop, Settings
from callfence.tracer.running import session
from callfence.tracer.running.launch import Program

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from callfence.learning.files import FileWatcher
    from callfence.learning.hosts.watcher import HostWatcher
    from callfence.learning.options import LearnOptions
    from callfence.learning.prepare import Prepared
    from callfence.policygen.evidence.facts import Places
    from callfence.tracer.calls import Calls
    from callfence.tracer.faults import Witness


INTERRUPTS = frozenset({signal.SIGINT})
UNKNOWN = Circumstances()
_NULL = os.makedev(1, 3)
"""/dev/null: Documentation/admin-guide/devices.txt."""


class Recorder(Aggregator):
    """Records a run for `learn` (as `tracer.tally.Recorder`): its observations, which executable executed which file, uses of
    files, ports, hosts and sockets, whom it signals, and what could not be observed."""

    def __init__(self, places: Callable[[], Places] | None = None, renamed: Callable[[str], str] = str) -> None:
        """`renamed` returns the executable's path under which uses of ports are recorded."""
        super().__init__(places)
        self.files: FileWatcher | None = None
        """Records the use of files; None if these are not learned."""
        self.ports = PortWatcher(renamed, self.gap)
        """Records the use of ports."""
        self.hosts: HostWatcher | None = None
        """Records the use of hosts and unix sockets; None if these are not learned."""
        self.execs: set[tuple[str, str]] = set()
        self.gaps: dict[str, None] = {}
        self.signals: Signals = ""

    def executed(self, before: str, after: str) -> None:
        if "?" not in (before, after):
            self.execs.add((before, after))
        if self.files and after != "?":
            self.files.executed(after)

    def gap(self, what: str) -> None:
        self.gaps.setdefault(what)

    def attach(self, calls: Calls) -> None:
        """Have the tracer stop for the calls by which files, ports and hosts are used."""
        for watcher in self._watchers():
            watcher.attach(calls)

    def _watchers(self) -> list[FileWatcher | PortWatcher | HostWatcher]:
        return [self.ports, *([self.files] if self.files else []), *([self.hosts] if self.hosts else [])]

    def aimed(self, outside: bool) -> None:
        self.signals = "others" if outside or self.signals == "others" else "family"

    def run(
        self,
        command: tuple[str, ...],
        started: int,
        outcome: session.Outcome,
        *,
        complete: bool,
        warm: bool = False,
        circumstances: Circumstances = UNKNOWN,
        rehearsed: str = "",
    ) -> Run:
        """Return the run, which has ended, for its recording.  `started` is in nanoseconds since the epoch."""
        return Run(
            id=os.urandom(8).hex(),
            started=started,
            command=command,
            status=None if outcome.status is None else os.waitstatus_to_exitcode(outcome.status),
            complete=complete,
            gaps=tuple(sorted(self.gaps)),
            warm=warm,
            executed=tuple(sorted(self.execs)),
            rehearsed=rehearsed,
            circumstances=circumstances,
            files=tuple(sorted({use for watcher in self._watchers() for use in watcher.uses()})),
            waits=outcome.waits,
            signals=self.signals,
        )


def program_of(command: tuple[str, ...]) -> Program:
    """Return the program that a command line names.  Raises EnforceError if it is not found or cannot be executed."""
    argv = tuple(os.fsencode(argument) for argument in command)
    environment = initial_environment()
    return Program(locate(argv[0], environment), argv, tuple(environment))


def executable_of(pid: int) -> str:
    """Return the path of a process's executable.  Raises TracerError if it does not exist or must not be traced."""
    try:
        return os.readlink(f"/proc/{pid}/exe").removesuffix(" (deleted)")
    except FileNotFoundError:
        what = "has no program: it has ended, or is the kernel's own" if os.path.exists(f"/proc/{pid}") else "does not exist"
        raise TracerError(f"process {pid} {what}") from None
    except PermissionError:
        reason = "it belongs to another user or has privileges; run learn as root"
        raise TracerError(f"process {pid} cannot be traced: {reason}") from None


def watch(
    program: Program | None, name: str, prepared: Prepared, witness: Witness | None = None
) -> tuple[Run | None, tuple[Observation, ...], int | None]:
    """Run the program, or attach to the processes of --pid if it is None; return the run, its observations, and the wait
    status.  The run is None if the program was killed in its execve.  INTERRUPTS stay blocked, for ^C would
    lose the run before it is saved."""
    options = prepared.options
    recorder = Recorder(places_of(program, options))
    if not (prepared.is_warm or options.no_evidence):
        import callfence.policygen.evidence.facts  # noqa: F401  # the threads would wait for each other if it were imported while it runs
    if prepared.with_files:
        watch_files(program, recorder)
    if prepared.with_hosts:
        watch_hosts(program.environment if program else None, recorder)
    started = time.time_ns()
    # later, a module that is being imported may have the number of a closed stream
    started_with = UNKNOWN if program is None else circumstances(program.environment)
    drawing = progress(lambda: len(recorder), quiet=options.quiet, warm=prepared.is_warm, plainly=program is None)
    with drawing as draw, _importing(draw, recorder, prepared) as tick:
        outcome = _trace(program, prepared, recorder, tick, witness)
        signal.pthread_sigmask(signal.SIG_BLOCK, INTERRUPTS)
    if not outcome.started:
        return None, (), outcome.status
    is_complete, is_warm = program is not None, prepared.is_warm
    command = options.command or (name,)
    run = recorder.run(command, started, outcome, complete=is_complete, warm=is_warm, circumstances=started_with)
    return run, recorder.observations(), outcome.status


def watch_files(program: Program | None, recorder: Recorder, renamed: Callable[[str], str] = str) -> None:
    """Have a recorder record files, too.  `renamed` is that of `FileWatcher`."""
    if program is None:
        recorder.gap("files: learn cannot record them for a process that was already running")
        return
    from callfence.learning.files import FileWatcher

    recorder.files = FileWatcher(program.environment, recorder.gap, renamed)
    recorder.files.executed(os.path.realpath(os.fsdecode(program.path)))


def watch_hosts(environment: Sequence[bytes] | None, recorder: Recorder, renamed: Callable[[str], str] = str) -> None:
    """Have a recorder record hosts and unix sockets, too.  The other arguments are those of `HostWatcher`."""
    from callfence.learning.hosts.watcher import HostWatcher

    recorder.hosts = HostWatcher(environment, recorder.gap, renamed)


def places_of(program: Program | None, options: LearnOptions, copied: str = "") -> Callable[[], Places] | None:
    """Return a function that returns the folders that evidence abbreviates (`policygen.evidence.facts.Places`); None with
    --no-evidence.

    If `program` is None, there are no such folders.  `copied` is the folder that has a copy of the working folder, or ""."""

    def find() -> Places:
        from callfence.policygen.evidence.facts import Places, places  # not loaded by a run with nothing new

        return places(working_folder(), os.environ, copied) if program is not None else Places()

    return None if options.no_evidence else find


def _trace(
    program: Program | None, prepared: Prepared, recorder: Recorder, tick: Callable[[Loop], None], witness: Witness | None
) -> session.Outcome:
    options = prepared.options
    if program is None:
        from callfence.tracer.running.attach import attach

        attached = Attached(options, recorder.gap)

        def begin(loop: Loop) -> None:
            attached.begin(loop)
            recorder.attach(loop.calls)
            executables = {task.tgid: task.executable for task in loop.tasks.values()}
            recorder.ports.open_already(executables)
            if recorder.hosts:
                recorder.hosts.open_already(executables)

        opaque = options.allow_opaque
        outcome = attach(options.pids, recorder, tree=options.tree, allow_opaque=opaque, attached=begin, tick=tick)
        attached.end(outcome)
        return outcome
    settings = Settings(
        allow_opaque=options.allow_opaque,
        from_entry=options.arm == "entry",
        filter=prepared.filter,
        waits=options.phases or (prepared.existing is not None and bool(prepared.existing.stages)),
        late=not (options.every_call or options.rehearse),
        late_after=options.late_after,
    )

    def attach_to(calls: Calls) -> None:
        recorder.attach(calls)
        if witness:
            witness.attach(calls)

    try:
        return session.trace(program, recorder, settings, session.Hooks(tick, _say_that_it_goes_on, attach_to, recorder.aimed))
    except StartError as error:
        raise failure(program.argv[0], error.errno) from None


@contextmanager
def _importing(tick: Callable[[Loop], None], recorder: Recorder, prepared: Prepared) -> Iterator[Callable[[Loop], None]]:
    """Yield a function that calls `tick`, and starts a thread that imports the modules that are needed after the program's end,
    as soon as it is certain that they are.

    While the program computes, waits or makes calls that do not stop, the tracer is idle; these imports take as long as the
    rest of a start."""

    def import_all() -> None:
        with suppress(Exception):  # what fails here fails again where it is needed
            from callfence.learning import store, summary  # noqa: F401

            if not prepared.options.quiet and sys.stderr is not None and sys.stderr.isatty():
                from callfence.shared import terminal  # noqa: F401

    thread = threading.Thread(target=import_all, daemon=True)

    def first(loop: Loop) -> None:
        if not thread.ident and (len(recorder) or (prepared.is_warm and not prepared.is_silent)):
            with suppress(RuntimeError, MemoryError):  # it only saves time
                thread.start()
        tick(loop)

    yield first
    if thread.ident:
        thread.join()  # before anything else is imported: ^C within an import may leave the lock held that both need


def _say_that_it_goes_on(loop: Loop) -> None:
    """Print that learn goes on for the processes that the program left: without a tracer their calls would fail."""
    left = sorted({task.tgid for task in loop.tasks.values()})
    names = [f"{os.path.basename(proc.executable_of(pid))} (pid {pid})" for pid in left[:_MAX_NAMES]]
    more = f" and {len(left) - _MAX_NAMES} more" if len(left) > _MAX_NAMES else ""
    end = f"(^C ends {'it' if len(left) == 1 else 'them'})"
    say(f"learn: the program has ended; still learning what it left running: {', '.join(names)}{more} {end}")


_MAX_NAMES = 3
"""The most processes that are named."""


# What a program is started with


def circumstances(environment: Sequence[bytes]) -> Circumstances:
    """Return the circumstances of a program with this environment that inherits everything else from this process."""
    user = "user" if os.geteuid() else "root"
    return Circumstances(_stream(0), _stream(1), _stream(2), user, _locale(environment))


def _stream(descriptor: int) -> str:
    try:
        status = os.fstat(descriptor)
        if not os.get_inheritable(descriptor):  # libffi 3.5 keeps a file open, under a number that was free
            return "closed"
    except OSError:
        return "closed"
    if stat.S_ISCHR(status.st_mode):
        return "/dev/null" if status.st_rdev == _NULL else "a terminal" if os.isatty(descriptor) else "a device"
    kinds = {stat.S_IFREG: "a file", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
    return kinds.get(stat.S_IFMT(status.st_mode), "a device")


def _locale(environment: Sequence[bytes]) -> str:
    """Return the locale of the environment: the first of LC_ALL, LC_CTYPE and LANG that is set (locale(7)), else "C"."""
    for name in (b"LC_ALL=", b"LC_CTYPE=", b"LANG="):
        value = next((entry.removeprefix(name) for entry in environment if entry.startswith(name)), b"")
        if value:
            return os.fsdecode(value)
    return "C"
