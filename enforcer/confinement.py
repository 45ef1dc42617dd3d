"""How the helper confines itself, so that it is of no use to a program that takes it over.

No Landlock: a process in a Landlock domain may not look at processes outside it (ptrace(2)), so no report could say which
executable made a call, and where.
"""

from __future__ import annotations

import os

from enforcer import kernel
from enforcer.later import read_file
from tracer import linux

_HERE = os.path.dirname(__file__)

_CAP_KILL, _CAP_SYS_PTRACE = 1 << 5, 1 << 19  # linux/capability.h
_KEPT = _CAP_KILL | _CAP_SYS_PTRACE
"""Of the program's capabilities: without the first, root's helper could not kill a program that has changed its user; without
the second, it could not tell which executable made a call."""


def read(*, renews_log: bool = False) -> bytes:
    """The filter for the helper, which is compiled from helper.policy when callfence is built; for one that may open its log
    anew, from helper-log.policy as well."""
    return read_file(f"{_HERE}/helper-log.filter" if renews_log else f"{_HERE}/helper.filter")


def read_follower() -> bytes:
    """The filter for a helper that follows the program through its phases, of follower.policy and those two."""
    return read_file(f"{_HERE}/follower.filter")


def drop_capabilities(*, traces: bool = False) -> None:
    """Leave this process two capabilities; if it traces the program, those without which it could not.  Raises OSError.

    A process may look into one that has no capability beyond its own, or into any with CAP_SYS_PTRACE (capabilities(7)): what
    is not root, or root in a container, has some, and not that one."""
    _, permitted, _ = kernel.capabilities()
    if not traces or permitted & _CAP_SYS_PTRACE:
        permitted &= _KEPT
    kernel.set_capabilities(permitted)


def confine(filter_: bytes, *, listens: bool = False, traces: bool = False) -> None:
    """Leave this process few capabilities, and the calls that answering takes, or all calls (b"").  Raises OSError.

    With `listens`, also EBUSY if the program could not have a listener: it has the filters that this process had."""
    drop_capabilities(traces=traces)
    kernel.set_no_new_privs()
    if filter_ and listens:
        os.close(kernel.install(filter_, linux.SECCOMP_FILTER_FLAG_NEW_LISTENER))
    elif filter_:
        kernel.install(filter_, 0)
