"""Find the unix socket that a task means by a path, and judge it by the policies' lines."""

from __future__ import annotations

import os

from enforcer.hosts.identity import acting
from enforcer.hosts.rules import ANY
from tracer import TYPE_CHECKING
from tracer.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from enforcer.hosts.identity import Identity

_OPEN = os.O_PATH | os.O_CLOEXEC
NAME_SERVICES = (b"/run/nscd/socket", b"/run/systemd/resolve/io.systemd.Resolve", b"/run/avahi-daemon/socket")
"""Sockets of services that look up names for programs: nscd(8), systemd-resolved(8), avahi-daemon(8).  Where names are
confined, these are not there, so that C libraries ask a name server."""


class UnclearError(UserError):
    """The name of the socket's file does not tell which socket it is."""


class Found:
    """A unix socket's file, opened, so that another cannot take its place."""

    __slots__ = ("descriptor", "path")

    def __init__(self, descriptor: int, path: bytes) -> None:
        self.descriptor = descriptor
        self.path = path
        """Its absolute path, with links resolved."""

    @property
    def address(self) -> bytes:
        """The struct sockaddr_un by which this process connects to it."""
        return b"\1\0/proc/self/fd/%d\0" % self.descriptor

    def close(self) -> None:
        os.close(self.descriptor)


def find(task: int, path: bytes, caller: Identity | None, *, confines: bool) -> Found:
    """Open the file that a task means by a path, as its root and its working folder have it and as `caller`, its user, may.
    Raises OSError with the errno of connect(2).

    `confines`: raise UnclearError if its name does not tell which file it is."""
    for own in (b"/proc/self/", b"/proc/thread-self/"):  # that is not this process
        if path.startswith(own):
            path = b"/proc/%d/%s" % (task, path.removeprefix(own))
    if confines and os.readlink(b"%d/root" % task) != b"/":
        raise UnclearError("it has another root than its helper, for whom its paths mean other files")
    start = b"%d/cwd" % task  # the working folder is /proc (`enforcer.helper.leave`)
    if path.startswith(b"/"):  # a granted name means what it means for this process, whatever the program has mounted there
        start, path = b"/" if confines else b"%d/root" % task, path.lstrip(b"/") or b"."
    folder = os.open(start, _OPEN)
    try:
        descriptor = acting(caller, lambda: os.open(path, _OPEN, dir_fd=folder))
    finally:
        os.close(folder)
    try:
        status = os.fstat(descriptor)
        if status.st_nlink > 1 and confines:
            raise UnclearError("the socket's file has several names (hard links)")
        found = os.readlink(b"self/fd/%d" % descriptor)
        if confines and not _is_at(found, status):
            raise UnclearError("the socket's file has another name in the mount namespace of its helper")
        return Found(descriptor, found)
    except BaseException:
        os.close(descriptor)
        raise


def _is_at(path: bytes, status: os.stat_result) -> bool:
    """Return whether a path is that file for this process, too."""
    try:
        here = os.stat(path, follow_symlinks=False)
    except OSError:
        return False
    return (here.st_dev, here.st_ino) == (status.st_dev, status.st_ino)


def is_granted(socket: bytes, granted: Sequence[bytes]) -> bool:
    """Return whether a socket, a path or `@NAME`, is one of those granted or below one (`Hosts.sockets`)."""
    for one in granted:
        if one == ANY.encode() or socket == one:
            return True
        if one.startswith(b"@"):
            if one.endswith(b"*") and socket.startswith(one[:-1]):
                return True
        elif socket.startswith(one.rstrip(b"/") + b"/"):
            return True
    return False
