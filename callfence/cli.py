"""The `callfence` command: finds the subcommand, imports only its module, and runs it."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # `signal` imports `enum`, which takes `callfence enforce` 2 ms
import codecs
import gc
import io
import os
import sys
from importlib import import_module

from callfence import start
from callfence.tracer import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Final, NoReturn

COMMANDS: Final = {
    "learn": "run a program and write what it does into a policy",
    "enforce": "run a program confined by a policy",
    "service": "take a service of systemd from learned to audited and enforced",
    "spawn": "start commands for others, each confined by its policy, in milliseconds",
    "sh": "run shell commands, each under the policy of its package or step",
    "show": "print a policy in canonical form, or rewrite its file in it",
    "compile": "compile filters of policies ahead of time, for services or for other machines",
    "verify": "prove that a filter is equivalent to its policy, or print a call that they answer differently",
    "diff": "show what a policy allows that another does not",
    "why": "show which calls led to each rule of a policy, or why it denies a call, a file or a port",
    "review": "accept, reject or edit what a policy newly allows, change by change",
    "allow": "add to a policy what enforce reported as denied",
    "ship": "send the events of enforce to Prometheus or OpenTelemetry",
    "report": "write the risks, runs and rules of a policy to one HTML file",
    "merge": "merge recordings or policies into one, or narrow a policy by another",
    "lake": "keep recordings and logs of many hosts in one folder, and answer questions about them",
    "carry": "carry a policy to another architecture, or compare its sections",
    "lint": "report what policies allow that is dangerous, and why",
    "export": "write a policy for other programs: containers, systemd, bubblewrap, nsjail and others",
    "import": "convert a container profile, a filter or a log of calls into a policy",
    "mcp": "run an agent's commands under a policy, as a server of the Model Context Protocol",
    "git-setup": "make git compare and merge policies by meaning",
    "doctor": "check what works on this machine, and say how to fix the rest",
}

_ELSEWHERE: Final = {
    "learn": "callfence.learning.command",
    "enforce": "callfence.enforcing.command",
    "compile": "callfence.enforcing.compile",
    "sh": "callfence.shell.command",
    "carry": "callfence.carrying.command",
    "service": "callfence.services.command",
    "ship": "callfence.shipping.command",
    "lake": "callfence.lake.command",
}
"""Modules of the commands that are not in `commands/`, by command: each has a folder of its own."""

PIPE_CLOSED: Final = 128 + 13
"""The exit status that a shell reports for a program that SIGPIPE ended."""

INTERRUPTED: Final = 2
"""The wait status of a program that SIGINT ended."""

COMMON: Final = ("learn", "enforce", "show", "why", "diff", "review", "allow", "lint", "export", "doctor")
"""The commands that --help lists."""

USAGE: Final = """\
usage: callfence COMMAND [ARGUMENT ...]

{}

`callfence COMMAND --help` describes a command{}.  -V prints the version."""


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run a subcommand and exit with its status, or with 2 for a mistake in the command line.  `arguments` are those after the
    command's name; None means sys.argv."""
    # Starting, which makes fewer objects than this, takes a tenth less without a search for cycles; reading and merging
    # recordings, whose objects are in no cycles, take a quarter less with rare ones (three of 60,000 observations each).
    gc.set_threshold(100_000)
    arguments = sys.argv[1:] if arguments is None else arguments
    _escape_names()
    if arguments[:1] == ["help"] and arguments[1:]:  # of one command
        arguments = [arguments[1], "--help"]
    status: int | str | None = 0
    try:
        try:
            status = _run(arguments)
        except SystemExit as ended:  # argparse's, for --help
            status = ended.code
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:  # the reader has closed the pipe: `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the interpreter flushes once more
        status = PIPE_CLOSED
    except KeyboardInterrupt:  # what was being written has been taken back
        from callfence.shared.ending import end_like

        end_like(INTERRUPTED)
    except OSError as error:
        if start.is_short(error):
            raise
        if status != 2:  # not reported yet
            try:  # noqa: SIM105, as contextlib takes time
                print(f"callfence: {error.filename or 'standard output'}: {error.strerror}", file=sys.stderr)
            except OSError:
                pass
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        status = 125 if arguments[:1] == ["learn"] else 2  # 2 could be the program's
    sys.exit(status)


def learn() -> NoReturn:
    """Entry point of the command `learn`: the same as `callfence learn`."""
    main(["learn", *sys.argv[1:]])


def _run(arguments: list[str]) -> int:
    name = arguments[0] if arguments else "--help"
    if name in ("learn", "enforce", "sh"):  # the program's descriptors are its own, closed ones too
        return _main_of(name, arguments[1:])
    _occupy_closed()
    _end_with_the_reader()
    if name in ("-h", "--help", "--help-all", "help"):
        listed = list(COMMANDS) if name == "--help-all" else COMMON
        width = max(map(len, listed))
        listing = "\n".join(f"  {command:{width}}  {COMMANDS[command]}" for command in listed)
        others = len(COMMANDS) - len(listed)
        print(USAGE.format(listing, f", and `callfence --help-all` lists {others} more" if others else ""))
        return 0 if arguments else 2
    if name in ("-V", "--version"):
        from callfence.diagnosing.report import versions

        print(versions())
        return 0
    if name not in COMMANDS:
        from callfence.policygen.errors import did_you_mean

        hint = did_you_mean(name, COMMANDS) or f"the commands are: {', '.join(COMMANDS)}"
        print(f"callfence: unknown command '{name}': {hint}", file=sys.stderr)
        return 2
    return _main_of(name, arguments[1:])


def _main_of(name: str, arguments: list[str]) -> int:
    command = import_module(module_of(name))
    if _signal.getsignal(_signal.SIGINT) == _signal.SIG_DFL:  # the scripts of callfence/bin
        _signal.signal(_signal.SIGINT, _signal.default_int_handler)
    status: int = command.main(arguments)
    return status


def _escape_names() -> None:
    """Print what a stream's encoding lacks, and names of files that are not UTF-8, as bytes: `\\xff`."""
    codecs.register_error("callfence", _escaped)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="callfence")


def _escaped(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    text = error.object[error.start : error.end]
    return text.encode(errors="surrogateescape").decode("ascii", "backslashreplace"), error.end


def _end_with_the_reader() -> None:
    """Let SIGPIPE end this process silently when the reader of its output has gone (`callfence diff A B | head`), even if
    the parent process blocked or ignored the signal."""
    _signal.signal(_signal.SIGPIPE, _signal.SIG_DFL)
    _signal.pthread_sigmask(_signal.SIG_UNBLOCK, [_signal.SIGPIPE])


def _occupy_closed() -> None:
    """Open /dev/null in place of standard streams that were closed at the start: using input or output then fails with EBADF,
    and errors are discarded.

    Otherwise the next files to be opened would get the numbers 0 to 2, and print() would print errors to standard output."""
    for number, (name, mode) in enumerate((("stdin", os.O_WRONLY), ("stdout", os.O_RDONLY), ("stderr", os.O_WRONLY))):
        if getattr(sys, name) is None:
            os.open(os.devnull, mode)  # gets the lowest number that is free: this one
            setattr(sys, name, open(number, "w" if number else "r", closefd=False))  # noqa: SIM115 -- until we end


def module_of(name: str) -> str:
    """Return the name of the module that has a command's `main` and `parser`."""
    if name in _ELSEWHERE:
        return _ELSEWHERE[name]
    return f"callfence.commands.{'import_' if name == 'import' else name.replace('-', '_')}"  # `import` is a keyword
