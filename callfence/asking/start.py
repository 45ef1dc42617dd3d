"""Start what asks about denied calls, as the options of `enforce` say."""

from __future__ import annotations

import errno
import math
import os
from collections.abc import Callable
from functools import partial

from callfence.asking import companion
from callfence.asking.companion import Front
from callfence.enforcer.errors import EnforceError
from callfence.policygen.language.document import parse_file
from callfence.policygen.model import Policy
from callfence.policygen.phases import in_phase, names_of

_UNIX, _DESCRIPTOR = "unix:", "fd:"


def started(whom: str, seconds: str, within: str) -> int:
    """Start it, and return the descriptor of its socket.

    `whom`: "" for the terminal, `unix:PATH`, or `fd:NUMBER`, an inherited descriptor, which the program does not inherit;
    `seconds` until the answer is no; `within`: the file of the policy that bounds what is written, "" for none.  Raises
    UserError."""
    try:
        timeout = float(seconds)
    except ValueError:
        timeout = math.nan
    if not 0 < timeout < 1e6:
        raise EnforceError(f"--ask-timeout {seconds}: the value must be a number of seconds above 0")
    base = _base(within) if within else None
    try:
        return companion.start(_front(whom), timeout, base, writes=not whom or base is not None, in_session=not whom)
    except OSError as error:
        where = f"the program at {whom.removeprefix(_UNIX)}" if whom else "the terminal (/dev/tty)"
        raise EnforceError(f"{where} cannot be asked: {error.strerror}") from error


def _base(file: str) -> Policy:
    """Return the policy in a file; of one with phases, the last."""
    try:
        policy = parse_file(file).policy
    except OSError as error:
        raise EnforceError(f"--within {file}: {error.strerror}") from error
    return in_phase(policy, names_of(policy)[-1]) if policy.phases else policy


def _front(whom: str) -> Callable[[], Front]:
    """Return what makes whom `started` names.  Raises EnforceError, OSError."""
    if not whom:
        from callfence.asking.terminal import Terminal

        return Terminal
    from callfence.asking.program import Program

    path, number = whom.removeprefix(_UNIX), whom.removeprefix(_DESCRIPTOR)
    if path not in ("", whom):
        return partial(Program, path)
    if number == whom or not number.isdecimal():
        raise EnforceError(f"--ask={whom}: write --ask for the terminal, --ask=unix:PATH or --ask=fd:NUMBER")
    try:
        os.set_inheritable(int(number), False)
    except OverflowError as error:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF)) from error
    return partial(Program, whom, int(number))
