"""The program's run under the tracer, as `learn` watches it."""

from __future__ import annotations

import os
import sys
import threading
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from callfence.learning.progress import progress
from callfence.learning.started import circumstances
from callfence.shared.files import working_folder
from enforcer.program import failure, initial_environment, locate
from policygen.recording.fold import Aggregator
from policygen.recording.model import Circumstances, Run, Signals
from tracer import session
from tracer.errors import StartError, TracerError
from tracer.loop import Settings
from tracer.starting.launch import Program

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from callfence.learning.files import Watching
    from callfence.learning.options import LearnOptions
    from callfence.learning.prepare import Prepared
    from policygen.evidence.facts import Places
    from policygen.recording.model import Observation
    from tracer.calls import Calls
    from tracer.loop import Loop
    from tracer.watch.faults import Injector


class Recorder(Aggregator):
    """What becomes of the tracer's events: the observations, who executed what, and what could not be observed."""

    def __init__(self, where: Callable[[], Places] | None = None) -> None:
        super().__init__(where)
        self.files: Watching | None = None
        """What is done with files and ports, if that is watched."""
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

    def aimed(self, outside: bool) -> None:
        self.signals = "others" if outside or self.signals == "others" else "family"


def program(command: tuple[str, ...]) -> Program:
    """Raises EnforceError if there is no such program."""
    argv = tuple(os.fsencode(argument) for argument in command)
    environment = initial_environment()
    return Program(locate(argv[0], environment), argv, tuple(environment))


def name_of(pid: int) -> str:
    """The executable of a process.  Raises TracerError."""
    try:
        return os.readlink(f"/proc/{pid}/exe").removesuffix(" (deleted)")
    except FileNotFoundError:
        raise TracerError(f"no process {pid}") from None
    except PermissionError:
        raise TracerError(f"process {pid} may not be traced: it is another user's, or has privileges") from None


def watch(
    what: Program | None, name: str, prepared: Prepared, options: LearnOptions, injector: Injector | None = None
) -> tuple[Run | None, tuple[Observation, ...], int | None]:
    """Run the program, or attach to the process if there is none: the run, what was observed, and the wait status.

    The run is None where the program was killed in its execve.
    """
    recorder = Recorder(where(what, options))
    if not (prepared.is_warm or options.no_evidence):
        import policygen.evidence.facts  # noqa: F401  # the threads would wait for each other if it were imported while it runs
    if prepared.with_files:
        _watch_files(what, recorder)
    started = time.time_ns()
    # later, a module that is being imported may have the number of a closed stream
    started_with = Circumstances() if what is None else circumstances(what.environment)
    drawing = progress(lambda: len(recorder), quiet=options.quiet, warm=prepared.is_warm, plainly=what is None)
    with drawing as draw, _preparing(draw, options, recorder, prepared) as tick:
        outcome = _trace(what, prepared, options, recorder, tick, injector)
    if not outcome.started:
        return None, (), outcome.status
    run = Run(
        id=os.urandom(8).hex(),
        started=started,
        command=options.command or (name,),
        status=None if outcome.status is None else os.waitstatus_to_exitcode(outcome.status),
        complete=what is not None,
        gaps=tuple(sorted(recorder.gaps)),
        warm=prepared.is_warm,
        executed=tuple(sorted(recorder.execs)),
        circumstances=started_with,
        files=recorder.files.uses() if recorder.files else (),
        waits=outcome.waits,
        signals=recorder.signals,
    )
    return run, recorder.observations(), outcome.status


def _watch_files(what: Program | None, recorder: Recorder) -> None:
    if what is None:
        recorder.gap("files and ports: they are not learned of a process that runs already")
        return
    from callfence.learning.files import Watching

    recorder.files = Watching(what.environment, recorder.gap)
    recorder.files.executed(os.path.realpath(os.fsdecode(what.path)))


def _nothing(calls: Calls) -> None:
    """Watch no calls beyond those that are recorded."""


def where(what: Program | None, options: LearnOptions, copied: str = "") -> Callable[[], Places] | None:
    """What patterns of names call by a sign, if they are to be recorded; of a process that runs already, it is not known
    where it began.  `copied` stands for the working folder."""

    def found() -> Places:
        from policygen.evidence.facts import Places, places  # not loaded by a run with nothing new

        return places(working_folder(), os.environ, copied) if what is not None else Places()

    return None if options.no_evidence else found


def _trace(
    what: Program | None,
    prepared: Prepared,
    options: LearnOptions,
    recorder: Recorder,
    tick: Callable[[Loop], None],
    injector: Injector | None,
) -> session.Outcome:
    if what is None:
        from callfence.learning.attached import Attached
        from tracer.running import attach

        told = Attached(options, recorder.gap)
        outcome = attach.attach(
            options.pids, recorder, tree=options.tree, allow_opaque=options.allow_opaque, attached=told.begins, tick=tick
        )
        told.ended(outcome)
        return outcome
    try:
        return session.trace(
            what,
            recorder,
            Settings(
                allow_opaque=options.allow_opaque,
                from_entry=options.arm == "entry",
                known=prepared.filter,
                waits=options.phases or (prepared.existing is not None and bool(prepared.existing.stages)),
                late=not options.every_call,
                late_after=options.late_after,
            ),
            session.Hooks(tick, _say_that_it_goes_on, recorder.files.attach if recorder.files else _nothing, recorder.aimed),
            injector,
        )
    except StartError as error:
        raise failure(what.argv[0], error.errno) from None


def leaves_all_as_it_is(prepared: Prepared, options: LearnOptions) -> bool:
    """Whether a run in which nothing is new is not reported, and changes nothing but the recording: then most of the
    modules that do either need not be loaded."""
    changes = options.evidence or options.arm or options.default or options.portable or options.within or options.phases
    is_settled = prepared.is_warm and prepared.existing is not None and prepared.existing.is_settled
    return is_settled and options.quiet and not changes


@contextmanager
def _preparing(
    tick: Callable[[Loop], None], options: LearnOptions, recorder: Recorder, prepared: Prepared
) -> Iterator[Callable[[Loop], None]]:
    """`tick`, which starts to import what will be needed when the program has ended, once it is clear that it will be.

    While known behaviour runs, or the program computes or waits, the tracer has nothing to do; and these imports take as
    long as the rest of a start."""

    def prepare() -> None:
        with suppress(Exception):  # what fails here fails again where it is needed
            from callfence.learning import store, summary  # noqa: F401

            if not options.quiet and sys.stderr is not None and sys.stderr.isatty():
                from callfence.shared import terminal  # noqa: F401

    thread = threading.Thread(target=prepare, daemon=True)

    def first(loop: Loop) -> None:
        if not thread.ident and (len(recorder) or (prepared.is_warm and not leaves_all_as_it_is(prepared, options))):
            with suppress(RuntimeError, MemoryError):  # it only saves time
                thread.start()
        tick(loop)

    yield first
    if thread.ident:
        thread.join()  # before anything else is imported: ^C within an import may leave the lock held that both need


def _say_that_it_goes_on(loop: Loop) -> None:
    """A daemon has left its starter; learn stays, for without it the daemon's calls would fail."""
    if sys.stderr is not None:
        count = len({task.tgid for task in loop.tasks.values()})
        processes = "a process" if count == 1 else f"{count} processes"
        print(f"learn: the program has ended; still learning {processes} that it left (^C ends them)", file=sys.stderr)
