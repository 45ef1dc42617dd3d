"""Start what asks about denied calls, as the options of `enforce` say."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING

from callfence.asking import companion
from callfence.enforcer.errors import EnforceError
from callfence.policygen.language.document import parse_file
from callfence.policygen.phases import in_phase, names_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from callfence.asking.companion import Front
    from callfence.policygen.model import Policy

_UNIX = "unix:"


def started(whom: str, seconds: str, within: str) -> int:
    """Start it, and return the descriptor of its socket.

    `whom`: "" for the terminal, or `unix:PATH`; `seconds` until the answer is no; `within`: the file of the policy that bounds
    what is written, "" for none.  Raises UserError."""
    try:
        timeout = float(seconds)
    except ValueError:
        timeout = math.nan
    if not 0 < timeout < 1e6:
        raise EnforceError(f"--ask-timeout {seconds}: the value must be a number of seconds above 0")
    base = _base(within) if within else None
    if whom and not (whom.startswith(_UNIX) and whom[len(_UNIX) :]):
        raise EnforceError(f"--ask={whom}: write --ask for the terminal, or --ask=unix:PATH")
    path = whom.removeprefix(_UNIX)
    try:
        writes = not path or base is not None
        return companion.start(_front(path), timeout, base, writes=writes, in_session=not path)
    except OSError as error:
        where = f"the program at {path}" if path else "the terminal (/dev/tty)"
        raise EnforceError(f"{where} cannot be asked: {error.strerror}") from error


def _base(file: str) -> Policy:
    """Return the policy in a file; of one with phases, the last."""
    try:
        policy = parse_file(file).policy
    except OSError as error:
        raise EnforceError(f"--within {file}: {error.strerror}") from error
    return in_phase(policy, names_of(policy)[-1]) if policy.phases else policy


def _front(path: str) -> Callable[[], Front]:
    if path:
        from callfence.asking.program import Program

        return partial(Program, path)
    from callfence.asking.terminal import Terminal

    return Terminal
