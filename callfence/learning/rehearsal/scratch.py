"""`--scratch`: each run gets the current folder as a copy, and what it changes there is thrown away."""

from __future__ import annotations

import ctypes
import os
import shutil
import tempfile
from enum import StrEnum
from pathlib import Path

from tracer.errors import UserError
from tracer.linux import WALL
from tracer.starting.child import fork

# linux/sched.h, linux/mount.h
_CLONE_NEWNS, _CLONE_NEWUSER = 0x00020000, 0x10000000
_MS_REC, _MS_PRIVATE = 0x4000, 1 << 18
_libc = ctypes.CDLL(None, use_errno=True)


class Way(StrEnum):
    """How a run gets its copy."""

    OVERLAY = "an overlay on the current folder"
    COPY = "a copy of the current folder"


class Scratch:
    """The current folder, for runs that are to leave it as it is."""

    def __init__(self) -> None:
        """Raises UserError where there can be no copy."""
        self.folder = Path.cwd()
        if self.folder == Path("/"):
            raise UserError("--scratch: the current folder is /, which cannot be copied; run learn in another one")
        self._spare = Path(tempfile.mkdtemp(prefix="callfence-"))
        self.way = Way.OVERLAY if self._can_overlay() else Way.COPY
        self._copy = self._spare / "copy" if self.way is Way.COPY else None

    @property
    def copied(self) -> str:
        """The folder that the current one is copied to; "" if the current one is used, as an overlay."""
        return str(self._copy or "")

    def begin(self) -> None:
        """Before a run.  Raises OSError."""
        if self._copy is not None:
            shutil.copytree(self.folder, self._copy, symlinks=True)

    def enter(self) -> None:
        """In the child.  Raises OSError."""
        if self._copy is not None:
            os.chdir(self._copy)
        else:
            _overlay(self.folder, self._spare)

    def renamed(self, path: str) -> str:
        """A path of the copy as one of the folder that it stands for."""
        return path.replace(str(self._copy), str(self.folder), 1) if self._copy and path.startswith(f"{self._copy}/") else path

    def end(self) -> None:
        """After a run."""
        if self._copy is not None:
            shutil.rmtree(self._copy, ignore_errors=True)

    def remove(self) -> None:
        """After all runs."""
        shutil.rmtree(self._spare, ignore_errors=True)

    def _can_overlay(self) -> bool:
        """Whether the kernel permits it, found out in a child."""
        child = fork(lambda: _overlay(self.folder, self._spare))
        return os.waitpid(child, WALL)[1] == 0


def _overlay(folder: Path, spare: Path) -> None:
    """Give this process, and what it starts, a mount namespace with an overlay on the folder, whose upper layer is a tmpfs:
    all of it is gone with the last of them.  Without privilege it takes a user namespace.  Raises OSError."""
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
