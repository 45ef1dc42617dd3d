"""listen(2) where TCP ports are confined: on a socket that has no port it takes any, which Landlock does not see.

The helper makes the call itself, on a copy of the program's descriptor: it is the same socket, whatever the program does to the
number meanwhile.  Loaded at the first such call.
"""

from __future__ import annotations

import errno
import os
from functools import partial
from typing import TYPE_CHECKING

from enforcer import kernel
from tracer import linux
from tracer.proc import fields_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from enforcer.listener import Request

_LISTINGS = 100
"""How often all tasks are listed until a listing has no new ones."""


def listen(request: Request) -> int | None:
    """Make a listen(2) of a task, which waits in it: 0, or an errno; EACCES for a socket that would take any port.

    None: the kernel may do it as it is, for no other task can change what the descriptor is.  Raises OSError if the socket
    cannot be had."""
    task = request.call.task
    descriptor, backlog = (argument & 0xFFFFFFFF for argument in request.call.arguments[:2])
    fields = fields_of(task)
    try:
        socket = kernel.descriptor_of(int(fields["Tgid"]), descriptor)
    except OSError as error:
        if error.errno == errno.EBADF:
            return errno.EBADF
        raise
    try:
        if not request.is_waiting():  # the socket may be another task's
            raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH), "listen")
        if kernel.socket_option(socket, linux.SO_PROTOCOL) == linux.IPPROTO_TCP and not _port(socket):
            return errno.EACCES
        if kernel.socket_option(socket, linux.SO_DOMAIN) == linux.AF_UNIX and not _is_like_us(fields):
            # A process that connects sees the user who has called listen (unix(7), SO_PEERCRED).
            return errno.EACCES if _shares_descriptors(task) else None
        kernel.syscall("listen", socket, backlog)
    except OSError as error:
        return error.errno or errno.EINVAL
    finally:
        os.close(socket)
    return 0


def _port(socket: int) -> int:
    """The port of a TCP socket; 0 if it has none."""
    address, length = (linux.c_uint8 * 28)(), linux.c_int(28)  # struct sockaddr_in6, whose port is where that of sockaddr_in is
    kernel.syscall("getsockname", socket, linux.byref(address), linux.byref(length))
    return address[2] << 8 | address[3]


def _shares_descriptors(task: int) -> bool:
    """Whether another task has the same table of descriptors, or it may be so.  The task itself waits, and starts none.

    A task has the table from its start on, and a new task has a higher number than all before it, until numbers begin anew: so
    one that is started while the others are compared is in a later listing.  Raises OSError."""
    before, compared = _last(), {task}
    for _ in range(_LISTINGS):
        new = _tasks() - compared
        if not new:
            return _last() < before
        if any(map(partial(_may_share, task), new)):
            return True
        compared |= new
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
    """The number of the newest task (proc_loadavg(5))."""
    with open("loadavg", "rb", buffering=0) as file:
        return int(file.read(128).split()[-1])


def _is_like_us(fields: Mapping[str, str]) -> bool:
    """Whether a task has the user and group of this process."""
    own = fields_of(os.getpid())
    return all(len({*fields[name].split(), *own[name].split()}) == 1 for name in ("Uid", "Gid"))
