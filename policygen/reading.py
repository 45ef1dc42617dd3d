"""Read files that another user may have chosen.

Every start of `enforce` imports this module, so it imports nothing that takes a millisecond.
"""

from __future__ import annotations

import errno
import os
import stat

from callfence.tracer import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from io import BufferedReader
    from typing import BinaryIO

    Check = Callable[[str, os.stat_result], None]

MAX_SIZE = 64 << 20
"""The most bytes of a policy's file: a hundred thousand rules take 3 MiB."""


_FIRST = 1 << 16
"""Bytes that the first read takes; nearly every file is smaller."""


def read(name: str, limit: int = MAX_SIZE, check: Check | None = None, *, is_text: bool = False) -> bytes:
    """Return the content of a regular file.  `check` is called with the file's name and status once it is open, and may refuse
    the file by an exception.  `is_text`: as in `beginning`.  Raises OSError, also for a pipe or device (without waiting for
    it), and for a file of more than `limit` bytes."""
    with regular(name, check) as file:
        data = beginning(file, limit + 1, is_text=is_text)
    if len(data) > limit:
        raise OSError(errno.EFBIG, f"more than {limit >> 20} MiB, which is more than callfence reads", name)
    return data


def beginning(file: BinaryIO, size: int, *, is_text: bool = False) -> bytes:
    """Return the first `size` bytes of a file, or all of a shorter one, using little more memory than the bytes take.
    `is_text`: a NUL is a mistake, so what comes long after one is left out: a sparse file takes no disk, but memory."""
    data, length = b"", _FIRST
    while len(data) < size:
        more = file.read(min(length, size - len(data))) or b""  # None: the file would make us wait, as some of /proc do
        data += more
        if len(more) < length or (is_text and b"\0" in more):
            break
        length = len(data)
    return data


def regular(name: str, check: Check | None = None, *, follow: bool = True) -> BufferedReader:
    """Open a regular file for reading.  `check` is called as in `read`.  Raises OSError, also for a pipe or device, without
    waiting for it, and unless `follow` for a symbolic link."""
    _require_regular(os.stat(name, follow_symlinks=follow), name)  # before opening, which makes some devices act
    descriptor = os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC | os.O_NOFOLLOW * (not follow))
    try:
        status = os.fstat(descriptor)
        _require_regular(status, name)
        if check is not None:
            check(name, status)
    except BaseException:
        os.close(descriptor)
        raise
    return open(descriptor, "rb")


def below(policy: str, check: Check | None = None) -> Callable[[str], bytes]:
    """Return a function that reads included files of the policy in the file `policy`.  It does the same as `read`, but raises
    OSError for a file that is not below the policy's folder once symbolic links are followed."""

    def reader(name: str) -> bytes:
        real = os.path.realpath(name)
        if not real.startswith(os.path.join(os.path.realpath(os.path.dirname(policy)), "")):
            raise OSError(errno.EXDEV, "it is not below the folder of the policy", name)
        return read(real, check=check)

    return reader


def _require_regular(status: os.stat_result, name: str) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise OSError(errno.EISDIR, os.strerror(errno.EISDIR), name)
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "is not a regular file", name)
