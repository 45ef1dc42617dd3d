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


class UnknownError(UserError):
    """Which socket the path means cannot be told for certain."""


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

    `confines`: raise UnknownError if another name of it counts than the one that a line could have."""
    is_elsewhere = os.readlink(b"%d/root" % task) != b"/" or os.readlink(b"%d/ns/mnt" % task) != os.readlink(b"self/ns/mnt")
    if is_elsewhere and confines:
        raise UnknownError("it has another root or other mounts than its helper, for whom its paths mean other files")
    start = b"%d/cwd" % task  # the working folder is /proc (`enforcer.helper.leave`)
    if path.startswith(b"/"):
        start, path = b"%d/root" % task if is_elsewhere else b"/", path.lstrip(b"/") or b"."
    folder = os.open(start, _OPEN)
    try:
        descriptor = acting(caller, lambda: os.open(path, _OPEN, dir_fd=folder))
    finally:
        os.close(folder)
    try:
        if os.fstat(descriptor).st_nlink > 1 and confines:
            raise UnknownError("the socket's file has several names (hard links)")
        return Found(descriptor, os.readlink(b"self/fd/%d" % descriptor))
    except BaseException:
        os.close(descriptor)
        raise


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
