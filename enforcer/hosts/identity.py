"""Be another user for one call: who connects to a unix socket is named to its owner (unix(7), SO_PEERCRED), and has to be
permitted to write the socket's file."""

from __future__ import annotations

import os
from functools import cache

from enforcer import kernel
from tracer import TYPE_CHECKING, linux
from tracer.named import NamedTuple
from tracer.proc import fields_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    T = TypeVar("T")

_KEEP = -1
_OVERRIDES = 1 << 1  # CAP_DAC_OVERRIDE, linux/capability.h


class Identity(NamedTuple):
    """The ids by which a task is judged, as this process sees them."""

    user: int
    group: int
    groups: tuple[int, ...]
    overrides: bool
    """Whether files' modes do not count (CAP_DAC_OVERRIDE)."""


def of(task: int) -> Identity | None:
    """Return the identity of a task; None if it is this process's."""
    other = _ids(task)
    return None if _own() == other else other


def acting(identity: Identity | None, work: Callable[[], T]) -> T:
    """Do some work as another user, and return its result.  Raises OSError if this process may not become that user, and what
    `work` raises."""
    if identity is None:
        return work()
    own = _own()
    effective, permitted, _ = kernel.capabilities()
    _become(own, identity)
    try:
        if identity.overrides and permitted & _OVERRIDES:
            kernel.set_capabilities(permitted, kernel.capabilities()[0] | _OVERRIDES)
        return work()
    finally:
        _become(identity, own)
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


@cache
def _own() -> Identity:
    """Return the identity of this process, which is not acting."""
    return _ids(os.getpid())


def _ids(task: int) -> Identity:
    fields = fields_of(task)
    user, group = (int(fields[name].split()[1]) for name in ("Uid", "Gid"))
    groups = tuple(map(int, fields.get("Groups", "").split()))
    return Identity(user, group, groups, bool(int(fields.get("CapEff", "0"), 16) & _OVERRIDES))
