"""The folder of a file that is to be written, held open: what its path leads to meanwhile does not matter."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

OURS = ".callfence"
"""The folder of recordings.  We make it, and never as a symbolic link."""
_MANY_LINKS = 40  # MAXSYMLINKS, linux/namei.h


@contextmanager
def opened(folder: Path) -> Iterator[int]:
    """A descriptor of the folder, to be used as `dir_fd`.  Raises OSError.

    A symbolic link on the way is followed if it belongs to this user, to root, or to the owner of the folder that the path
    leads to: otherwise its owner would make us write where he cannot (the rule of proc_sys_fs(5), protected_symlinks, for
    any folder).  A folder named .callfence must not be a link.
    """
    descriptor = _walk(folder)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def make(folder: Path) -> None:
    """Create the folder in one that exists, if it is not there.  Raises OSError."""
    with opened(folder.parent) as at, suppress(FileExistsError):
        os.mkdir(folder.name or ".", dir_fd=at)  # the current folder has no name


def _walk(folder: Path) -> int:
    trusted = {0, os.geteuid()}
    strangers: set[int] = set()
    names = [*reversed(folder.parts)]
    links = 0
    here = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        while names:
            name = names.pop()
            there = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=here)
            try:
                status = os.fstat(there)
                if not stat.S_ISLNK(status.st_mode):
                    here, there = there, here
                    continue
                links += 1
                if name == OURS or links > _MANY_LINKS:
                    raise OSError(errno.ELOOP, "is a symbolic link")
                strangers.update({status.st_uid} - trusted)
                names += reversed(_parts(os.readlink("", dir_fd=there)))
            finally:
                os.close(there)
        status = os.fstat(here)
        if not stat.S_ISDIR(status.st_mode):
            raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        if strangers - {status.st_uid}:
            raise OSError(errno.ELOOP, "is reached through a symbolic link of another user")
    except OSError as error:
        os.close(here)
        error.filename = str(folder)
        raise
    return here


def _parts(target: str) -> list[str]:
    """The names in a symbolic link's target, one that begins at the root with that first."""
    return ["/"] * target.startswith("/") + [name for name in target.split("/") if name]
