"""Text from outside, made fit to be printed."""

from __future__ import annotations


def printable(text: str) -> str:
    """Return the text with all that is not printable escaped: it may come from a program, and must neither drive a terminal
    nor forge a line."""
    valid = text.encode(errors="surrogateescape").decode(errors="backslashreplace")
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in valid)
