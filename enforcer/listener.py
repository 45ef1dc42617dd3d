"""Calls that wait at a listener for the helper's answer (seccomp_unotify(2)): the one file that receives and answers them."""

from __future__ import annotations

import os

from enforcer import kernel
from tracer import libc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# SECCOMP_IOCTL_NOTIF_*, linux/seccomp.h
RECEIVE, SEND, ID_VALID, ADDFD = 0xC0502100, 0xC0182101, 0x40082102, 0x40182103
_ADDFD_FLAG_SEND = 2  # SECCOMP_ADDFD_FLAG_SEND
_FLAG_CONTINUE = 1  # SECCOMP_USER_NOTIF_FLAG_CONTINUE


class Notification(libc.Structure):
    """struct seccomp_notif with its struct seccomp_data unfolded (linux/seccomp.h): 80 bytes."""

    _fields_ = (
        ("id", libc.c_uint64),
        ("task", libc.c_uint32),
        ("flags", libc.c_uint32),
        ("number", libc.c_uint32),
        ("arch", libc.c_uint32),
        ("ip", libc.c_uint64),
        ("arguments", libc.c_uint64 * 6),
    )
    id: int
    task: int
    flags: int
    number: int
    arch: int
    ip: int
    arguments: Any


_SIZE = libc.sizeof(Notification)
_Bytes = libc.c_char * _SIZE


class _Response(libc.Structure):
    """struct seccomp_notif_resp (linux/seccomp.h)."""

    _fields_ = (("id", libc.c_uint64), ("val", libc.c_int64), ("error", libc.c_int32), ("flags", libc.c_uint32))


class _Given(libc.Structure):
    """struct seccomp_notif_addfd (linux/seccomp.h)."""

    _fields_ = (
        ("id", libc.c_uint64),
        ("flags", libc.c_uint32),
        ("descriptor", libc.c_uint32),
        ("number", libc.c_uint32),
        ("descriptor_flags", libc.c_uint32),
    )


class Asked:
    """A call whose task waits for an answer; or, without a listener (-1), whose task is stopped at its entry."""

    __slots__ = ("call", "listener", "phase")

    def __init__(self, call: Notification, listener: int, phase: str) -> None:
        self.call = call
        self.listener = listener
        self.phase = phase
        """The phase of the process; "" where there are none."""

    def is_waiting(self) -> bool:
        """Whether the call still waits: only then is what was read from /proc/TASK about the caller."""
        if self.listener < 0:
            return True
        try:
            kernel.ioctl(self.listener, ID_VALID, libc.c_uint64(self.call.id))
        except OSError:
            return False
        return True

    # Answers.  Each raises OSError; ENOENT: the task has died or been interrupted meanwhile.

    def fail(self, number: int) -> None:
        """The call fails with that errno and is not run."""
        kernel.ioctl(self.listener, SEND, _Response(self.call.id, 0, -number, 0))

    def let_run(self) -> None:
        """The call is run (Linux 5.5)."""
        kernel.ioctl(self.listener, SEND, _Response(self.call.id, 0, 0, _FLAG_CONTINUE))

    def succeed(self) -> None:
        """The call returns 0 and is not run."""
        kernel.ioctl(self.listener, SEND, _Response(self.call.id, 0, 0, 0))

    def give(self, descriptor: int, *, inherited: bool) -> None:
        """The call returns a descriptor of the same open file, the lowest free one (Linux 5.14), and is not run."""
        flags = 0 if inherited else os.O_CLOEXEC
        kernel.ioctl(self.listener, ADDFD, _Given(self.call.id, _ADDFD_FLAG_SEND, descriptor, 0, flags))


def stopped(call: Notification, phase: str) -> Asked:
    """A call whose task is stopped at its entry, and not answered but carried out or failed by its tracer."""
    return Asked(call, -1, phase)


def received(listener: int, call: Notification, phase: str) -> Asked:
    """Wait for the next call at a listener, which is put into `call`.  Raises OSError; ENOENT: its task has died or been
    interrupted meanwhile."""
    _Bytes.from_address(libc.addressof(call)).raw = bytes(_SIZE)  # the kernel insists on zeros
    kernel.ioctl(listener, RECEIVE, call)
    return Asked(call, listener, phase)


def shared_notification() -> Notification:
    """An empty one, in memory that this process shares with those that it clones from now on."""
    return Notification.from_address(kernel.shared_page())
