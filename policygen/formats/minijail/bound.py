"""minijail's configuration of mounts (minijail0(5)) for what a policy grants of files: binds into an empty root folder."""

from __future__ import annotations

from typing import TYPE_CHECKING

from policygen.formats.mounts import LINKS, effect, has_proc, mounts
from policygen.paths import encoded

if TYPE_CHECKING:
    from collections.abc import Mapping

    from policygen.grants import Files, Right


def bound(paths: Mapping[str, Right], name: str) -> tuple[bytes, Files]:
    """Return the file that makes only these paths visible, and what it confines.

    minijail makes no links, and a bind that is not there ends it, as in no other format: so the folders in /usr are bound a
    second time where others have links."""
    made = [one for one in mounts(paths) if _can_be_written(one.path)]
    proc = has_proc(paths)
    lines = [
        b"% minijail-config-file v0",
        f"# Files of {name}, made by `callfence export --to minijail`.".encode(),
        b"ns-mount",
        b"mount = tmpfs,/,tmpfs,MS_NOSUID|MS_NODEV,mode=755",
        *[b"mount = proc,/proc,proc,MS_NOSUID|MS_NODEV|MS_NOEXEC"] * proc,
    ]
    for one in made:
        source, mode = encoded(one.path), b"1" if one.changes or one.is_device else b"0"
        lines.append(b"bind-mount = %s,%s,%s" % (source, source, mode))
        start, _, rest = one.path.removeprefix("/usr/").partition("/")
        if one.path.startswith("/usr/") and start in LINKS:
            lines.append(b"bind-mount = %s,%s,%s" % (source, encoded(f"/{start}/{rest}".rstrip("/")), mode))
    return b"\n".join(lines) + b"\n", effect(made, proc=proc, noexec=False)


def _can_be_written(path: str) -> bool:
    """Whether minijail's syntax can have a path: commas separate, and lines are stripped and end with the line."""
    return not any(character in path for character in ",\n\\") and path == path.strip()
