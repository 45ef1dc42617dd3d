"""Keep a program's signals and its uses of abstract unix sockets among the processes that it starts (landlock(7), "scope").

Nearly every start does so, hence little is imported.
"""

from __future__ import annotations

import os

from enforcer import kernel
from tracer import libc

SCOPES = {"abstract sockets": 1 << 0, "signals": 1 << 1}
"""LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET, LANDLOCK_SCOPE_SIGNAL (linux/landlock.h)."""
SINCE = 6
"""The version of Landlock's ABI that has them (Linux 6.12)."""
REFER = 1 << 13  # LANDLOCK_ACCESS_FS_REFER
_CREATE_RULESET_VERSION, _RULE_PATH_BENEATH = 1, 1  # linux/landlock.h


def abi() -> int:
    """The version of Landlock's ABI; 0 where the kernel lacks it, or has it switched off."""
    try:
        return kernel.syscall("landlock_create_ruleset", None, 0, _CREATE_RULESET_VERSION)
    except OSError:
        return 0


def bits(words: str) -> int:
    """The LANDLOCK_SCOPE_* of words of SCOPES, with commas between them."""
    return sum(SCOPES[word] for word in words.split(", ")) if words else 0


def keep_inside(words: str, *, is_nested: bool) -> None:
    """Have only processes that the program starts be signalled by it, or connected to by an abstract unix socket.

    `words`: of SCOPES, with commas.  A process that is kept so cannot trace, or look into the memory of, one outside either
    (ptrace(2)).  `is_nested`: rules about files may be in force already, and let the program move files from one folder to
    another, which takes the consent of each ruleset (landlock(7), LANDLOCK_ACCESS_FS_REFER).  It takes no_new_privs.  Raises
    OSError named after the call."""
    attributes = (libc.c_uint64 * 3)(REFER if is_nested else 0, 0, bits(words))  # struct landlock_ruleset_attr
    size = libc.sizeof(attributes)
    ruleset = kernel.syscall("landlock_create_ruleset", libc.byref(attributes), size, 0)
    try:
        if is_nested:
            grant_moving(ruleset)
        kernel.syscall("landlock_restrict_self", ruleset, 0)
    finally:
        os.close(ruleset)


def grant_moving(ruleset: int) -> None:
    """Let a ruleset permit all moves between folders, which another one decides about.  Raises OSError."""
    root = os.open("/", os.O_PATH | os.O_CLOEXEC)
    try:
        rule = libc.c_uint8 * 12  # struct landlock_path_beneath_attr, which is packed
        content = rule(*REFER.to_bytes(8, "little"), *root.to_bytes(4, "little"))
        kernel.syscall("landlock_add_rule", ruleset, _RULE_PATH_BENEATH, libc.byref(content), 0)
    finally:
        os.close(root)
