"""The command `learn`: runs a program, and writes a policy that allows the calls that it makes."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn

from callfence import start
from callfence.enforcer.errors import FAILED, EnforceError
from callfence.learning.options import LearnOptions, parse, parser
from callfence.learning.prepare import Prepared, begin, prepare
from callfence.learning.progress import say
from callfence.learning.watch import INTERRUPTS, executable_of, program_of, watch
from callfence.policygen.recording import recording_file
from callfence.policygen.recording.many import merge
from callfence.policygen.recording.model import Observation, Recording, Run
from callfence.shared.ending import end_like, fail
from callfence.shared.files import policy_path
from callfence.tracer.errors import CallfenceError, InternalError

__all__ = ["main", "parser"]

_NEW_BEHAVIOUR = 1 << 8
"""The wait status of exit(1) (wait(2)); the program's own failure takes precedence."""


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command, and end this process as the program ended; with 125, 126 or 127 if learn or the execve fails."""
    end_like(run(parse(sys.argv[1:] if arguments is None else arguments)))


def run(options: LearnOptions) -> int | None:
    """Learn as the options say, and return the wait status with which to end; None if there is none.  If learn or the execve
    fails, end this process with 125, 126 or 127."""
    try:
        return _learn(options)
    except KeyboardInterrupt:  # while the policy is made; before that, ^C is the program's
        with suppress(OSError, AttributeError):
            sys.stderr.write("learn: interrupted\n")
        end_like(signal.SIGINT)
    except Exception as error:  # Python's own status for a bug of ours, 1, could be taken for the program's
        if start.is_short(error):
            raise
        fail(f"learn: {_explained(error)}", error.status if isinstance(error, EnforceError) else FAILED)


def _learn(options: LearnOptions) -> int | None:
    """Run the program, or attach to processes, and return the wait status with which learn ends; None if there is none.  With
    --narrow, and with --from alone, run nothing."""
    if options.narrow is not None:
        from callfence.learning.narrow import narrow

        narrow(options.narrow, options.last, write=options.write)
        return None
    if options.start is not None and not options.command and not options.pids:
        begin(options.start, options.output or policy_path(options.start))
        return None
    program = None if options.pids else program_of(options.command)
    names = [executable_of(pid) for pid in options.pids]
    name = names[0] if names else options.command[0]
    prepared = prepare(options, name)
    plain = None
    if options.rehearse and program is not None:
        from callfence.learning.rehearsal.after import PlainRun, rehearse_after

        plain = PlainRun(program, options)
    run, observations, status = watch(program, name, prepared, plain.witness if plain else None)
    if plain:
        plain.end()
    if run is None:
        say(f"learn: {name} was killed during its execve, before it could make a call; nothing was learned")
        return status
    with _kept(prepared, run, observations):
        if options.recording is not None:
            recording_file.save(options.recording, Recording((run,), observations))
        if not observations and prepared.is_silent and prepared.allows_targets(run) and prepared.is_unchanged():
            if not options.check:
                recording_file.update(prepared.recording, lambda old: merge(old, Recording((run,))))
            return status
        from callfence.learning import store

        result = (store.check if options.check else store.learn)(prepared, run, observations)
    if options.check:
        if sys.stderr is not None and (result.is_new or not options.quiet):
            from callfence.learning.summary import print_check

            with suppress(OSError):  # the reader has gone; the status reports it too
                print_check(result, options.accept, bool(status), sys.stderr)
        return _NEW_BEHAVIOUR if result.is_new and not status else status
    if not options.quiet and sys.stderr is not None:
        from callfence.learning.summary import print_summary

        with suppress(OSError):  # it has hung up, or is a full disk: what was learned is written
            print_summary(result, options.rehearsing, sys.stderr)
    if plain:
        rehearse_after(plain, result, prepared)
    return status


@contextmanager
def _kept(prepared: Prepared, run: Run, observations: tuple[Observation, ...]) -> Iterator[None]:
    """Context manager in which a run is added to a policy and its recording.  If that fails, or ^C ends it, write the run to a
    file of its own beside the recording, and say so; nothing is written with --check."""
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, INTERRUPTS)  # `watch` has blocked it
        yield
    except BaseException:
        if prepared.options.check:
            raise
        signal.pthread_sigmask(signal.SIG_BLOCK, INTERRUPTS)
        from callfence.shared.text import command_line

        path = prepared.recording.with_name(f"{prepared.recording.stem}-{run.id}.rec")
        with suppress(OSError):
            recording_file.save(path, Recording((run,), observations))
            add = command_line(("callfence", "import", "--from", "recording", "-o", str(prepared.policy), str(path)))
            say(f"learn: what was recorded is in {path}; to add it to the policy: {add}")
        raise


def _explained(error: Exception) -> str:
    """Return the message for the user about an exception."""
    if isinstance(error, OSError):
        if error.filename:
            return f"{error.filename}: {error.strerror}; the file was not changed"
        return str(error.strerror or error)
    if isinstance(error, CallfenceError):
        return f"{'internal error, please report it: ' * isinstance(error, InternalError)}{error}"
    import traceback

    return f"internal error, please report it:\n{''.join(traceback.format_exception(error))}"
