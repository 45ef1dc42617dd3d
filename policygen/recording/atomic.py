"""Files that are either the old one or the new one, whatever happens while they are written."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def write(path: Path, data: bytes) -> None:
    """Replaces the file's content, or creates the file, durably.

    The old file is whole until the new one is (temporary file in the same folder, fsync, rename, fsync of the
    folder), and its mode is kept.  Raises OSError, with nothing changed: also for a symbolic link (in a shared folder
    it could lead anywhere), for what is not a regular file, and for a file without write permission, although a
    rename could replace each of them.
    """
    mode = _replaceable(path)
    temporary = path.with_name(f".{path.name}.{os.urandom(8).hex()}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            if mode is not None:
                os.fchmod(descriptor, mode)
            os.fsync(descriptor)
        temporary.replace(path)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)  # a full disk is told by write(2), which knows no name
        raise
    _sync_folder(path.parent)


def check_writable(path: Path) -> None:
    """Raises the OSError that `write` would raise now, as far as that can be known without writing."""
    _replaceable(path)
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise OSError(errno.EACCES, "is a folder that cannot be written to", str(path.parent))
    if os.statvfs(path.parent).f_flag & os.ST_RDONLY:  # root may do anything, but not this
        raise OSError(errno.EROFS, "is on a read-only file system", str(path.parent))


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keeps everybody else who asks for the same path waiting, from reading the file until it is written.

    The lock is a file beside it, since the file itself is replaced; it is gone afterwards.  One left behind by a
    killed process does no harm: the kernel drops the lock with the process (flock(2)).
    """
    name = path.with_name(f".{path.name}.lock")
    while True:
        descriptor = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if _is_current(descriptor, name):
                break
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
    try:
        yield
    finally:
        with suppress(OSError):
            name.unlink()
        os.close(descriptor)


def _is_current(descriptor: int, name: Path) -> bool:
    """Whether the name still leads to the file we hold: its last holder removes it, perhaps while we waited."""
    try:
        return os.path.samestat(os.fstat(descriptor), name.lstat())
    except FileNotFoundError:
        return False


def _replaceable(path: Path) -> int | None:
    """The permission bits of the file there, or None if there is none; OSError if it should not be replaced."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return None
    if stat.S_ISLNK(status.st_mode):
        raise OSError(errno.ELOOP, "is a symbolic link: name the file that it leads to", str(path))
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "is not a regular file", str(path))
    if not os.access(path, os.W_OK):
        raise OSError(errno.EACCES, "is write-protected", str(path))
    return stat.S_IMODE(status.st_mode)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
