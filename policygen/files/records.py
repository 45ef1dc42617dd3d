"""Read the kernel's audit records of Landlock: LANDLOCK_ACCESS (1423), a denial, and LANDLOCK_DOMAIN (1424), what is confined
(admin-guide/LSM/landlock.rst, since Linux 6.15).

The fields are separated by spaces.  A text that a program can influence is quoted or, if it has a byte that is no letter,
digit or sign of ASCII, hexadecimal (audit_log_untrustedstring).
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from callfence.policygen.grants import NOTHING, Right, format_rights
from callfence.policygen.paths import PathError, canonical
from callfence.tracer.named import NamedTuple

_HEX = re.compile(r"(?:[0-9A-F]{2})+")
_FILES = {
    "execute": Right.EXECUTE,
    "write_file": Right.WRITE,
    "read_file": Right.READ,
    "read_dir": Right.LIST,
    "remove_dir": Right.REMOVE,
    "remove_file": Right.REMOVE,
    "make_char": Right.DEVICE,
    "make_dir": Right.CREATE,
    "make_reg": Right.CREATE,
    "make_sock": Right.SOCKET,
    "make_fifo": Right.FIFO,
    "make_block": Right.DEVICE,
    "make_sym": Right.SYMLINK,
    "refer": Right.MOVE,
    "truncate": Right.WRITE,
    "ioctl_dev": Right.READ,
}
"""The right of a `path` line for each right of Landlock that a record names after `fs.` (security/landlock/audit.c).  The one
to ioctl goes with `read` (`policygen.files.landlock`)."""
_PORTS = {"net.connect_tcp": ("connect", "dest"), "net.bind_tcp": ("bind", "src")}
"""The use of a `tcp` line, and the field that has the port, for each right of Landlock."""
_MAX_PORT = 65535


class Denied(NamedTuple):
    """What Landlock denied, in words of a policy's lines."""

    path: str
    """The whole path of the file, or of the folder in which it would be made, moved or removed; "" for a port."""
    use: str
    """The use of a TCP port, `connect` or `bind`; "" for a file."""
    port: int
    rights: Right

    @property
    def wanted(self) -> str:
        """The rights, or the port, as a line writes them."""
        return str(self.port) if self.use else format_rights(self.rights)

    @property
    def error(self) -> str:
        """The name of the errno with which Landlock fails the call."""
        return "EXDEV" if self.rights == Right.MOVE else "EACCES"


def denied(fields: Mapping[str, str]) -> Denied | None:
    """Return what was denied, from the fields of a LANDLOCK_ACCESS record; None if no line about files or ports grants that."""
    blockers = fields.get("blockers", "").split(",")
    if blockers[0] in _PORTS:
        use, field = _PORTS[blockers[0]]
        port = fields.get(field, "0")  # the kernel does not write 0
        return Denied("", use, int(port), NOTHING) if re.fullmatch("[0-9]{1,5}", port) and int(port) <= _MAX_PORT else None
    rights = NOTHING
    for blocker in blockers:
        rights |= _FILES.get(blocker.removeprefix("fs."), NOTHING) if blocker.startswith("fs.") else NOTHING
    path = unescaped(fields.get("path", ""))
    try:
        return Denied(canonical(path), "", 0, rights) if rights and path.startswith("/") else None
    except PathError:
        return None


def unescaped(field: str) -> str:
    """Return a text that a program can influence; bytes that are not UTF-8 are surrogate-escaped."""
    if field.startswith('"'):
        return field[1:-1]
    return bytes.fromhex(field).decode("utf-8", "surrogateescape") if _HEX.fullmatch(field) else field
