"""The smallest phrases of a policy: numbers, versions, words of a closed set, actions.

Each function parses one phrase at the cursor, or raises PolicyError.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from policygen.errors import did_you_mean
from policygen.language.operands import OperandError, parse_integer
from policygen.model import SCOPES, Action, ActionKind, scope_of
from tracer.abi import Arch, constants, table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from policygen.language.cursor import Cursor


def integer(cursor: Cursor, what: str) -> int:
    token = cursor.token
    if token.kind != "number":
        raise cursor.expected(what)
    cursor.take()
    try:
        return parse_integer(token.text)[0]
    except OperandError as error:
        raise cursor.error(error.message, token, error.hint) from None


def one_of(cursor: Cursor, what: str, known: Sequence[str]) -> str:
    """Parse one of the known words."""
    token = cursor.token
    if token.kind != "word":
        raise cursor.expected(f"one of {', '.join(known)}")
    if token.text not in known:
        hint = did_you_mean(token.text, known) or f"it is one of {', '.join(known)}"
        raise cursor.error(f"unknown {what} {token.text}", token, hint)
    return cursor.take().text


def scope(cursor: Cursor) -> str:
    """Parse what reaches only processes of the program: `signals`, `abstract sockets`, or both with a comma; or `none`."""
    if cursor.accept("none"):
        return ""
    known = {word.split()[0]: word for word in SCOPES}
    found: list[str] = []
    while True:
        word = known[one_of(cursor, "scope", [*known, "none"] if not found else [*known])]
        for rest in word.split()[1:]:
            one_of(cursor, f"scope after {word.split()[0]}", [rest])
        found.append(word)
        if not cursor.accept(","):
            return scope_of(found)


def version(cursor: Cursor) -> tuple[int, int]:
    """Parse a kernel version whose syscall table is known."""
    what = "a kernel version such as 6.18"
    start = cursor.token.start
    major = integer(cursor, what)
    if not cursor.accept("."):
        raise cursor.expected(what)
    read = (major, integer(cursor, what))
    try:
        table(Arch.X86_64).newest(read)
    except ValueError as error:
        raise cursor.source.error(str(error), start, cursor.previous_end) from None
    return read


def action(cursor: Cursor, what: str) -> Action:
    token = cursor.token
    if token.text not in list(ActionKind):
        hint = did_you_mean(token.text, ActionKind) or f"an action is one of {', '.join(ActionKind)}"
        if token.text == "deny":
            hint = "deny is the default action: leave it out"
        raise cursor.expected(what, hint)
    cursor.take()
    if token.text != ActionKind.ERRNO:
        return Action(ActionKind(token.text))
    named = cursor.token
    number = _error(cursor)
    try:
        return Action(ActionKind.ERRNO, number)
    except ValueError as error:
        raise cursor.error(str(error), named) from None


def _error(cursor: Cursor) -> int:
    """Parse an errno, by name or number; the names have the same numbers on all known architectures."""
    token = cursor.token
    if token.kind != "word":
        return integer(cursor, "an error's name or number")
    errors = constants.family("errno", Arch.X86_64)
    number = errors.value(cursor.take().text)
    if number is None:
        raise cursor.error(f"no error is named {token.text}", token, did_you_mean(token.text, errors.names))
    return number
