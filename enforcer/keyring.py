"""A secret of the user's that the kernel keeps: what a confined program cannot read unless its policy allows keyctl(2).

`learn` and `enforce` may need it on every start, so little is imported.
"""

from __future__ import annotations

import os

from enforcer import ffi

_SYS_ADD_KEY, _SYS_KEYCTL = 248, 250  # asm/unistd_64.h
_KEYCTL_SETPERM, _KEYCTL_SEARCH, _KEYCTL_READ = 5, 10, 11  # linux/keyctl.h
_USER_KEYRING = -4  # KEY_SPEC_USER_KEYRING: there is one for each user of a user namespace, and sessions do not matter
_MAY_USE = 0x3F0B0000  # the possessor anything; the user view, read and search, since not every session possesses the keyring
_TYPE, _NAME, _SIZE = b"user", b"callfence:cache", 32


def secret() -> bytes:
    """Return the user's secret, made at the first call; b"" where the kernel, or a container's filter, has no keyrings."""
    call = ffi.libc.syscall
    call.restype = ffi.c_long
    wide = ffi.c_long
    number = call(wide(_SYS_KEYCTL), wide(_KEYCTL_SEARCH), wide(_USER_KEYRING), _TYPE, _NAME, wide(0))
    if number < 0:
        number = call(wide(_SYS_ADD_KEY), _TYPE, _NAME, os.urandom(_SIZE), wide(_SIZE), wide(_USER_KEYRING))
        call(wide(_SYS_KEYCTL), wide(_KEYCTL_SETPERM), wide(number), wide(_MAY_USE))
    content = (ffi.c_char * _SIZE)()
    length = call(wide(_SYS_KEYCTL), wide(_KEYCTL_READ), wide(number), content, wide(_SIZE))
    return content.raw if number >= 0 and length == _SIZE else b""
