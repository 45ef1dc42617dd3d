"""A secret of the user's that the kernel keeps: what a confined program cannot read unless its policy allows keyctl(2).

Nor can it set it, by add_key(2) alone: adding a key that is there already writes it, which nobody may do with ours; and a key
that it adds before there is one has other permissions than ours, which only keyctl(2) gives.

`learn` and `enforce` may need it on every start, so little is imported.
"""

from __future__ import annotations

import errno
import os

from enforcer import kernel
from enforcer.errors import EnforceError
from tracer import libc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_SETPERM, _DESCRIBE, _LINK, _UNLINK, _SEARCH, _READ = 5, 6, 8, 9, 10, 11  # KEYCTL_*, linux/keyctl.h
_USER_KEYRING = -4  # KEY_SPEC_USER_KEYRING: there is one for each user of a user namespace, and sessions do not matter
_THREAD_KEYRING = -1  # KEY_SPEC_THREAD_KEYRING: no other process has it
# The possessor and the user: view, read and search; the user too, since not every session possesses the keyring.
_MAY_USE = 0x0B0B0000
_MAY_LINK = 0x3B0B0000
"""The possessor link and set permissions as well: of a key that is just being made."""
_MAY_WRITE = 0x3F0B0000
"""The possessor anything: what earlier versions of callfence gave."""
_TYPE, _NAME, _SIZE = b"user", b"callfence:cache", 32
_NO_KEYRINGS = (errno.ENOSYS, errno.EPERM)  # the kernel lacks them, or a container's filter denies them


class SecretError(EnforceError):
    """There is a key, or none can be made, and it is not known to be a secret: nothing that is signed with it counts."""


def secret() -> bytes:
    """Return the user's secret, made at the first call; b"" where the kernel, or a container's filter, has no keyrings.

    Raises SecretError, which says how to go on."""
    try:
        key = _found() or _made()
        problem, permissions = _problem(key)
        if permissions == _MAY_WRITE and not problem:  # whoever may have written it
            key = _made()
            problem, permissions = _problem(key)
        if not problem and permissions not in (_MAY_USE, _MAY_LINK):
            problem = f"has the permissions {permissions:08x} instead of {_MAY_USE:08x}, so another program may have made it"
        content = (libc.c_char * _SIZE)()
        if not problem and (length := _keyctl(_READ, key, content, _SIZE)) != _SIZE:
            problem = f"has {length} bytes instead of {_SIZE}"
    except OSError as error:
        if error.errno in _NO_KEYRINGS:
            return b""
        raise SecretError(f"the key {_NAME.decode()} of the user's keyring cannot be used: {error.strerror}") from error
    if problem:
        remedy = f"`keyctl unlink {key} @u` removes it"
        raise SecretError(f"the key {_NAME.decode()} ({key}) of the user's keyring {problem}; {remedy}")
    return content.raw


def _found() -> int:
    """Return the number of the key; 0 if there is none.  Raises OSError."""
    try:
        return _keyctl(_SEARCH, _USER_KEYRING, _TYPE, _NAME, 0)
    except OSError as error:
        if error.errno != errno.ENOKEY:
            raise
        return 0


def _made() -> int:
    """Put a new secret in the place of what there is, and return the number of the key.  Raises OSError.

    Until its permissions are set, the key is where no other process can add the same one, which would write it.  If
    another `enforce` makes one at the same time, the last one counts."""
    key = kernel.syscall("add_key", _TYPE, _NAME, os.urandom(_SIZE), _SIZE, _THREAD_KEYRING)
    _keyctl(_SETPERM, key, _MAY_LINK)
    _keyctl(_LINK, key, _USER_KEYRING)
    _keyctl(_SETPERM, key, _MAY_USE)
    _keyctl(_UNLINK, key, _THREAD_KEYRING)
    return _keyctl(_SEARCH, _USER_KEYRING, _TYPE, _NAME, 0)


def _problem(key: int) -> tuple[str, int]:
    """Return why another user may know a key, or "", and its permissions (keyctl_describe(3)).  Raises OSError."""
    text = (libc.c_char * 256)()
    _keyctl(_DESCRIBE, key, text, 256)
    _, owner, _, permissions, _ = text.value.split(b";", 4)
    return "" if int(owner) == os.geteuid() else f"belongs to user {int(owner)}", int(permissions, 16)


def _keyctl(operation: int, *arguments: Any) -> int:
    return kernel.syscall("keyctl", operation, *arguments)
