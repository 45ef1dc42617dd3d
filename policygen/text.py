"""Make text from outside safe to print, or to paste into a shell."""

from __future__ import annotations

import os
import sys

UNSEEN = frozenset(
    map(chr, (0x34F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x3164, 0xFFA0, *range(0xFE00, 0xFE0E), *range(0xE0100, 0xE01F0)))
)
"""Printable characters that show nothing (Default_Ignorable_Code_Point), but for the variation selectors of emoji: rows of them
are a text that machines alone read."""


def printable(text: str) -> str:
    """Return the text with unprintable and invisible characters escaped: it cannot control a terminal or fake a line."""
    try:
        data = text.encode(errors="surrogateescape")
    except UnicodeEncodeError:  # JSON can have any surrogate
        data = text.encode(errors="surrogatepass")
    shown = data.decode(errors="backslashreplace")
    return "".join(c if c.isprintable() and c not in UNSEEN else f"\\x{ord(c):02x}" for c in shown)


def word(text: str) -> str:
    """Return the text quoted as one word of a shell command.  If that takes `$'...'`, the shell must be bash, zsh, or one of
    POSIX 2024."""
    if text.isprintable():
        import shlex  # not loaded by a learn that prints nothing

        return shlex.quote(text)
    return "$'" + "".join(chr(b) if 32 <= b < 127 and b not in b"'\\" else f"\\x{b:02x}" for b in os.fsencode(text)) + "'"


def pip_install(extra: str) -> str:
    """Return the command that installs an extra (docs/install.md) for the Python that runs this callfence: another pip would
    install it where callfence does not find it."""
    return f"{word(sys.executable or 'python3')} -m pip install 'callfence[{extra}]'"


def file_word(name: str) -> str:
    """Return a file's name quoted as `word` does, with `./` before it if it could be taken for an option."""
    return word(f"./{name}" if name.startswith("-") and name != "-" else name)
