"""What a program is started with, as a recording says it."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from policygen.recording.model import Circumstances

if TYPE_CHECKING:
    from collections.abc import Sequence

_NULL = os.makedev(1, 3)
"""/dev/null: Documentation/admin-guide/devices.txt."""


def circumstances(environment: Sequence[bytes]) -> Circumstances:
    """Return those of a program that inherits all but the environment from this process."""
    user = "user" if os.geteuid() else "root"
    return Circumstances(_stream(0), _stream(1), _stream(2), user, _locale(environment))


def _stream(descriptor: int) -> str:
    try:
        status = os.fstat(descriptor)
    except OSError:
        return "closed"
    if stat.S_ISCHR(status.st_mode):
        return "/dev/null" if status.st_rdev == _NULL else "a terminal" if os.isatty(descriptor) else "a device"
    kinds = {stat.S_IFREG: "a file", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
    return kinds.get(stat.S_IFMT(status.st_mode), "a device")


def _locale(environment: Sequence[bytes]) -> str:
    """The locale of messages and characters: locale(7) says which variable comes first."""
    for name in (b"LC_ALL=", b"LC_CTYPE=", b"LANG="):
        value = next((one.removeprefix(name) for one in environment if one.startswith(name)), b"")
        if value:
            return os.fsdecode(value)
    return "C"
