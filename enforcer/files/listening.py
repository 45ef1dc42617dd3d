"""Answer listen(2) where TCP ports are confined: on a socket without a port, it takes any, which Landlock does not check.

After a connection has been ended by AF_UNSPEC (connect(2)), getsockname(2) still tells its port, though the socket has none.
So the port is looked at again when the socket listens.

The helper makes the call itself, on a copy of the program's descriptor: it is the same socket, whatever the program does to the
number meanwhile.  Loaded at the first such call.
"""

from __future__ import annotations

import errno
import os
from functools import partial
from typing import TYPE_CHECKING

from callfence.enforcer import kernel
from callfence.enforcer.alarms import close_at_once
from callfence.enforcer.files.lookup import port_of
from callfence.tracer import linux
from callfence.tracer.proc import fields_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from callfence.enforcer.listener import Request

_TCP_INFO, _LISTEN, _SHUT_RDWR = 11, 10, 2  # linux/tcp.h, net/tcp_states.h, linux/net.h
_LISTINGS = 10
"""How often all tasks are listed, at most, until none was started meanwhile."""
_RESERVED = 300
"""The numbers that are left out when they begin anew (kernel/pid.c, RESERVED_PIDS).  A task may take three: its own, and those
of a group of processes and a session whose first processes have ended."""


def listen(request: Request, is_granted: Callable[[int], bool], acting: Callable[[int, Callable[[], int]], int]) -> int | None:
    """Make the listen(2) in which a task waits, and return 0 or an errno: EACCES for a socket that would take a port which is
    not granted.  One that listens already may keep its port, whoever made it.  `acting` does some work as the user of a task.

    Return None if the task can make the call itself, since no other task can change its descriptor.  Raises OSError if the
    socket cannot be copied."""
    task = request.call.task
    descriptor, backlog = (argument & 0xFFFFFFFF for argument in request.call.arguments[:2])
    fields = fields_of(task)
    process = int(fields["Tgid"])
    try:
        socket = kernel.descriptor_of(task, process, descriptor)
    except OSError as error:
        if error.errno == errno.EBADF:
            return errno.EBADF
        raise
    try:
        if not request.is_waiting():  # the socket may be another task's
            raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH), "listen")
        if kernel.socket_option(socket, linux.SO_PROTOCOL) == linux.IPPROTO_TCP:
            return _listen_at_port(socket, backlog, is_granted)
        if kernel.socket_option(socket, linux.SO_DOMAIN) == linux.AF_UNIX and not _is_like_us(fields):
            # A process that connects sees the user who has called listen (unix(7), SO_PEERCRED).
            # Another thread may have a table of its own, of which no copy can be had before Linux 6.9.
            is_alone = task == process and not _shares_descriptors(task) and _is_still(socket, task, process, descriptor)
            return None if is_alone else _listen_as(partial(acting, task), socket, backlog)
        kernel.syscall("listen", socket, backlog)
    except OSError as error:
        return error.errno or errno.EINVAL
    finally:
        close_at_once(socket)
    return 0


def _listen_as(acting: Callable[[Callable[[], int]], int], socket: int, backlog: int) -> int:
    """Make listen(2) as another user, and return 0, or EACCES if this process may not become that user.  Raises OSError."""
    try:
        return acting(lambda: kernel.syscall("listen", socket, backlog))
    except PermissionError:
        return errno.EACCES


def _listen_at_port(socket: int, backlog: int, is_granted: Callable[[int], bool]) -> int:
    """Make listen(2) on a TCP socket, and return 0, or EACCES if its port is not granted.  Raises OSError."""
    own = port_of(socket) if _state_of(socket) == _LISTEN else 0

    def may() -> bool:
        port = port_of(socket)
        return bool(port) and (port == own or is_granted(port))

    if not may():
        return errno.EACCES
    kernel.syscall("listen", socket, backlog)
    if not may():
        kernel.syscall("shutdown", socket, _SHUT_RDWR)
        return errno.EACCES
    return 0


def _state_of(socket: int) -> int:
    """Return the state of a TCP socket (struct tcp_info, linux/tcp.h)."""
    state, size = linux.c_uint8(0), linux.c_int(1)
    kernel.syscall("getsockopt", socket, linux.IPPROTO_TCP, _TCP_INFO, linux.byref(state), linux.byref(size))
    return state.value


def _is_still(socket: int, task: int, process: int, descriptor: int) -> bool:
    """Return whether a descriptor of a task, which no other shares now, is the socket still: a task that did share it may have
    changed it before it ended.  Raises OSError."""
    again = kernel.descriptor_of(task, process, descriptor)
    try:
        return os.path.samestat(os.fstat(again), os.fstat(socket))
    finally:
        close_at_once(again)


def _shares_descriptors(task: int) -> bool:
    """Return whether another task shares this task's table of descriptors, or might; this task waits and starts no other.

    A listing has all tasks if none was started meanwhile: else one of those may have been started by a task that has ended
    before it was looked at.  A number that another task had before is not looked at again, so numbers must not have begun anew.
    Raises OSError."""
    compared, first = {task}, _started()
    for _ in range(_LISTINGS):
        before, new = _last(), _tasks() - compared
        if any(map(partial(_may_share, task), new)):
            return True
        compared |= new
        if _last() == before:
            return _started() - first >= _pid_max() - _RESERVED - 3 * len(compared)
    return True


def _may_share(task: int, other: int) -> bool:
    shares = kernel.shares_files(task, other)
    if shares is None:  # this process may not look into it: then it may be one that is not confined
        return fields_of(other).get("Seccomp", "0") != "0"
    return shares


def _tasks() -> set[int]:
    tasks: set[int] = set()
    for process in os.listdir("."):  # /proc (`enforcer.helper.leave`)
        if process.isdigit():
            try:
                tasks.update(map(int, os.listdir(f"{process}/task")))
            except (FileNotFoundError, ProcessLookupError):
                continue
    return tasks


def _last() -> int:
    """Return the id of the newest task (proc_loadavg(5))."""
    return int(_read("loadavg").split()[-1])


def _started() -> int:
    """Return how many tasks were ever started on this machine (proc_stat(5))."""
    return next(int(line.split()[1]) for line in _read("stat").splitlines() if line.startswith(b"processes "))


def _pid_max() -> int:
    return int(_read("sys/kernel/pid_max"))


def _read(name: str) -> bytes:
    """Return the content of a file of /proc, the working folder."""
    with open(name, "rb", buffering=0) as file:
        return b"".join(iter(partial(file.read, 1 << 16), b""))


def _is_like_us(fields: Mapping[str, str]) -> bool:
    """Return whether a task, whose status has these fields, has the same user and group ids as this process."""
    own = fields_of(os.getpid())
    return all(len({*fields[name].split(), *own[name].split()}) == 1 for name in ("Uid", "Gid"))
