"""Keep a program's signals and its uses of abstract unix sockets among the processes that it starts (landlock(7), "scope").

Nearly every start does so, hence little is imported.
"""

from __future__ import annotations

import os

from enforcer import ffi, kernel

SCOPES = {"abstract sockets": 1 << 0, "signals": 1 << 1}
"""LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET, LANDLOCK_SCOPE_SIGNAL (linux/landlock.h)."""
SINCE = 6
"""The version of Landlock's ABI that has them (Linux 6.12)."""
_SYS_CREATE_RULESET, _SYS_RESTRICT_SELF = 444, 446  # asm/unistd_64.h
_CREATE_RULESET_VERSION = 1  # linux/landlock.h


def abi() -> int:
    """The version of Landlock's ABI; 0 where the kernel lacks it, or has it switched off."""
    try:
        return kernel.syscall("landlock_create_ruleset", _SYS_CREATE_RULESET, None, 0, _CREATE_RULESET_VERSION)
    except OSError:
        return 0


def keep_inside(words: str) -> None:
    """Have only processes that the program starts be signalled by it, or connected to by an abstract unix socket.

    `words`: of SCOPES, with commas.  A process that is kept so cannot trace, or look into the memory of, one outside either
    (ptrace(2)).  It takes no_new_privs.  Raises OSError named after the call."""
    bits = sum(SCOPES[word] for word in words.split(", "))
    attributes = (ffi.c_uint64 * 3)(0, 0, bits)  # struct landlock_ruleset_attr
    size = ffi.sizeof(attributes)
    ruleset = kernel.syscall("landlock_create_ruleset", _SYS_CREATE_RULESET, ffi.byref(attributes), size, 0)
    try:
        kernel.syscall("landlock_restrict_self", _SYS_RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)
