"""The folders that a policy names instead of writing them out: `$HOME`, `$TMPDIR`, and `.`, the working folder.

On the way to every start of `enforce` whose policy confines files: nothing is imported that takes a millisecond.
"""

from __future__ import annotations

from tracer import TYPE_CHECKING
from tracer.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

_DEFAULTS = {b"HOME": b"", b"TMPDIR": b"/tmp"}  # /tmp: where programs that look at TMPDIR go without it (tmpfile(3), mktemp(1))

OWN_FOLDERS = tuple(b"$HOME/" + name for name in (b".cache", b".config", b".local", b".local/share", b".local/state"))
"""Folders that programs make if they are missing, with this user alone in them (XDG Base Directory Specification).

`enforce` makes them where a line grants `create` in them: otherwise the program would need `create` in all of the home."""


class PlaceError(UserError):
    """A policy's path whose folder is not known; `str()` is the reason."""


def located(path: bytes, environment: Sequence[bytes]) -> bytes:
    """Return the name of a policy's path for the kernel; it may begin with `.`.  Raises PlaceError."""
    start, slash, rest = path.partition(b"/")
    if not start.startswith(b"$"):
        return path
    name = start[1:]
    folder = _value(name, environment)
    shown, line = name.decode(), f"the policy has path {path.decode(errors='replace')}"
    if not folder:
        raise PlaceError(f"{shown} is not set, and {line}")
    if not folder.startswith(b"/"):
        raise PlaceError(f"{shown} is {folder.decode(errors='replace')}, which is no whole path, and {line}")
    if not folder.strip(b"/") and not rest:
        raise PlaceError(f"{shown} is /, and {line}: that would be every file")
    return folder + slash + rest


def named(path: bytes, environment: Sequence[bytes], here: bytes) -> bytes:
    """Return a whole path as a policy has it: below the deepest of the named folders that holds it, else as it is.

    `here` is the working folder.  The root is no such folder.
    """
    folders = [(here, b"."), *((_value(name, environment), b"$" + name) for name in (b"TMPDIR", b"HOME"))]
    fitting = [
        (folder, name)
        for folder, name in ((folder.rstrip(b"/"), name) for folder, name in folders)
        if folder.startswith(b"/") and (path == folder or path.startswith(folder + b"/"))
    ]
    if not fitting:
        return path
    folder, name = max(fitting, key=lambda one: len(one[0]))
    return name + path[len(folder) :]


def _value(name: bytes, environment: Sequence[bytes]) -> bytes:
    """Return the value of a variable, or its default."""
    prefix = name + b"="
    found = next((entry[len(prefix) :] for entry in environment if entry.startswith(prefix)), b"")
    return found or _DEFAULTS[name]
