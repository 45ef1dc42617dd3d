"""Words from a program's memory: made fit to be printed, and written as patterns where they vary from run to run."""

from __future__ import annotations

import re
from functools import lru_cache

from policygen.evidence.secrets import masked

# Patterns are compiled when they are first used: a learn of a moment uses few of them.
_UUID = r"[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}"
_UUID_LENGTH = 36
_RANDOM = r"[0-9]{7,}|(?=[a-f]*[0-9])(?=[0-9]*[a-f])[0-9a-f]{8,}"
"""Times, and digests in hexadecimal."""
_RANDOM_LENGTH = 7
_DIGITS = r"[0-9]+"
_TEMPORARY = r"(?P<start>.*?)(?P<random>[A-Za-z0-9_]{6,})(?P<end>(?:\.[a-z]{1,5}){0,2})"
"""A name as mkstemp(3), mktemp(1) and others make: at least six characters of the random kind before any suffix."""
_LONGEST = 64
"""Characters of one word of a pattern."""


def escaped(data: bytes | str) -> str:
    r"""Text that drives no terminal, forges no line and no quote: other bytes as `\xNN`, a `*` that is no pattern as `\*`."""
    text = data.decode(errors="surrogateescape") if isinstance(data, bytes) else data
    if text.isprintable() and '"' not in text and "\\" not in text and "*" not in text:
        return text
    return "".join(_shown(c) for c in text)


def _shown(c: str) -> str:
    if c in "\\*":
        return f"\\{c}"
    if c.isprintable() and c != '"':
        return c
    return "".join(f"\\x{byte:02x}" for byte in c.encode(errors="surrogateescape" if c >= "\udc80" else "replace"))


@lru_cache(maxsize=4096)
def steady(word: str, ids: tuple[int, ...], *, temporary: bool = False, made: bool = False, process: bool = False) -> str:
    """The word with `*` where it varies: `sort*` of `/tmp/sortA7xK2q`, `*` of a pid in /proc; and `<secret>` for a secret.

    `ids`: numbers that vary, such as the pid of the caller.  `temporary`: it is a name in a folder of temporary files;
    `made`: the program has made it so that no other has it; `process`: it is in a folder of /proc.
    """
    if process and word.isdigit():
        return "*"
    word = masked(word)
    if not (temporary or made or re.search(_DIGITS, word)):  # most names: times, digests and numbers have digits
        return word if len(word) <= _LONGEST else _cut(word)
    if made and (found := re.fullmatch(_TEMPORARY, word)):
        end = found["random"][-6:]
        temporary = not (end.isalpha() and end.islower())  # as one in 200 random ones is
    text = re.sub(_UUID, "*", word) if len(word) >= _UUID_LENGTH else word
    text = re.sub(_RANDOM, "*", text) if len(text) >= _RANDOM_LENGTH else text
    if temporary:
        text = re.sub(_DIGITS, lambda found: "*" if len(found[0]) > 2 else found[0], _without_random(text))
    elif ids:
        text = re.sub(_DIGITS, lambda found: "*" if int(found[0]) in ids else found[0], text)
    while "**" in text:  # two stars are a pattern of their own
        text = text.replace("**", "*")
    return text if len(text) <= _LONGEST else _cut(text)


def _cut(text: str) -> str:
    return f"{text[:_LONGEST].rstrip(chr(92))}*"


def _without_random(word: str) -> str:
    """A temporary name without the end that is made at random.

    Which part that is cannot be seen: all after a dot, a dash, `tmp` or `cc`, or of a short name, else the last six characters.
    """
    found = re.fullmatch(_TEMPORARY, word)
    if found is None:
        return word
    start, random = found["start"], found["random"]
    if not start:
        start = next((known for known in ("tmp", "cc") if random.startswith(known)), random[:-6] if len(random) > 8 else "")
    return f"{start}*{found['end']}"
