"""Find the unix socket that a task means by a path, and judge it by the policies' lines."""

from __future__ import annotations

import errno
import os
import stat

from callfence.enforcer.hosts.identity import Identity, acting
from callfence.enforcer.hosts.making import check
from callfence.enforcer.hosts.rules import ANY
from callfence.tracer import TYPE_CHECKING
from callfence.tracer.errors import UserError
from callfence.tracer.linux import MAXSYMLINKS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from callfence.enforcer.listener import Request

_OPEN = os.O_PATH | os.O_CLOEXEC
_MAX_NAMES = 1024
"""The most names of folders and links on the way to a file: links can make it 80,000, and the program's other calls wait."""
NAME_SERVICES = (
    b"/run/nscd/socket", b"/var/run/nscd/socket", b"/run/systemd/resolve/io.systemd.Resolve", b"/run/avahi-daemon/socket",
    b"/var/run/avahi-daemon/socket",
)  # fmt: skip
"""Sockets of services that look up names for programs: nscd(8), systemd-resolved(8), avahi-daemon(8).  Where names are
confined, these are not there, so that C libraries ask a name server.  C libraries say /var/run, which may be a folder."""


class UnclearError(UserError):
    """The name of the socket's file does not tell which socket it is."""


class Found:
    """A unix socket's file, opened, so that another cannot take its place."""

    __slots__ = ("descriptor", "path", "status")

    def __init__(self, descriptor: int, path: bytes, status: os.stat_result) -> None:
        self.descriptor = descriptor
        self.path = path
        """Its absolute path, with links resolved."""
        self.status = status

    @property
    def address(self) -> bytes:
        """The struct sockaddr_un by which this process connects to it."""
        return b"\1\0/proc/self/fd/%d\0" % self.descriptor

    @property
    def is_name_service(self) -> bool:
        """Whether it is one of NAME_SERVICES, whatever path leads to it (hard links, mounts)."""
        return any(self.path == path or _is_at(path, self.status) for path in NAME_SERVICES)

    def close(self) -> None:
        os.close(self.descriptor)


def find(request: Request, path: bytes, caller: Identity | None, *, confines: bool) -> Found:
    """Open the file that the task of a call means by a path, as its root and its working folder have it and as `caller`, its
    user, may.  Raises OSError with the errno of connect(2), and GoneError.

    `confines`: raise UnclearError if its name does not tell which file it is."""
    task = request.call.task
    for own in (b"/proc/self/", b"/proc/thread-self/"):  # that is not this process
        if path.startswith(own):
            path = b"/proc/%d/%s" % (task, path.removeprefix(own))
    has_our_root = os.readlink(b"%d/root" % task) == b"/"  # the working folder is /proc (`enforcer.helper.leave`)
    has_our_files = has_our_root and os.readlink(b"%d/ns/mnt" % task) == os.readlink(b"self/ns/mnt")
    root = os.open(b"%d/root" % task, _OPEN)
    start = -1
    try:
        start = -1 if path.startswith(b"/") else os.open(b"%d/cwd" % task, _OPEN)
        if has_our_files:
            folder = root if start < 0 else start
            descriptor = acting(caller, lambda: os.open(path.lstrip(b"/") or b".", _OPEN, dir_fd=folder))
        else:
            descriptor = acting(caller, lambda: _walked(root, start, path))
    finally:
        os.close(root)
        if start >= 0:
            os.close(start)
    try:
        check(request)  # else what was found may be another task's
        status = os.fstat(descriptor)
        if status.st_nlink > 1 and confines:
            raise UnclearError("the socket's file has several names (hard links), so no line about one of them grants it")
        found = os.readlink(b"self/fd/%d" % descriptor)
        if confines and not _is_at(found, status):
            raise UnclearError("the socket's file has another name in the mount namespace of its helper")
        return Found(descriptor, found, status)
    except BaseException:
        os.close(descriptor)
        raise


def _walked(root: int, start: int, path: bytes) -> int:
    """Open the file at a path as a task with another root folder or mount namespace means it: for the kernel, symbolic links
    and `..` would lead where they lead for this process.

    `root` is that folder, `start` the task's working folder, for a relative path.  A link of /proc counts as its text.  Raises
    OSError."""
    names, links, count, top = path.split(b"/")[::-1], 0, 0, os.fstat(root)
    at = os.open(b".", _OPEN, dir_fd=root if path.startswith(b"/") else start)
    try:
        while names:
            name = names.pop()
            count += 1
            if count > _MAX_NAMES:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), "connect")
            if name in (b"", b".") or (name == b".." and os.path.samestat(os.fstat(at), top)):
                continue
            new = os.open(name, _OPEN | os.O_NOFOLLOW, dir_fd=at)
            if stat.S_ISLNK(os.fstat(new).st_mode):
                os.close(new)
                links += 1
                if links > MAXSYMLINKS:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), "connect")
                target = os.readlink(name, dir_fd=at)
                names += target.split(b"/")[::-1]
                if not target.startswith(b"/"):
                    continue
                new = os.open(b".", _OPEN, dir_fd=root)
            os.close(at)
            at = new
        return at
    except BaseException:
        os.close(at)
        raise


def _is_at(path: bytes, status: os.stat_result) -> bool:
    """Return whether a path is that file for this process, too."""
    try:
        here = os.stat(path, follow_symlinks=False)
    except OSError:
        return False
    return os.path.samestat(here, status)


def is_granted(socket: bytes, granted: Sequence[bytes]) -> bool:
    """Return whether a socket, a path or `@NAME`, is one of those granted or below one (`Hosts.sockets`)."""
    for place in granted:
        if place == ANY.encode() or socket == place:
            return True
        if place.startswith(b"@"):
            if place.endswith(b"*") and socket.startswith(place[:-1]):
                return True
        elif socket.startswith(place.rstrip(b"/") + b"/"):
            return True
    return False
