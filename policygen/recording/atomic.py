"""Replace files atomically, in folders that are held open.

A crash leaves either the old or the new file, even if the folder's path is changed meanwhile.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from callfence.tracer.linux import MAXSYMLINKS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

OURS = ".callfence"
"""The name of the folder of recordings, which callfence creates and which must not be a symbolic link."""


@contextmanager
def opened(folder: Path) -> Iterator[int]:
    """Context manager that opens a folder and gives its descriptor, for use as `dir_fd`.  Raises OSError.

    A symbolic link in the path is followed if it belongs to this user, to root, or to the owner of the folder at the end of the
    path: any other owner could make this process write where that owner cannot (the rule of protected_symlinks, proc_sys_fs(5),
    applied to any folder).  A folder named .callfence must not be a link."""
    descriptor = _walk(folder)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> None:
    """Create a folder, unless it exists; its parent must exist.  Raises OSError."""
    with opened(folder.parent) as at, suppress(FileExistsError):
        try:
            os.mkdir(folder.name or ".", dir_fd=at)  # the current folder has no name
        except OSError as error:
            error.filename = str(folder)
            raise


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
                if name == OURS or links > MAXSYMLINKS:
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
    """Return the names in a symbolic link's target; the first is `/` if it begins at the root."""
    return ["/"] * target.startswith("/") + [name for name in target.split("/") if name]


_PERMISSIONS = 0o777
"""The mode bits that are kept: root must not create a set-user-ID file whose content is another user's."""
MAX_WAIT = 30.0
"""The most seconds for which a lock is waited for: writing takes 2 seconds with the largest recordings (docs/benchmarks.md)."""
_LONGER = 39
"""Bytes by which names of files beside a recording, or a policy, are longer: `.NAME-0123456789abcdef.rec.0123456789abcdef.tmp`
instead of `NAME.rec`, where a run is written to a file of its own."""
_INTERVAL = 0.02
"""Seconds until it is tried again."""
_LOCK = os.O_WRONLY | os.O_CREAT | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC | os.O_NOFOLLOW
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def write(path: Path, data: bytes) -> None:
    """Replace the content of a file, or create the file, durably; see `write_all`."""
    write_all(path, (data,))


def write_all(path: Path, pieces: Iterable[bytes]) -> None:
    """Replace the content of a file, or create the file, durably.  If `pieces` raises an exception, it is passed on, and the
    old file is unchanged.

    The old file stays until the new one is complete (temporary file in the same folder, fsync, rename, fsync of the folder).
    Its owner and permission bits are kept as far as possible.  Raises OSError, with nothing changed; also for a symbolic link
    (in a shared folder it could point anywhere), for anything but a regular file, and for a file without write permission,
    although rename(2) could replace each of them.  `opened` says which links in the path are followed."""
    with opened(path.parent) as at, _named(path):
        old = _replaceable(path, at)
        temporary = f".{path.name}.{os.urandom(8).hex()}.tmp"
        try:
            descriptor = os.open(temporary, _NEW, 0o600 if old else 0o664, dir_fd=at)  # enforce refuses what all can write
        except PermissionError as error:  # of the folder: the file itself may be written
            raise OSError(error.errno, "is in a folder that cannot be written to") from error
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.writelines(pieces)
                file.flush()
                if old:
                    _keep(descriptor, old)
                os.fsync(descriptor)
            os.rename(temporary, path.name, src_dir_fd=at, dst_dir_fd=at)
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary, dir_fd=at)
            raise
        _sync(at)


def check_writable(path: Path) -> None:
    """Raise the OSError that `write` would raise now, as far as it can be predicted without writing."""
    with opened(path.parent) as at:
        with _named(path):
            _replaceable(path, at)
        if not os.access(".", os.W_OK | os.X_OK, dir_fd=at):
            raise OSError(errno.EACCES, "is a folder that cannot be written to", str(path.parent))
        system = os.fstatvfs(at)
        if len(os.fsencode(path.name)) + _LONGER > system.f_namemax:
            raise OSError(errno.ENAMETOOLONG, "has a name that leaves no room for those of the files beside it", str(path))
        if system.f_flag & os.ST_RDONLY:  # root may do anything, but not this
            raise OSError(errno.EROFS, "is on a read-only file system", str(path.parent))


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Context manager that holds an exclusive lock for a path, so that no change by another process gets lost between reading
    and writing.  Raises OSError, also if the lock is not to be had for MAX_WAIT seconds: whoever may write to the folder could
    hold it for ever.

    The lock is on a file beside it, since the file itself is replaced; the lock file is removed afterwards.  A lock file that a
    killed process leaves does no harm, since the kernel has released the lock (flock(2))."""
    name = f".{path.name}.lock"
    with opened(path.parent) as at:
        descriptor = _lock(path, name, at)
        try:
            yield
        finally:
            with suppress(OSError):
                os.unlink(name, dir_fd=at)
            os.close(descriptor)


def _lock(path: Path, name: str, at: int) -> int:
    """Return the descriptor of the lock file once we have the lock.  Raises OSError.  Only who may write to the lock file can
    open it, and so hold the lock."""
    end = time.monotonic() + MAX_WAIT
    while True:
        with _named(path):
            descriptor = os.open(name, _LOCK, 0o222, dir_fd=at)
        try:
            while True:
                is_held = _is_taken(descriptor)
                is_current = _is_current(descriptor, name, at)
                if is_held and is_current:
                    return descriptor
                if time.monotonic() >= end:
                    reason = f"another process has held this lock for {MAX_WAIT:.0f} seconds (fuser(1) names it)"
                    raise OSError(errno.ETIMEDOUT, reason, str(path.with_name(name)))
                if not is_current:
                    break
                time.sleep(_INTERVAL)
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _is_taken(descriptor: int) -> bool:
    """Take the lock of a file, and return whether we have it: another process may."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Context manager that puts the whole path into an OSError: calls with descriptors give only its last part, or none."""
    try:
        yield
    except OSError as error:
        error.filename, error.filename2 = str(path), None
        raise


def _is_current(descriptor: int, name: str, at: int) -> bool:
    """Return whether the name still refers to our lock file: its last holder may have removed it while we waited."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(name, dir_fd=at, follow_symlinks=False))
    except FileNotFoundError:
        return False


def _replaceable(path: Path, at: int) -> os.stat_result | None:
    """Return the status of the file in the folder, or None if it does not exist.  Raises OSError if it must not be replaced."""
    try:
        status = os.stat(path.name or ".", dir_fd=at, follow_symlinks=False)  # the current folder has no name
    except FileNotFoundError:
        return None
    if stat.S_ISLNK(status.st_mode):
        raise OSError(errno.ELOOP, "is a symbolic link: name the file that it leads to")
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "is not a regular file")
    if not os.access(path.name, os.W_OK, dir_fd=at):
        raise OSError(errno.EACCES, "is write-protected")
    return status


def _keep(descriptor: int, old: os.stat_result) -> None:
    """Give the new file the owner and permission bits of the old one; the owner first, while no other user can open it."""
    permissions = old.st_mode & _PERMISSIONS
    try:
        os.fchown(descriptor, old.st_uid, old.st_gid)
    except OSError:  # only root can give files to others, and only to users of its namespace
        with suppress(OSError):
            os.fchown(descriptor, -1, old.st_gid)
        if os.fstat(descriptor).st_gid != old.st_gid:
            permissions &= ~stat.S_IRWXG
    os.fchmod(descriptor, permissions)


def _sync(at: int) -> None:
    try:
        descriptor = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=at)
    except PermissionError:  # a folder that may be written and not read: the file is replaced all the same
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
