"""The lines about files and ports: `path PATH: RIGHTS`, `tcp connect: PORTS`, `tcp bind: PORTS`.

Each function parses one at the cursor, or raises PolicyError.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from policygen.errors import did_you_mean
from policygen.grants import (
    ANY,
    ANY_PORT,
    MAX_PORT,
    NO_PORT,
    NONE,
    NOTHING,
    TCP,
    WORDS,
    Files,
    Ports,
    Right,
    path_line,
    ranges,
    single,
)
from policygen.language.operands import OperandError, parse_integer
from policygen.paths import PathError, canonical, unquoted

if TYPE_CHECKING:
    from policygen.language.cursor import Cursor
    from policygen.language.lexer import Token

STATEMENTS = ("path", "tcp")
"""The words that begin such a line."""


def file_line(cursor: Cursor, first: Token) -> tuple[str, Files]:
    """Return the line, as it is printed before its colon, and what it grants; its first word or its path has been taken."""
    if first.kind == "path":
        path = _path(cursor, first)
        _colon(cursor, 'a path with a blank or a colon stands in quotes: path "/a b": read')
        return path_line(path), Files({path: _rights(cursor)})
    if first.text == "path":
        raise cursor.expected("a path", "path PATH: RIGHTS")
    use = cursor.token.text
    if use not in TCP:
        raise cursor.expected(" or ".join(TCP), did_you_mean(use, TCP) or "tcp connect: PORTS")
    cursor.take()
    _colon(cursor, f"tcp {use}: PORTS")
    ports = _ports(cursor)
    return f"tcp {use}", Files(connect=ports) if use == "connect" else Files(bind=ports)


def _path(cursor: Cursor, token: Token) -> str:
    try:
        return canonical(unquoted(token.text) if token.text.startswith('"') else token.text)
    except PathError as error:
        raise cursor.error(error.message, token, error.hint) from None


def _colon(cursor: Cursor, hint: str) -> None:
    if not cursor.accept(":"):
        raise cursor.expected("`:`", hint)


def _rights(cursor: Cursor) -> Right:
    if cursor.accept(NONE):
        return NOTHING
    found = NOTHING
    while True:
        token = cursor.token
        if token.kind != "word":
            raise cursor.expected(f"a right: {', '.join(WORDS)} or {NONE}")
        if token.text not in WORDS:
            hint = did_you_mean(token.text, WORDS) or f"there are {', '.join(WORDS)}; {NONE} stands alone"
            raise cursor.error(f"no right is named {token.text}", token, hint)
        cursor.take()
        found |= WORDS[token.text]
        if not cursor.accept(","):
            return found


def _ports(cursor: Cursor) -> Ports:
    if cursor.accept(NONE):
        return NO_PORT
    if cursor.accept(ANY):
        return ANY_PORT
    found: set[int] = set()
    while True:
        first = last = _port(cursor)
        following = cursor.token
        if following.kind == "number" and following.text.startswith("-") and following.start == cursor.previous_end:
            last = -_port(cursor, negative=True)
            if last < first:
                raise cursor.error(f"the range ends before it begins: {first}-{last}", following)
        found |= single(((first, last),))
        if not cursor.accept(","):
            return ranges(found)


def _port(cursor: Cursor, *, negative: bool = False) -> int:
    token = cursor.token
    if token.kind != "number":
        raise cursor.expected(f"a port, {ANY} or {NONE}", "tcp connect: 443, 8000-8099")
    try:
        number, is_decimal = parse_integer(token.text)
    except OperandError as error:
        raise cursor.error(error.message, token, error.hint) from None
    if not 0 <= (-number if negative else number) <= MAX_PORT or not is_decimal:
        text = token.text.lstrip("-") if negative else token.text
        raise cursor.error(f"{text} is no port", token, f"ports are 0 to {MAX_PORT}")
    cursor.take()
    return number
