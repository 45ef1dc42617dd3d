"""Make the Landlock rules of a policy's `path` lines: look up the files that they name (landlock(7)).

Loaded only for policies that confine files.
"""

from __future__ import annotations

import errno
import os
import stat

from callfence.enforcer import kernel
from callfence.enforcer.errors import EnforceError
from callfence.policygen.files import landlock
from callfence.policygen.files.places import (
    LED,
    MADE_BELOW,
    OWN_FOLDERS,
    UNLISTED,
    Linking,
    PlaceError,
    here,
    located,
    of_process,
    real_path,
    without_links,
)
from callfence.tracer import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_PROC, _SYSFS = 0x9FA0, 0x62656572  # PROC_SUPER_MAGIC, SYSFS_MAGIC (linux/magic.h)
_OUT_OF_REACH = (errno.ENOENT, errno.ENOTDIR, errno.EACCES)
_CHANGES = ~(landlock.READ_FILE | landlock.READ_DIR | landlock.EXECUTE | landlock.IOCTL_DEV)
_FDINFO = 1 << 12
"""Bytes that are read of /proc/PID/fdinfo/N; the flags stand in the second line (proc_pid_fdinfo(5))."""
_TERMINALS = {4, *range(136, 144)}  # TTY_MAJOR, UNIX98_PTY_SLAVE_MAJOR and the next seven (linux/major.h)
"""The major numbers of the devices that are terminals."""
_WRITING = landlock.WRITE_FILE | landlock.TRUNCATE
_OF_MODE = {os.O_RDONLY: landlock.READ_FILE, os.O_WRONLY: _WRITING, os.O_RDWR: landlock.READ_FILE | _WRITING}
"""The rights of a descriptor, by the access mode with which it was opened."""
_OF_A_FOLDER = _CHANGES & ~landlock.OF_A_FILE
"""The changes that only a folder has rights to."""


class GrantError(EnforceError):
    """A policy has a line about a file that no Landlock rule can express."""

    def __init__(self, path: bytes, text: str) -> None:
        """`path`: the path as the policy writes it."""
        super().__init__(text)
        self.path = path


class Grants:
    """Adds the rules of `path` lines to rulesets."""

    __slots__ = ("_environment", "_failed", "_process", "held", "remarks")

    def __init__(self, environment: Sequence[bytes], process: int, remarks: list[str], held: list[int]) -> None:
        """`environment`: the program's.  `process`: the id of the process that becomes the program, if not this one.  To
        `remarks` and `held` is added what `Confinement` has under these names."""
        self._environment = environment
        self._process = process
        self._failed: list[tuple[bytes, bytes, str]] = []
        """The lines whose paths were not opened, the paths, and why."""
        self.remarks = remarks
        self.held = held

    def add(self, ruleset: int, effective: landlock.Effective) -> None:
        """Add a rule for each path to a ruleset, which handles `effective`.  Raises GrantError, OSError."""
        places: list[tuple[bytes, bytes, int]] = []
        for path, access in effective.rules.paths or ():
            try:
                places.append((path, of_process(located(path, self._environment), self._process), access))
            except PlaceError as error:
                raise GrantError(path, str(error)) from error
        with_links = Linking((place, access) for _, place, access in places)
        makes_folders = [place for _, place, access in places if access & landlock.MAKE_DIR]
        meant = {path: without_links(place, with_links) for path, place, _ in places}
        for path, place, access in places:  # all before the first rule, which may be for a folder above one that is created
            may_be_made = any(_is_in(place, folder) for folder in makes_folders)
            is_own = path in OWN_FOLDERS and access & _CHANGES
            is_below = path.startswith(MADE_BELOW) and access & _OF_A_FOLDER
            if may_be_made and (is_own or is_below) and meant[path] <= {real_path(place)}:
                try:
                    _make(path, place)
                except OSError as error:
                    self._failed.append((path, place, error.strerror or ""))
        failed = {path for path, _, _ in self._failed}
        for path, place, access in places:
            if path not in failed:
                self._grant(ruleset, path, place, access, meant[path])
        self._report()
        for _, descriptor, access in unlisted(self._process):
            kernel.landlock_allow_path(ruleset, access & effective.handled_files, descriptor)
            self._close(descriptor)

    def _grant(self, ruleset: int, line: bytes, path: bytes, access: int, meant: set[bytes]) -> None:
        """Add the rule for one path to a ruleset.  A missing file gets none, with a remark if the line would let the program
        change it; nor does a path that leads elsewhere than to each of `meant`.  Raises GrantError, OSError."""
        try:
            descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError as error:
            if error.errno not in _OUT_OF_REACH or access & _CHANGES:
                self._failed.append((line, path, error.strerror or ""))
            return
        try:
            if meant - {_real(descriptor, path)}:
                self.remarks.append(f"path {os.fsdecode(line)} grants nothing: {LED}")
                return
            if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
                listing = landlock.READ_DIR if access & landlock.READ_FILE else 0  # `read` says it of a file, too
                if excess := access & ~(landlock.OF_A_FILE | listing):
                    words = [word for word, bits in landlock.ACCESS.items() if bits & -bits & excess]
                    rights = ", ".join(words)
                    raise GrantError(line, f"path {os.fsdecode(line)} is no folder, and only a folder can be granted {rights}")
                access &= landlock.OF_A_FILE
            kernel.landlock_allow_path(ruleset, access, descriptor)
            if b"/" in line and not line.startswith(b"/"):
                self._look_for_links(line, path, descriptor)
        except OSError as error:
            if error.errno != errno.EBADFD:
                raise
            text = f"path {os.fsdecode(line)} is a pipe or a socket in no folder, which Landlock cannot grant: remove the line"
            raise GrantError(line, text) from error
        finally:
            self._close(descriptor)

    def _report(self) -> None:
        """Add a remark for each line that grants nothing; one for all below a folder that is missing (HOME=/nonexistent)."""
        for line, path, problem in self._failed:
            name, slash, rest = line.partition(b"/")
            who = f"path {os.fsdecode(line)} grants"
            if name.startswith(b"$") and not os.path.lexists(folder := path.removesuffix(slash + rest)):
                who, path = f"the lines about {os.fsdecode(name)} grant", folder
            remark = f"{who} nothing: {os.fsdecode(path)}: {problem}"
            if remark not in self.remarks:
                self.remarks.append(remark)
        self._failed.clear()

    def _close(self, descriptor: int) -> None:
        """Close a granted file, unless it is to be held and there is room: starting the program takes descriptors, too."""
        if kernel.file_system(descriptor) == _PROC and descriptor < os.sysconf("SC_OPEN_MAX") // 2:
            self.held.append(descriptor)
        else:
            os.close(descriptor)

    def _look_for_links(self, line: bytes, path: bytes, descriptor: int) -> None:
        """Add a remark if the path, which is below a named folder, leads outside of it by a symbolic link.  Links below the
        path need no look: Landlock judges the file that they lead to."""
        try:
            real = os.readlink(b"/proc/self/fd/%d" % descriptor)
        except OSError:  # /proc is not mounted
            return
        start, _, rest = line.partition(b"/")
        folder = here() if start == b"." else path[: -len(rest) - 1]
        if real == folder + b"/" + rest:
            return
        folder = real_path(folder).rstrip(b"/") + b"/"
        if not real.startswith(folder):
            name, place = os.fsdecode(line), os.fsdecode(real)
            self.remarks.append(f"path {name} leads to {place} by a symbolic link, and grants that")


def _make(line: bytes, path: bytes) -> None:
    """Make the folders of a line that are missing, below its named folder, with this user alone in them.  Raises OSError."""
    _, *names = line.split(b"/")
    for count in range(len(names), 0, -1):
        folder = path.rsplit(b"/", count - 1)[0]
        try:
            os.mkdir(folder, 0o700)
        except OSError:
            if not os.path.isdir(folder):
                raise


def _is_in(path: bytes, folder: bytes) -> bool:
    """Return whether a path is that of a folder, or below it."""
    return path == folder or path.startswith(folder.rstrip(b"/") + b"/")


def unlisted(process: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield what can be opened without a line: the path (b"" if it is not to be reported), a descriptor to close, and
    Landlock's rights.  `process`: that of `Grants`."""
    for path, device, access in UNLISTED:
        if (descriptor := _is_there(path, device)) is not None:
            yield path, descriptor, access
    for descriptor, access in streams(process or os.getpid()):
        yield b"", descriptor, access


def streams(process: int) -> Iterator[tuple[int, int]]:
    """Yield a descriptor, to close, of each regular file and terminal that is a standard stream of a process, and Landlock's
    rights that the stream has: opening it anew, as /dev/stdout, gives nothing that the program does not hold.  Other devices
    may be other ones each time that they are opened (/dev/ptmx), and a folder holds others."""
    for number in range(3):
        try:
            with open(f"/proc/{process}/fdinfo/{number}", "rb", buffering=0) as file:
                flags = int(file.read(_FDINFO).split(b"flags:", 1)[1].split()[0], 8)
            descriptor = os.open(f"/proc/{process}/fd/{number}", os.O_PATH | os.O_CLOEXEC)
        except (OSError, IndexError):  # it is closed, or /proc is not mounted
            continue
        status = os.fstat(descriptor)
        is_terminal = stat.S_ISCHR(status.st_mode) and os.major(status.st_rdev) in _TERMINALS
        access = _OF_MODE.get(flags & (os.O_ACCMODE | os.O_PATH), 0)
        if access and (is_terminal or stat.S_ISREG(status.st_mode)):
            yield descriptor, access | landlock.IOCTL_DEV * is_terminal
        else:
            os.close(descriptor)


def _is_there(path: bytes, device: tuple[int, int] | int | None) -> int | None:
    """Return a descriptor of the character device with that path and number; of the file of sysfs or procfs if `device` is
    None; of the file of a kind (S_IFREG: without another name) that root alone may change if it is that kind.  None if
    something else is there."""
    try:
        descriptor = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    status = os.fstat(descriptor)
    if device is None:
        is_it = stat.S_ISREG(status.st_mode) and kernel.file_system(descriptor) in {_PROC, _SYSFS}
    elif isinstance(device, int):
        is_root_s = status.st_uid == 0 and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        is_it = is_root_s and stat.S_IFMT(status.st_mode) == device and (device != stat.S_IFREG or status.st_nlink == 1)
    else:
        is_it = stat.S_ISCHR(status.st_mode) and status.st_rdev == os.makedev(*device)
    if is_it:
        return descriptor
    os.close(descriptor)
    return None


def _real(descriptor: int, path: bytes) -> bytes:
    """Return the path of an open file, with symbolic links resolved."""
    try:
        return os.readlink(b"/proc/self/fd/%d" % descriptor)
    except OSError:  # /proc is not mounted
        return real_path(path)
