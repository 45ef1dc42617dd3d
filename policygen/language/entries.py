"""The two parts of an entry: the syscall before the colon, and the body after it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from policygen.errors import did_you_mean
from policygen.language.operands import OperandError, parse_integer
from policygen.language.phrases import action
from policygen.model import ALLOW, ActionKind, Always, Entry
from tracer.abi import X32_BIT, Arch, table

if TYPE_CHECKING:
    from policygen.language.cursor import Cursor
    from policygen.language.expressions import ExpressionParser
    from policygen.language.lexer import Token

_ACTIONS = frozenset((*ActionKind, "deny"))


def syscall(cursor: Cursor, token: Token, arch: Arch, version: tuple[int, int]) -> int:
    """Return the number of the syscall that a token names.  Raises PolicyError unless that kernel version has it."""
    calls = table(arch)
    if token.kind == "number":
        number = _number(cursor, token)
        if arch is Arch.X86_64 and X32_BIT <= number < 2 * X32_BIT:
            raise cursor.error("x32 calls are always refused", token)
        known = number in calls.by_number
    else:
        call = calls.by_name.get(token.text) or calls.by_name.get(token.text.removeprefix("sys_"))
        number, known = (call.number, True) if call else (0, False)
    if number > calls.newest(version):
        hint = "it falls under `unknown`; name a newer kernel in the `table` line"
        raise cursor.error(f"{token.text} is newer than the policy's table, {version[0]}.{version[1]}", token, hint)
    if not known:
        raise cursor.error(f"{arch} has no syscall {token.text}", token, _other(token, arch))
    return number


def _number(cursor: Cursor, token: Token) -> int:
    try:
        return parse_integer(token.text)[0]
    except OperandError as error:
        raise cursor.error(error.message, token, error.hint) from None


def _other(token: Token, arch: Arch) -> str:
    """Return a hint for the name of a syscall that does not exist."""
    name = token.text.removeprefix("sys_")
    elsewhere = [other for other in Arch if name in table(other).by_name]
    if elsewhere:
        return f"it is a syscall of {' and '.join(elsewhere)}"
    return did_you_mean(name, table(arch).by_name) if token.kind == "word" else ""


def body(cursor: Cursor, name: Token, parser: ExpressionParser) -> Entry:
    """Parse what follows the colon.  `parser.until` then has what phases end."""
    if cursor.at_line_end() or cursor.following.text == ":":
        raise cursor.error(f"the entry of {name.text} is empty", name, "write allow, deny, an action or a condition")
    token = cursor.token
    if token.text in ("0", "1", "deny"):
        cursor.take()
        if not cursor.at_line_end():
            hint = f"`{token.text}` is complete; a condition begins with an argument"
            raise cursor.expected("the end of the line", hint)
        return Entry(Always(token.text == "1"))
    holding = ALLOW
    if token.text in _ACTIONS:
        holding = action(cursor, "an action")
        if not cursor.accept("if"):
            parser.end(Always(True))
            if parser.until[-1][1] == len(parser.phases) or not cursor.accept("||"):
                return Entry(Always(True), holding)
            parser.expression()  # what is left of it in a phase
            return Entry(Always(True), holding)
    expression = parser.expression()
    otherwise = action(cursor, "an action after `else`") if cursor.accept("else") else None
    return Entry(expression, holding, otherwise)
