"""Hints for words that people write in policies, but that the language spells otherwise."""

from __future__ import annotations

from callfence.policygen.errors import did_you_mean
from callfence.policygen.language.layout import SETTINGS
from callfence.tracer.abi import NATIVE, Arch, constants

_ARCHITECTURES = {"arm64": Arch.AARCH64, "amd64": Arch.X86_64, "x64": Arch.X86_64, "x86": Arch.I386, "i686": Arch.I386}
"""Names that other programs have: `arm64` resembles `arm`, which is another architecture."""
_OPERATORS = {"and": "&&", "or": "||"}


def architecture(name: str) -> str:
    """Return a hint for the name of an architecture that does not exist; "" if none is similar."""
    same = _ARCHITECTURES.get(name.lower())
    return f"it is written {same}" if same else did_you_mean(name, Arch)


def action(word: str) -> str:
    """Return a hint for a word in the place of an action; "" if it is no errno."""
    return f"write errno {word}" if constants.family("errno", NATIVE).value(word) is not None else ""


def syscall(name: str) -> str:
    """Return a hint for the name of an entry that is no system call; "" if it is not a setting's or a line's word either."""
    if name in SETTINGS:
        return f"a setting has no colon: {name} ..."
    return f"a line about ports is {name} connect: 443, or {name} connect HOST: 443" if name == "tcp" else ""


def line_end(word: str, *, after_rights: bool) -> str:
    """Return a hint for a word where the line should end; `after_rights`: the line is about a path."""
    if word in _OPERATORS:
        return f"write {_OPERATORS[word]}"
    if word == "else":
        return "`else` follows a condition"
    return "commas stand between rights: read, write" if after_rights and word.isidentifier() else ""
