"""Be another user for one call: who connects to a unix socket is named to its owner (unix(7), SO_PEERCRED), and has to be
permitted to write the socket's file."""

from __future__ import annotations

import errno
import os
from functools import cache

from callfence.enforcer import confinement, kernel
from callfence.tracer import TYPE_CHECKING, linux
from callfence.tracer.named import NamedTuple
from callfence.tracer.proc import content, is_in_own_user_namespace, proc

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    T = TypeVar("T")

_KEEP = -1
_SCM_CREDENTIALS = 2  # linux/socket.h
_CAP_DAC_OVERRIDE = 1 << 1  # linux/capability.h
_COUNTING = confinement.CONNECTING & ~confinement.ACTING


class Identity(NamedTuple):
    """The ids by which a task is judged, as this process sees them."""

    user: int
    group: int
    groups: tuple[int, ...]
    file_user: int
    """The user by whom files' modes are judged (setfsuid(2)); mostly the same."""
    file_group: int
    capabilities: int
    """Those of its capabilities that count for calls that this process makes: with CAP_DAC_OVERRIDE, files' modes do not;
    the others are asked for where messages are sent to the kernel (netlink(7))."""


def of(task: int) -> Identity | None:
    """Return the identity of a task; None if it is this process's."""
    other = _ids(task)
    return None if own() == other else other


def credentials(identity: Identity | None) -> list[tuple[int, int, bytes]]:
    """Return the control message by which a message of this process names that user as its sender (unix(7), SCM_CREDENTIALS):
    without it, the kernel names the real ids, which `acting` does not change.  [] for this process's user."""
    if identity is None:
        return []
    ids = (os.getpid(), identity.user, identity.group)
    return [(linux.SOL_SOCKET, _SCM_CREDENTIALS, b"".join(number.to_bytes(4, "little") for number in ids))]


def acting(identity: Identity | None, work: Callable[[], T]) -> T:
    """Do some work as another user, and return its result.  Raises OSError if that is not permitted, and what `work` raises."""
    if identity is None:
        return work()
    former = own()
    effective, permitted, _ = kernel.capabilities()
    try:
        _become(former, identity)
        _become_of_files(identity, permitted)
        if raised := identity.capabilities & permitted:
            kernel.set_capabilities(permitted, kernel.capabilities()[0] | raised)
        return work()
    finally:
        _become(identity, former)
        _become_of_files(former, permitted)
        kernel.set_capabilities(permitted, effective)


def _become(former: Identity, new: Identity) -> None:
    """Change the effective ids of this process; the real and saved ones stay, so that it can change back."""
    if former.user and former.user != new.user:
        kernel.syscall("setresuid", _KEEP, new.user, _KEEP)  # back to the one that may change the others
    if former.groups != new.groups:
        groups = (linux.c_uint32 * len(new.groups))(*new.groups)
        kernel.syscall("setgroups", len(new.groups), linux.byref(groups))
    if former.group != new.group:
        kernel.syscall("setresgid", _KEEP, new.group, _KEEP)
    if not former.user and new.user:
        kernel.syscall("setresuid", _KEEP, new.user, _KEEP)


def _become_of_files(identity: Identity, permitted: int) -> None:
    """Have files' modes judged as for that identity; the effective ids, with which these ids change, are its own already."""
    for name, id_ in (("setfsgid", identity.file_group), ("setfsuid", identity.file_user)):
        if kernel.syscall(name, _KEEP) != id_:
            effective = kernel.capabilities()[0]
            kernel.set_capabilities(permitted, effective | permitted & confinement.ACTING)
            kernel.syscall(name, id_)
            kernel.set_capabilities(permitted, effective & ~_CAP_DAC_OVERRIDE)
            if kernel.syscall(name, _KEEP) != id_:
                raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), name)


@cache
def own() -> Identity:
    """Return the identity of this process, which is not acting."""
    return _ids(os.getpid())


def _ids(task: int) -> Identity:
    text = content(f"{proc()}/{task}/status")

    def words(name: bytes) -> list[bytes]:  # all fields take four times as long
        start = text.index(name) + len(name)
        return text[start : text.index(b"\n", start)].split()

    (user, file_user), (group, file_group) = (map(int, words(name)[1::2]) for name in (b"\nUid:", b"\nGid:"))
    capabilities = int(words(b"\nCapEff:")[0], 16) & _COUNTING
    if capabilities and not is_in_own_user_namespace(task):
        capabilities = 0
    return Identity(user, group, tuple(map(int, words(b"\nGroups:"))), file_user, file_group, capabilities)
