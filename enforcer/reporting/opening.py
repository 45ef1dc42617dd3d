"""Open the log to which records go: a file, a FIFO, a socket, a descriptor or the journal."""

from __future__ import annotations

import errno
import os
import stat

from callfence.enforcer.errors import EnforceError
from callfence.enforcer.reporting.destination import APPENDING, DATAGRAMS, JOURNAL, LINES, Destination
from callfence.policygen.files.places import LED, Linking, is_led, real_path

_JOURNAL = "/run/systemd/journal/socket"
"""The socket of systemd's native journal protocol (https://systemd.io/JOURNAL_NATIVE_PROTOCOL)."""
_STANDARD = {"/dev/stdin": 0, "/dev/stdout": 1, "/dev/stderr": 2}
_DESCRIPTORS = ("/dev/fd/", "/proc/self/fd/")
_SUN_PATH = 108  # struct sockaddr_un, linux/un.h
_LAST_STANDARD = 2


def opened(log: str, linking: Linking | None = None) -> Destination:
    """Open what `--log` names: `-` (standard output), `fd:NUMBER`, `journal`, `unix:PATH` or `unix:@NAME`, or a file, FIFO or
    socket.  `linking`: where the program may have put symbolic links.  Raises EnforceError."""
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
    name = os.fsencode(log)
    if is_led(name, real_path(name), linking or Linking()):
        raise _refused(log, LED)
    try:
        if stat.S_ISSOCK(os.stat(log).st_mode):
            number = _number_of(log)
            return _socket(log, log) if number < 0 else _inherited(log, number)
    except OSError:
        pass  # opening it creates it, or says what is wrong
    try:
        descriptor = os.open(log, APPENDING | os.O_CREAT, 0o666)
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
