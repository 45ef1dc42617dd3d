"""The `callfence` command: every subcommand, each loaded only when it is the one."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import Final, NoReturn

from callfence import __version__

COMMANDS: Final = {
    "learn": "run a program and write what it does into a policy",
    "enforce": "run a program confined by a policy",
    "show": "print a policy, in canonical form and with its includes resolved",
    "verify": "prove that a filter is its policy, or show a call on which it is not",
    "diff": "say what a policy allows that another does not",
    "reduce": "print a policy less what another does not allow, or --check that it is less",
    "fmt": "rewrite policies in canonical form, or --check that they are",
    "why": "say what stands behind each rule of a policy, or why it denies a call",
    "review": "judge what a policy newly allows, change by change: accept, reject, edit",
    "allow": "add to a policy the line that enforce prints",
    "report": "write what a reviewer wants to see of a policy into one HTML file",
    "merge": "merge recordings, or policies, into one; git's merge driver too",
    "lint": "say what is dangerous in policies, and why",
    "export": "write a policy for another program: containers, systemd, ...",
    "import": "read a policy that another program has",
    "git-setup": "make git show and merge policies by what they mean",
    "doctor": "say what works on this machine, and what to do about the rest",
}

PIPE_CLOSED: Final = 128 + 13
"""As a shell says it of a program that SIGPIPE ended."""

USAGE: Final = """\
usage: callfence COMMAND [ARGUMENT ...]

{}

`callfence COMMAND --help` says more.  -V prints the version."""


def main(arguments: list[str] | None = None) -> NoReturn:
    """Never returns: exits with the subcommand's status; 2 for a mistake in the command line."""
    arguments = sys.argv[1:] if arguments is None else arguments
    name = arguments[0] if arguments else "--help"
    if name in ("-h", "--help", "help"):
        width = max(map(len, COMMANDS))
        listing = "\n".join(f"  {command:{width}}  {text}" for command, text in COMMANDS.items())
        print(USAGE.format(listing))
        sys.exit(0 if arguments else 2)
    if name in ("-V", "--version"):
        print(f"callfence {__version__}")
        sys.exit(0)
    if name not in COMMANDS:
        from policygen.errors import did_you_mean

        hint = did_you_mean(name, COMMANDS) or f"the commands are: {', '.join(COMMANDS)}"
        print(f"callfence: unknown command '{name}': {hint}", file=sys.stderr)
        sys.exit(2)
    try:
        status = import_module(module_of(name)).main(arguments[1:])
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:  # whoever read it has enough: `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the interpreter flushes once more
        status = PIPE_CLOSED
    sys.exit(status)


def module_of(name: str) -> str:
    """The module that has a command's `main` and `parser`."""
    return f"callfence.{'import_' if name == 'import' else name.replace('-', '_')}"  # `import` is a keyword
