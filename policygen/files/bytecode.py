"""The sources of Python's modules, which are read instead of their bytecode once that is older, or not there."""

from __future__ import annotations

import re
from collections.abc import Mapping

from callfence.policygen.grants import NOTHING, Right

_WHY = "Python reads the source of a module where its bytecode is older, or not there"
_BYTECODE = re.compile(r"(.*)/__pycache__/([^/.]+)\.[^/]+\.pyc")
"""PEP 3147: the folder, and the module's name."""


def sources(names: Mapping[str, Right]) -> set[str]:
    """Return the sources of the modules of which bytecode is read, by path and rights.  Who reads bytecode has looked
    at the source: without it, Python takes no bytecode from `__pycache__`."""
    read = (path for path, rights in names.items() if Right.READ in rights)
    return {f"{match[1]}/{match[2]}.py" for path in read if (match := _BYTECODE.fullmatch(path))}


def with_sources(names: Mapping[str, Right], why: dict[str, str]) -> dict[str, Right]:
    """Return the rights to files with the right to read `sources`; the reasons are added to `why`."""
    found = sources(names)
    why |= {path: _WHY for path in found if Right.READ not in names.get(path, NOTHING)}
    return {**names, **{path: names.get(path, NOTHING) | Right.READ for path in found}}
