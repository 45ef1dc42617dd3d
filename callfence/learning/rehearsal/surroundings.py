"""The surroundings of a rehearsed run: other standard streams, a new session without the terminal of learn, and, with
`--scratch`, a copy of the current folder that is removed after the run."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import select
import shutil
import stat
import tempfile
import termios
import threading
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Final

from callfence.learning.rehearsal.plan import Stream
from callfence.tracer.errors import UserError
from callfence.tracer.linux import WALL
from callfence.tracer.running.child import fork

_OUT_OF_THE_WAY: Final = 10
"""The least number for descriptors that are opened here, so that they are not among the standard ones."""
# linux/sched.h, linux/mount.h
_CLONE_NEWNS, _CLONE_NEWUSER = 0x00020000, 0x10000000
_MS_REC, _MS_PRIVATE = 0x4000, 1 << 18
_libc = ctypes.CDLL(None, use_errno=True)


class Input:
    """Standard input when the plain run began: its kind, and the offset from which a regular file can be read again."""

    def __init__(self) -> None:
        self.kind = _kind(0)
        self.offset = os.lseek(0, 0, os.SEEK_CUR) if self.kind is Stream.FILE else 0

    @property
    def is_terminal(self) -> bool:
        return self.kind is Stream.TERMINAL

    @property
    def is_repeatable(self) -> bool:
        return self.kind not in (Stream.TERMINAL, Stream.PIPE)

    def reopen(self) -> int:
        """Open the file, and return a descriptor that reads from where the plain run began.  Raises OSError."""
        descriptor = os.open("/proc/self/fd/0", os.O_RDONLY)
        os.lseek(descriptor, self.offset, os.SEEK_SET)
        return descriptor


class Streams:
    """The standard streams of one run.  What the program writes is discarded."""

    def __init__(self, plain: Input, changes: Mapping[int, Stream]) -> None:
        """`plain`: the input of the plain run; `changes`: what differs from that run, by descriptor.  Raises OSError."""
        self._opened: list[int] = []
        self._drained: list[int] = []
        self._terminal = -1
        self._streams = {number: self._open(number, plain, changes.get(number)) for number in (0, 1, 2)}
        wake, self._wake = os.pipe()
        self._opened += (wake, self._wake)
        self._thread = threading.Thread(target=self._drain, args=(wake,), daemon=True)

    def start(self) -> None:
        """Start the thread that reads and discards what the program writes; call this after the fork of the program."""
        self._thread.start()

    def enter(self) -> None:
        """In the child: start a new session, and replace the standard streams.  Raises OSError."""
        os.setsid()
        for number, descriptor in self._streams.items():
            if descriptor >= 0:
                os.dup2(descriptor, number)
            else:
                with contextlib.suppress(OSError):
                    os.close(number)
        if self._terminal >= 0:
            fcntl.ioctl(self._terminal, termios.TIOCSCTTY, 0)

    def close(self) -> None:
        """After the run: end the thread, and close the descriptors."""
        os.write(self._wake, b"!")
        if self._thread.ident:
            self._thread.join()
        for descriptor in self._opened:
            os.close(descriptor)

    def _open(self, number: int, plain: Input, change: Stream | None) -> int:
        kind = change or (plain.kind if number == 0 else _repeated(number))
        if kind is Stream.CLOSED:
            return -1
        if kind is Stream.TERMINAL and change is not None:
            return self._open_terminal()
        if kind is Stream.FILE and change is None and number == 0:
            return self._move(plain.reopen())
        if kind is Stream.FILE:
            file, name = tempfile.mkstemp()
            os.unlink(name)
            return self._move(file)
        if kind in (Stream.PIPE, Stream.BROKEN):
            return self._open_pipe(number, is_broken=kind is Stream.BROKEN or number == 0)
        name = Stream.FULL if kind is Stream.FULL else Stream.NULL
        return self._move(os.open(name, os.O_RDWR))

    def _open_terminal(self) -> int:
        if self._terminal < 0:
            master, slave = os.openpty()
            termios.tcsetwinsize(slave, (24, 80))
            self._drained.append(self._move(master))
            self._terminal = self._move(slave)
        return self._terminal

    def _open_pipe(self, number: int, *, is_broken: bool) -> int:
        ends = os.pipe()
        end, other_end = ends if number == 0 else ends[::-1]
        if is_broken:
            os.close(other_end)
        else:
            self._drained.append(self._move(other_end))
        return self._move(end)

    def _move(self, descriptor: int) -> int:
        """Move a descriptor to a number above the standard ones, and return that; `close` closes it."""
        moved = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, _OUT_OF_THE_WAY)
        os.close(descriptor)
        self._opened.append(moved)
        return moved

    def _drain(self, wake: int) -> None:
        open_ends = [*self._drained]
        while True:
            ready, _, _ = select.select([wake, *open_ends], [], [])
            for descriptor in ready:
                if descriptor == wake:
                    return
                with contextlib.suppress(OSError):  # EIO: the terminal's last user has gone
                    if os.read(descriptor, 1 << 16):
                        continue
                open_ends.remove(descriptor)


def _repeated(number: int) -> Stream:
    """Return the kind of stream that replaces an output of the plain run, so that nothing is written to the same file again."""
    kind = _kind(number)
    return kind if kind in (Stream.CLOSED, Stream.PIPE) else Stream.NULL


def _kind(number: int) -> Stream:
    try:
        mode = os.fstat(number).st_mode
    except OSError:
        return Stream.CLOSED
    if os.isatty(number):
        return Stream.TERMINAL
    if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode):
        return Stream.PIPE
    return Stream.FILE if stat.S_ISREG(mode) else Stream.NULL


class Way(StrEnum):
    """How a run gets a copy of the current folder."""

    OVERLAY = "an overlay on the current folder"
    COPY = "a copy of the current folder"


class Scratch:
    """Copies of the current folder, in which runs can change files without changing the folder."""

    def __init__(self) -> None:
        """Raises UserError if the current folder is /."""
        self.folder = Path.cwd()
        if self.folder == Path("/"):
            raise UserError("--scratch cannot copy the current folder, because it is /; run learn in another folder")
        self._spare = Path(tempfile.mkdtemp(prefix="callfence-"))
        self.way = Way.OVERLAY if self._can_overlay() else Way.COPY
        self._copy = self._spare / "copy" if self.way is Way.COPY else None

    @property
    def copied(self) -> str:
        """The folder that the current one is copied to; "" with an overlay on it."""
        return str(self._copy or "")

    def begin(self) -> None:
        """Before a run: copy the folder.  Raises OSError."""
        if self._copy is not None:
            shutil.copytree(self.folder, self._copy, symlinks=True)

    def enter(self) -> None:
        """In the child: make the copy its current folder.  Raises OSError."""
        if self._copy is not None:
            os.chdir(self._copy)
        else:
            _overlay(self.folder, self._spare)

    def renamed(self, path: str) -> str:
        """Return a path in the copy as the path in the current folder; return any other path unchanged."""
        return path.replace(str(self._copy), str(self.folder), 1) if self._copy and path.startswith(f"{self._copy}/") else path

    def end(self) -> None:
        """After a run: remove the copy."""
        if self._copy is not None:
            shutil.rmtree(self._copy, ignore_errors=True)

    def remove(self) -> None:
        """After all runs: remove the temporary folder."""
        shutil.rmtree(self._spare, ignore_errors=True)

    def _can_overlay(self) -> bool:
        """Return whether the kernel permits an overlay on the folder; a child process tries it."""
        child = fork(lambda: _overlay(self.folder, self._spare))
        return os.waitpid(child, WALL)[1] == 0


def _overlay(folder: Path, spare: Path) -> None:
    """Move this process to a new mount namespace with an overlay on the folder, whose upper layer is a tmpfs.  The overlay is
    gone with the last process of the namespace.  Without privilege a user namespace is created too.  Raises OSError."""
    user, group = os.getuid(), os.getgid()
    data = f"lowerdir=.,upperdir={spare}/upper,workdir={spare}/work"
    if os.geteuid() == 0:
        _checked(_libc.unshare(_CLONE_NEWNS), "unshare")
    else:
        _checked(_libc.unshare(_CLONE_NEWNS | _CLONE_NEWUSER), "unshare")
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
        data += ",userxattr"
    _mount(None, "/", None, _MS_REC | _MS_PRIVATE, None)
    _mount("tmpfs", str(spare), "tmpfs", 0, "mode=755,size=25%")
    for name in ("upper", "work"):
        (spare / name).mkdir()
    shutil.copystat(folder, spare / "upper")
    status = folder.stat()
    os.chown(spare / "upper", status.st_uid, status.st_gid)
    _mount("overlay", ".", "overlay", 0, data)
    os.chdir(folder)


def _mount(source: str | None, target: str, kind: str | None, flags: int, data: str | None) -> None:
    words = [None if word is None else os.fsencode(word) for word in (source, target, kind, data)]
    _checked(_libc.mount(*words[:3], ctypes.c_ulong(flags), words[3]), "mount")


def _checked(result: int, call: str) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), call)
