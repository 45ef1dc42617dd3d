"""`learn`: run a program, and write what it does into a policy."""

from __future__ import annotations

import signal
import sys
from contextlib import suppress
from typing import NoReturn

from callfence import start
from callfence.learning.options import LearnOptions, parse, parser
from callfence.learning.prepare import prepare
from callfence.learning.watch import leaves_all_as_it_is, name_of, program, watch
from callfence.shared.ending import end_like, fail
from enforcer.errors import FAILED, EnforceError
from policygen.recording import recording_file
from policygen.recording.many import merge
from policygen.recording.model import Recording
from tracer.errors import CallfenceError, InternalError

__all__ = ["main", "parser"]


def main(arguments: list[str] | None = None) -> NoReturn:
    """Never returns: ends as the program ended, or with 125-127."""
    options = parse(sys.argv[1:] if arguments is None else arguments)
    try:
        status = _learn(options)
    except KeyboardInterrupt:  # while the policy is made; before that, ^C is the program's
        with suppress(OSError, AttributeError):
            sys.stderr.write("learn: interrupted\n")
        end_like(signal.SIGINT)
    except Exception as error:  # Python's own status for a bug of ours, 1, could be taken for the program's
        if start.is_short(error):
            raise
        fail(f"learn: {_explained(error)}", error.status if isinstance(error, EnforceError) else FAILED)
    end_like(status)


def _learn(options: LearnOptions) -> int | None:
    """The wait status that learn ends with."""
    what = None if options.pids else program(options.command)
    names = [name_of(pid) for pid in options.pids]
    name = names[0] if names else options.command[0]
    prepared = prepare(options, name)
    plain = None
    if options.rehearse and what is not None:
        from callfence.learning.rehearsal.after import Plain, rehearse_after

        plain = Plain(what, options)
    run, observations, status = watch(what, name, prepared, options, plain.witness if plain else None)
    seconds = plain.ended() if plain else 0.0
    if run is None:
        if sys.stderr is not None:
            print(f"learn: {name} was killed during execve, before it ran; nothing was learned", file=sys.stderr)
        return status
    if options.recording is not None:
        recording_file.save(options.recording, Recording((run,), observations))
    if not observations and leaves_all_as_it_is(prepared, options) and prepared.is_unchanged():
        if not options.check:
            recording_file.update(prepared.recording, lambda old: merge(old, Recording((run,))))
        return status
    from callfence.learning import store

    if options.check:
        return store.check(prepared, run, observations, options, status)
    learned = store.learn(prepared, run, observations, options)
    if not options.quiet and sys.stderr is not None:
        from callfence.learning.summary import print_summary

        with suppress(OSError):  # it has hung up, or is a full disk: what was learned is written
            print_summary(learned, options.rehearsing, sys.stderr)
    if plain:
        rehearse_after(plain, seconds, learned, prepared, options)
    return status


def _explained(error: Exception) -> str:
    """What to tell the user of an exception."""
    if isinstance(error, OSError):
        what = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        return f"{what}; nothing was changed there"
    if isinstance(error, CallfenceError):
        return f"{'internal error, please report it: ' * isinstance(error, InternalError)}{error}"
    import traceback

    return f"internal error, please report it:\n{''.join(traceback.format_exception(error))}"
