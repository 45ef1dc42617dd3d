"""Text from outside, made fit to be printed."""

from __future__ import annotations


def printable(text: str) -> str:
    """Names of files come from the program: they must not drive the reader's terminal, or forge a line."""
    valid = text.encode(errors="surrogateescape").decode(errors="backslashreplace")
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in valid)
