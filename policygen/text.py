"""Text from outside, made fit to be printed, or to be typed to a shell."""

from __future__ import annotations

import os


def printable(text: str) -> str:
    """Return the text with all that is not printable escaped: it may come from a program, and must neither drive a terminal
    nor forge a line."""
    valid = text.encode(errors="surrogateescape").decode(errors="backslashreplace")
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in valid)


def word(text: str) -> str:
    """As one types it to a shell (of bash, zsh, or POSIX since 2024, where it takes `$'...'`)."""
    if text.isprintable():
        import shlex  # not loaded by a learn that prints nothing

        return shlex.quote(text)
    return "$'" + "".join(chr(b) if 32 <= b < 127 and b not in b"'\\" else f"\\x{b:02x}" for b in os.fsencode(text)) + "'"


def file_word(name: str) -> str:
    """A file's name likewise, where an option might stand as well."""
    return word(f"./{name}" if name.startswith("-") and name != "-" else name)
