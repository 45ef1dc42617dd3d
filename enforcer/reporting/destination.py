"""Where reports go: the program's standard error, as text for people, or a log, as records for machines."""

from __future__ import annotations

import errno
import os
import select
import stat

from callfence.enforcer.errors import EnforceError

TEXT, LINES, DATAGRAMS, JOURNAL = "text", "lines", "datagrams", "journal"
"""The forms of reports: text for people; JSON objects, one a line; the same, one a datagram; systemd's journal entries."""
_JOURNAL = "/run/systemd/journal/socket"
"""The socket of systemd's native journal protocol (https://systemd.io/JOURNAL_NATIVE_PROTOCOL)."""
_APPENDING = os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
"""How a log is opened.  O_NONBLOCK: neither opening nor writing a FIFO waits for its reader."""
_STANDARD = {"/dev/stdin": 0, "/dev/stdout": 1, "/dev/stderr": 2}
_DESCRIPTORS = ("/dev/fd/", "/proc/self/fd/")
_SUN_PATH = 108  # struct sockaddr_un, linux/un.h
_LAST_STANDARD = 2


class Destination:
    """An open descriptor, and how reports are written to it."""

    __slots__ = ("descriptor", "file", "folder", "form", "name")

    def __init__(self, descriptor: int, form: str, *, folder: int = -1, name: str = "") -> None:
        self.descriptor = descriptor
        """-1 for no reports."""
        self.form = form
        self.file = identity(descriptor) if form == TEXT else None
        """The identity of the program's standard error; None if that is closed, or if reports go to a log."""
        self.folder = folder
        """A descriptor of the log's folder, if the log is to be opened again after it was moved; else -1."""
        self.name = name
        """The name of the log in its folder."""

    @property
    def is_in_messages(self) -> bool:
        """Whether each write is a message of its own, which cannot be written in parts."""
        return self.form in (DATAGRAMS, JOURNAL)

    def give_back(self) -> None:
        """Close the program's standard error, after the program has ended.

        Otherwise its reader would wait for the helper (`ssh host enforce daemon`).  Violations of processes that the program
        leaves behind are then reported on their own standard error, if that is the same file.  A log stays open: its end is
        the end of the last process.
        """
        if self.form == TEXT and self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def renew(self) -> None:
        """Create the log again if it has been moved or removed, as logrotate(8) does; if that fails, go on with the old file.

        A symbolic link is not followed, and a file with several hard links is not used: either may be another file of this
        user.
        """
        try:
            try:
                status = os.stat(self.name, dir_fd=self.folder, follow_symlinks=False)
            except FileNotFoundError:
                pass
            else:
                if (status.st_dev, status.st_ino) == identity(self.descriptor):
                    return
            opened = os.open(self.name, _APPENDING | os.O_CREAT | os.O_NOFOLLOW, 0o666, dir_fd=self.folder)
        except OSError:
            return
        status = os.fstat(opened)
        if stat.S_ISREG(status.st_mode) and status.st_nlink == 1:
            opened, self.descriptor = self.descriptor, opened
        os.close(opened)


def opened(log: str) -> Destination:
    """Open what `--log` names: `-` (standard output), `fd:NUMBER`, `journal`, `unix:PATH` or `unix:@NAME`, or a file, FIFO or
    socket.  Raises EnforceError."""
    if log == "-":
        return _inherited(log, 1)
    if log.startswith("fd:"):
        if not log[3:].isdecimal():
            raise _refused(log, "write fd:NUMBER, with the number of an open descriptor")
        return _inherited(log, int(log[3:]))
    if log == "journal":
        return Destination(_connected(log, _JOURNAL), JOURNAL)
    if log.startswith("unix:"):
        return _socket(log, log[5:])
    try:
        if stat.S_ISSOCK(os.stat(log).st_mode):
            number = _number_of(log)
            return _socket(log, log) if number < 0 else _inherited(log, number)
    except OSError:
        pass  # opening it creates it, or says what is wrong
    try:
        descriptor = os.open(log, _APPENDING | os.O_CREAT, 0o666)
        status, named = os.fstat(descriptor), os.lstat(log)
        if not stat.S_ISREG(status.st_mode) or (status.st_dev, status.st_ino) != (named.st_dev, named.st_ino):
            return Destination(descriptor, LINES)
        folder = os.open(os.path.dirname(log) or ".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        return Destination(descriptor, LINES, folder=folder, name=os.path.basename(log))
    except OSError as error:
        reason = "it is a FIFO that no process reads; start the reader first" if error.errno == errno.ENXIO else error.strerror
        raise _refused(log, str(reason)) from error


def _number_of(path: str) -> int:
    """Return the number of the descriptor of this process that a path of /dev or /proc names; -1 if it names none."""
    if path in _STANDARD:
        return _STANDARD[path]
    number = next((path.removeprefix(folder) for folder in _DESCRIPTORS if path.startswith(folder)), "")
    return int(number) if number.isdecimal() else -1


def _inherited(log: str, number: int) -> Destination:
    """Return a copy of a descriptor that this process was started with; the program inherits only a standard one."""
    import fcntl

    try:
        access = fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE
        if access == os.O_RDONLY:
            raise _refused(log, f"descriptor {number} is open for reading only")
        descriptor = fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, _LAST_STANDARD + 1)
        if number > _LAST_STANDARD:
            os.set_inheritable(number, False)
    except (OSError, OverflowError) as error:
        raise _refused(log, f"descriptor {number} is not open") from error
    return Destination(descriptor, DATAGRAMS if _has_messages(descriptor) else LINES)


def _has_messages(descriptor: int) -> bool:
    """Return whether a descriptor is a socket that keeps the boundaries of messages."""
    import _socket

    if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
        return False
    socket = _socket.socket(fileno=descriptor)
    kind = socket.getsockopt(_socket.SOL_SOCKET, _socket.SO_TYPE)
    socket.detach()
    return kind != _socket.SOCK_STREAM


def _socket(log: str, address: str) -> Destination:
    descriptor = _connected(log, address)
    return Destination(descriptor, DATAGRAMS if _has_messages(descriptor) else LINES)


def _connected(log: str, address: str) -> int:
    """Return a unix socket that is connected to an address (a path, or `@` and a name); it never blocks."""
    import _socket

    name = os.fsencode(address)
    if not name or len(name) > _SUN_PATH - 1:
        raise _refused(log, f"the path of a unix socket has 1 to {_SUN_PATH - 1} bytes")
    name = b"\0" + name[1:] if name.startswith(b"@") else name
    problem = errno.EPROTOTYPE
    for kind in (_socket.SOCK_STREAM, _socket.SOCK_DGRAM, _socket.SOCK_SEQPACKET):
        socket = _socket.socket(_socket.AF_UNIX, kind | _socket.SOCK_CLOEXEC | _socket.SOCK_NONBLOCK, 0)
        try:
            socket.connect(name)
            return socket.detach()
        except OSError as error:
            socket.close()
            problem = error.errno or problem
        if problem not in (errno.EPROTOTYPE, errno.ECONNREFUSED):  # the latter for an abstract socket of another type
            break
    unread = {errno.ECONNREFUSED: "no process reads it", errno.EAGAIN: "its reader accepts no connection now"}
    raise _refused(log, unread.get(problem) or os.strerror(problem))


def _refused(log: str, reason: str) -> EnforceError:
    return EnforceError(f"the log {log} cannot be opened: {reason}")


def has_room(descriptor: int, timeout: float = 0) -> bool:
    """Wait up to `timeout` seconds until a write of up to PIPE_BUF bytes, 4096, would not block; return whether that is so."""
    poller = select.poll()
    poller.register(descriptor, select.POLLOUT)
    return bool(poller.poll(timeout * 1000))


def identity(descriptor: int) -> tuple[int, int] | None:
    """Return the device and inode of an open file; None if the descriptor is not open."""
    try:
        status = os.fstat(descriptor)
    except OSError:
        return None
    return status.st_dev, status.st_ino
