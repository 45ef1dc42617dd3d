"""The spawner's socket, and its loop: one process for each connection."""

from __future__ import annotations

import _socket
import errno
import fcntl
import os
import select
import stat
import time

from callfence.enforcer import helper, kernel
from callfence.enforcer.errors import EnforceError
from callfence.tracer import TYPE_CHECKING, linux

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

MAX_PATH = 107
"""The most bytes of a socket's path (unix(7), sun_path)."""
_BACKLOG = 4096
_SO_PASSCRED = 16  # asm-generic/socket.h
_ENDING = (1, 2, 15)  # SIGHUP, SIGINT, SIGTERM: asm/signal.h
_OTHERS = stat.S_IWGRP | stat.S_IWOTH
_SHORT = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS)
_DELAY = 0.05
"""Seconds to wait when there is no descriptor, memory or process for another connection."""
_AFTERWARDS = 0.006
"""Seconds after which a process is prepared for the next client: by then, the last one has become its program."""
_DENSE = 0.02
"""Clients that come within so many seconds have theirs prepared at once, for the next one may come before it is ready."""
_NONE = -1


class Listener:
    """A socket that clients connect to."""

    def __init__(self, path: str) -> None:
        """Listen at a path.  Raises EnforceError if that is not possible, or would not be safe."""
        self.path = os.path.abspath(path)
        if len(os.fsencode(self.path)) > MAX_PATH:
            raise EnforceError(f"{path}: the path of a socket can have {MAX_PATH} bytes at most")
        folder, name = os.path.split(self.path)
        try:
            self._folder = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            _require_private(folder)
            fcntl.flock(self._folder, fcntl.LOCK_EX)  # no other spawner looks for a listener between our look and our bind
            try:
                self._remove_stale(name)
                self.socket = _bound(self.path)
            finally:
                fcntl.flock(self._folder, fcntl.LOCK_UN)
            status = os.stat(name, dir_fd=self._folder, follow_symlinks=False)
        except OSError as error:
            raise EnforceError(f"{path}: {error.strerror}") from error
        self._name, self._identity = name, (status.st_dev, status.st_ino)

    def _remove_stale(self, name: str) -> None:
        """Remove the file of a socket on which nobody listens.  Raises EnforceError for another file."""
        try:
            status = os.stat(name, dir_fd=self._folder, follow_symlinks=False)
        except FileNotFoundError:
            return
        if not stat.S_ISSOCK(status.st_mode) or status.st_uid != os.geteuid():
            raise EnforceError(f"{self.path} is there already, and is no socket of this user")
        probe = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC | _socket.SOCK_NONBLOCK)
        try:
            probe.connect(self.path)
        except ConnectionRefusedError:
            os.unlink(name, dir_fd=self._folder)
            return
        except BlockingIOError:
            pass
        finally:
            probe.close()
        raise EnforceError(f"another process listens at {self.path}")

    def accept(self) -> int:
        """Return the descriptor of the next connection.  Raises OSError."""
        descriptor, _ = self.socket._accept()  # type: ignore[attr-defined]  # what socket.socket.accept calls
        return int(descriptor)

    def remove(self) -> None:
        """Remove the socket's file, unless another has taken its place."""
        try:
            status = os.stat(self._name, dir_fd=self._folder, follow_symlinks=False)
            if (status.st_dev, status.st_ino) == self._identity:
                os.unlink(self._name, dir_fd=self._folder)
        except OSError:
            return


def _require_private(folder: str) -> None:
    """Raise EnforceError if another user could put another file in the place of what is in the folder."""
    here = os.path.realpath(folder)
    status = os.stat(here)
    if status.st_uid not in (0, os.geteuid()) or status.st_mode & _OTHERS:
        raise EnforceError(f"other users may write to {folder}, so no socket is made there: use a folder of your own")
    while here != "/":
        here = os.path.dirname(here)
        status = os.stat(here)
        if status.st_uid not in (0, os.geteuid()) or (status.st_mode & _OTHERS and not status.st_mode & stat.S_ISVTX):
            raise EnforceError(f"other users may rename what is in {here}, so no socket is made in {folder}")


def _bound(path: str) -> _socket.socket:
    made = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC | _socket.SOCK_NONBLOCK)
    made.setsockopt(_socket.SOL_SOCKET, _SO_PASSCRED, 1)  # for all connections: who has sent each message
    before = os.umask(0o177)
    try:
        made.bind(path)
    finally:
        os.umask(before)
    made.listen(_BACKLOG)
    return made


def serve(listener: Listener, begin: Callable[[], Callable[[_socket.socket], NoReturn]], idle: float | None = None) -> None:
    """Serve each connection in a process of its own.  That process is started before the client comes, and then calls `begin`,
    which returns the function that serves.  Where clients are few, it is started when the one before has become its program,
    from which it would take a processor.

    Return after SIGTERM, SIGINT or SIGHUP, or if no client has come for `idle` seconds.  The processes go on.  Raises OSError
    if this process may not open the descriptors that it needs."""
    endings = [kernel.signal_descriptor(number) for number in _ENDING]
    kernel.disposition(linux.SIGCHLD, linux.SIG_IGN)  # nobody waits for these processes
    begun, taken = os.pipe()
    lives, lifeline = os.pipe()  # closed by the end of this process
    poller = select.poll()
    for descriptor in (begun, *endings):
        poller.register(descriptor, select.POLLIN)
    next_or_end = select.poll()
    for descriptor in (listener.socket.fileno(), *endings):
        next_or_end.register(descriptor, select.POLLIN)
    waiting, last = _NONE, 0.0
    while True:
        if waiting == _NONE:
            pid = 0
            try:
                pid = kernel.clone(linux.SIGCHLD)
                if pid == 0:
                    helper.guarded(lambda: _take_next(listener, begin, (taken, lives), (begun, lifeline, *endings)))
                waiting = kernel.pidfd_open(pid)
                poller.register(waiting, select.POLLIN)
            except ProcessLookupError:  # it has ended already
                pass
            except OSError as error:  # RLIMIT_NPROC, or no descriptor is left
                if pid:
                    os.kill(pid, linux.SIGKILL)
                if error.errno == errno.EMFILE:
                    raise
        timeout = _DELAY if waiting == _NONE else idle
        events = dict(poller.poll(None if timeout is None else timeout * 1000))
        if any(ending in events for ending in endings) or not (events or waiting == _NONE):
            return
        if begun in events:
            os.read(begun, 1)
            if time.monotonic() - last > _DENSE:
                next_or_end.poll(_AFTERWARDS * 1000)
            last = time.monotonic()
        elif waiting in events:  # killed before it had a client
            select.poll().poll(_DELAY * 1000)
        if waiting != _NONE and events:
            poller.unregister(waiting)
            os.close(waiting)
            waiting = _NONE


def _take_next(
    listener: Listener,
    begin: Callable[[], Callable[[_socket.socket], NoReturn]],
    pipes: tuple[int, int],
    others: tuple[int, ...],
) -> NoReturn:
    """Wait for a connection, report that by a byte, and serve it; end if the spawner has ended.  `pipes`: where the byte goes,
    and what is closed by the spawner's end.  `others`: descriptors of the spawner to be closed."""
    taken, lives = pipes
    for descriptor in others:
        os.close(descriptor)
    work = begin()
    poller = select.poll()
    for descriptor in (listener.socket.fileno(), lives):
        poller.register(descriptor, select.POLLIN)
    while True:
        if lives in dict(poller.poll()):
            os._exit(0)
        try:
            connection = _socket.socket(fileno=listener.accept())
        except OSError as error:
            if error.errno in _SHORT:
                select.poll().poll(_DELAY * 1000)
            continue
        os.write(taken, b"!")
        work(connection)
