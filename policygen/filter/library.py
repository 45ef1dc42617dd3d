"""Where libseccomp is: the only module that imports pyseccomp."""

from __future__ import annotations

import ctypes
from contextlib import contextmanager
from importlib.machinery import PathFinder
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator


class LibseccompError(Exception):
    """libseccomp is missing, refused the rules, died or did not come to an end."""


def require() -> None:
    """LibseccompError if there is no libseccomp: for those who want to know before they need it.

    Looks whether all can be found, and leaves it to who needs pyseccomp to load it, which takes 8 ms."""
    with _told():
        if PathFinder.find_spec("pyseccomp") is None:
            raise ImportError("No module named 'pyseccomp'")
        ctypes.CDLL(_soname("seccomp"))


def pyseccomp() -> Any:
    """The module.  Raises LibseccompError."""
    from ctypes import util

    find = util.find_library
    util.find_library = _soname  # pyseccomp runs ldconfig(8) with it, twice: 9 ms, for what the loader knows
    try:
        with _told():
            import pyseccomp
    finally:
        util.find_library = find
    return pyseccomp


def _soname(name: str) -> str:
    return {"c": "libc.so.6", "seccomp": "libseccomp.so.2"}[name]


@contextmanager
def _told() -> Iterator[None]:
    """What is missing, and what to do about it, as a LibseccompError."""
    try:
        yield
    except ImportError as error:
        raise LibseccompError(f"pyseccomp is missing ({error}): pip install pyseccomp") from error
    except (RuntimeError, OSError) as error:  # it finds no shared library, or one that cannot be loaded
        raise LibseccompError(
            f"libseccomp is missing ({error}): install the package libseccomp2 (Debian, Ubuntu) or libseccomp"
        ) from error
