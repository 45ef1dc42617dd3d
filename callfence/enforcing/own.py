"""Grants that reach what confines the program: its policy, the recording, the caches of filters, this installation."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from callfence.enforcing.cache import SYSTEM, folder
from callfence.shared.files import recording_path
from policygen.files.landlock import PlaceError, located
from policygen.grants import Right, path_line
from policygen.lint.files import Risk
from policygen.paths import encoded

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from policygen.grants import Files

_ROOT = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))
_CHANGES = Right.WRITE | Right.CREATE | Right.REMOVE
_SAFER = "keep it elsewhere, or grant a folder below"
_SOURCE = "docs/files.md"


def own(files: Files, policy: Path) -> Iterator[tuple[str, Risk]]:
    """Yield the lines that let the program change one of these, as they are on this machine, each with the risk."""
    kept = [
        ("own-policy", "warning", os.fspath(policy), "its own policy", "the next start has another one"),
        ("own-recording", "note", os.fspath(recording_path(policy)), "its own recording", "`why` and later runs believe it"),
        ("own-cache", "warning", folder(), "the cache of filters", "what is written there is not used, but can be missing"),
        ("own-cache", "danger", SYSTEM, "the filters that root has compiled", "all programs are confined by them"),
        ("own-installation", "danger", _ROOT, "callfence itself", "the next start runs what it has written, unconfined"),
    ]
    environment = [os.fsencode(f"{name}={value}") for name, value in os.environ.items()]
    for path, rights in (files.paths or {}).items():
        if not rights & _CHANGES:
            continue
        try:
            place = os.path.realpath(os.fsdecode(located(encoded(path), environment)))
        except PlaceError:
            continue
        for rule, level, what, grants, why in kept:
            whole = os.path.realpath(what)
            if what and (whole == place or whole.startswith(place.rstrip("/") + "/") or place.startswith(whole + "/")):
                yield path_line(path), Risk(rule, level, (), (), f"can change {grants}, {what}", why, _SAFER, _SOURCE)
