"""The paths of `path` lines: absolute, or below a named folder that is looked up when the program is started.

A path is text in which bytes that are not UTF-8 are surrogates (PEP 383).  It has no slash at its end, no empty names, no `.`
and no `..`.  The root is `/`; the folder in which the program is started is `.`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal

from callfence.policygen.text import UNSEEN
from callfence.tracer.errors import UserError

MAX_PATH = 4095
"""The most bytes of a path: linux/limits.h PATH_MAX, which counts the NUL."""
VARIABLES = ("$HOME", "$TMPDIR", "$XDG_RUNTIME_DIR")
"""The named folders that environment variables give."""
HERE = "."
"""The working folder's name, which may also be written `$CWD`."""
# Patterns are compiled when they are first used: a policy without files uses none of them.
_BARE = r"[A-Za-z0-9_./$+@%~=^,-]+"
_UNSEEN = UNSEEN | frozenset("\u180b\u180c\u180d\u180f\u2800\ufe0e\ufe0f")
"""Characters that show nothing by themselves (also a blank pattern of Braille): a name with one looks like another name."""
_ESCAPES = {"n": "\n", "t": "\t", "\\": "\\", '"': '"'}
_ESCAPE = r"(?s)\\(?:x([0-9a-fA-F]{2})|(.?))"


class TextError(UserError):
    """A text in a policy is wrong.  `message` says why; `hint` is advice, or ''; `kind` is one of `errors.Mistake`."""

    def __init__(self, message: str, hint: str = "", kind: Literal["syntax", "name", "value"] = "value") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.kind = kind


class PathError(TextError):
    """The text is not a path of a `path` line."""


_NO_PARENT, _MEANT = "a path has no `..`", "where `..` leads depends on links: write the path that is meant"


def canonical(text: str) -> str:
    """Return the canonical path that is written as `text`, without quotes.  Raises PathError if it is not a path of a `path`
    line, such as one with `..`."""
    start, slash, rest = text.partition("/")
    if start == "..":
        raise PathError(_NO_PARENT, _MEANT)
    if start in ("$CWD", HERE):
        start = HERE
    elif start.startswith("$") and start not in VARIABLES:
        raise PathError(f"no folder is named {start}", f"there are {', '.join((*VARIABLES, '$CWD'))}", "name")
    elif start and start not in VARIABLES:
        hint = f"$HOME{text[1:]}" if start == "~" else f"write ./{text}, or an absolute path"
        raise PathError(f"{shown(text)} is not relative to a named folder", hint)
    names = [name for name in rest.split("/") if name not in ("", HERE)]
    if ".." in names:
        raise PathError(_NO_PARENT, _MEANT)
    if "\0" in text:
        raise PathError("a path has no NUL byte")
    if len(encoded(text)) > MAX_PATH:
        raise PathError(f"a path has at most {MAX_PATH} bytes")
    if not start and not slash:
        raise PathError("the path is empty", "write / for every file")
    return "/".join((start, *names)) or "/"


def unquoted(text: str) -> str:
    """Return a quoted text without quotes and escapes.  Raises PathError for open quotes and unknown escapes."""
    if len(text) < 2 or not re.fullmatch(r'"(?:\\.|[^"\\])*"', text, re.DOTALL):
        raise PathError("the quotes are not closed", 'a `"` in a path is written \\"', "syntax")

    def character(match: re.Match[str]) -> str:
        if match[1]:
            return bytes([int(match[1], 16)]).decode("latin-1")
        if match[2] not in _ESCAPES:
            raise PathError(f"\\{match[2]} is no escape", 'there are \\n, \\t, \\\\, \\" and \\xHH, a byte', "syntax")
        return _ESCAPES[match[2]]

    inner = text[1:-1]
    parts, end = [], 0
    for match in re.finditer(_ESCAPE, inner):
        parts += [encoded(inner[end : match.start()]), character(match).encode("latin-1")]
        end = match.end()
    return b"".join([*parts, encoded(inner[end:])]).decode("utf-8", "surrogateescape")


def shown(path: str) -> str:
    """Return a path as it is printed in a line: quoted if it has a blank, a colon or a special character."""
    if re.fullmatch(_BARE, path):
        return path
    text = "".join(_escaped(character) for character in path)
    return f'"{text}"'


def _escaped(character: str) -> str:
    for letter, meant in _ESCAPES.items():
        if character == meant:
            return f"\\{letter}"
    if character.isprintable() and not "\ud800" <= character <= "\udfff" and character not in _UNSEEN:
        return character
    return "".join(f"\\x{byte:02x}" for byte in encoded(character))


def encoded(path: str) -> bytes:
    return path.encode("utf-8", "surrogateescape")


def folders(path: str) -> Iterator[str]:
    """Yield the path, then each folder that contains it, up to `/`.  Only the text of the path is examined.  The locations of
    the named folders and of the working folder are unknown: each counts as directly below `/`."""
    while path != "/":
        yield path
        head, slash, _ = path.rpartition("/")
        path = head if slash and head else "/"
    yield "/"


def covers(folder: str, path: str) -> bool:
    """Return whether `path` is `folder` itself or is below it."""
    return folder in ("/", path) or (bool(folder) and path.startswith(f"{folder}/"))


def order(path: str) -> tuple[object, ...]:
    """Return a sort key: the root first, then the working folder, the named folders, absolute paths; a folder before the paths
    below it."""
    start, *names = path.split("/")
    return (path != "/", not path.startswith(HERE), not start, start, names)
