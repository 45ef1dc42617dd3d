"""What runs of a command have loaded, kept in one file, from which the next run loads it.

Finding, checking and reading 200 compiled modules one by one takes 5 of the 80 ms of a small `learn`.  Which modules a run
loads depends on what it finds, so each run that had to load others adds them.  Of a shared library only its place is kept.
"""

from __future__ import annotations

import os
import sys

from enforcer import sealed

_OURS = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))
_FOLDERS = (
    *(f"{_OURS}/{name}/" for name in ("callfence", "enforcer", "policygen", "tracer")),
    f"{os.path.dirname(os.__file__)}/",
    f"{sys.prefix}/lib/",
)
"""Where modules are kept from: not what PYTHONPATH adds for the program."""
_NOT = ("__main__", "site", "sitecustomize", "usercustomize", "enforcer", "enforcer.sealed")
"""Loaded before the file is read."""


def keep(file: str) -> None:
    """Write the file that `sealed.prefer` reads, unless it has all that is loaded now, or may not be written."""
    loaded = {name: module for name, module in sys.modules.items() if _path(module) and name not in _NOT}
    loader = sealed.kept(file)
    before = loader.index if loader else {}
    if loaded.keys() <= before.keys():
        return
    from enforcer import kept

    if not kept.may_keep():
        return
    stamps: sealed.Stamps = {}
    index: sealed.Index = {}
    content = bytearray()
    of = {name: (path, is_package) for name, (path, is_package, *_) in before.items()}
    of |= {name: (_path(module), hasattr(module, "__path__")) for name, module in loaded.items()}
    for name, (path, is_package) in of.items():
        try:
            stamps[path] = sealed.stamp(path)
            code = b"" if path.endswith(sealed.EXTENSION) else kept.code_of(path)
        except OSError:
            continue
        index[name] = (path, is_package, b"", len(content), len(content) + len(code))
        content += code
    kept.keep(file, stamps, index, bytes(content))


def _path(module: object) -> str:
    path = getattr(module, "__file__", None) or ""
    return path if path.endswith((".py", sealed.EXTENSION)) and path.startswith(_FOLDERS) else ""
