"""Copy callfence to where every user can read it: a checkout and its interpreter may be out of other users' reach."""

from __future__ import annotations

import importlib.util
import shutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

NEEDED = ("callfence", "ptrace", "pyseccomp.py")
"""callfence, and the packages and modules that it cannot do without."""


def copy_packages(folder: Path, *others: str) -> None:
    """Copy NEEDED and other installed packages or modules (`NAME.py`) into a folder, which is made."""
    folder.mkdir()
    for name in (*NEEDED, *others):
        spec = importlib.util.find_spec(name.removesuffix(".py"))
        assert spec is not None and spec.origin is not None, name
        if name.endswith(".py"):
            shutil.copy(spec.origin, folder)
        else:
            source = spec.origin.removesuffix("/__init__.py")
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
