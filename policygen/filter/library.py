"""Loading of libseccomp: the only module that imports pyseccomp."""

from __future__ import annotations

import ctypes
from contextlib import contextmanager
from importlib.machinery import PathFinder
from typing import TYPE_CHECKING, Any

from tracer.errors import InternalError, UserError

if TYPE_CHECKING:
    from collections.abc import Iterator


class LibseccompError(InternalError):
    """libseccomp refused the rules, crashed, or did not finish in time."""


class MissingLibraryError(UserError):
    """libseccomp or pyseccomp is not installed; `str()` says how to install it."""


def require() -> None:
    """Raise MissingLibraryError unless libseccomp and pyseccomp can be found.

    pyseccomp itself is not loaded, which would take 8 ms."""
    with _told():
        if PathFinder.find_spec("pyseccomp") is None:
            raise ImportError("No module named 'pyseccomp'")
        ctypes.CDLL(_soname("seccomp"))


def pyseccomp() -> Any:
    """Return the module pyseccomp, loaded.  Raises MissingLibraryError."""
    from ctypes import util

    find = util.find_library
    util.find_library = _soname  # pyseccomp would run ldconfig(8) twice: 9 ms
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
    """Turn an error of the import into a MissingLibraryError that says what to install, or a MemoryError."""
    try:
        yield
    except ImportError as error:
        raise MissingLibraryError(f"pyseccomp is missing ({error}): pip install pyseccomp") from error
    except (RuntimeError, OSError) as error:  # the shared library is missing, or cannot be loaded
        if "map segment" in str(error) or "allocate" in str(error):  # what the dynamic loader says of want of memory
            raise MemoryError(str(error)) from error
        raise MissingLibraryError(
            f"libseccomp is missing ({error}): install the package libseccomp2 (Debian, Ubuntu) or libseccomp"
        ) from error
