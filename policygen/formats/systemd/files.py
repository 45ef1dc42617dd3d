"""systemd's settings for what a policy grants of files and ports (systemd.exec(5), "Sandboxing"; systemd.resource-control(5)).

The unit sees the whole file system for reading; what it may change and execute, and which TCP ports it may bind, is confined.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from policygen.files.generalise import trees
from policygen.grants import ALL, ANY_PORT, Files, Right
from policygen.paths import encoded

if TYPE_CHECKING:
    from collections.abc import Iterable

_SPECIFIERS = {"$HOME": "%h", "$TMPDIR": "%T"}
_ALWAYS_WRITABLE = ("/dev", "/proc", "/sys")
"""What ProtectSystem=strict leaves as it is."""
_CHANGES = ALL & ~Right.READ & ~Right.EXECUTE


def files_section(files: Files) -> tuple[str, Files]:
    """Return the lines of a section, and what they confine: nothing where the policy does not."""
    lines: list[str] = []
    effect: dict[str, Right] | None = None
    if files.paths is not None:
        known = {path: rights for path, rights in files.paths.items() if _written(path)}
        changed = [path for path, rights in known.items() if rights & _CHANGES]
        executed = [path for path, rights in known.items() if Right.EXECUTE in rights]
        executed += [path for path in trees() if path in known and path not in executed]  # libraries are mapped from there
        lines += ["ProtectSystem=strict", *_setting("ReadWritePaths", changed)]
        lines += ["NoExecPaths=/", *_setting("ExecPaths", executed)]
        effect = {"/": Right.READ, **dict.fromkeys(_ALWAYS_WRITABLE, _CHANGES)}
        for paths, rights in ((changed, _CHANGES), (executed, Right.EXECUTE)):
            for path in paths:
                effect[path] = effect.get(path, Right.READ) | rights
    if files.bind is not None:
        lines.append("SocketBindDeny=any")
        lines += [f"SocketBindAllow=tcp:{first}-{last}" for first, last in files.bind if (first, last) != ANY_PORT[0]]
        lines += ["SocketBindAllow=any"] * (files.bind == ANY_PORT)
    return "".join(f"{line}\n" for line in lines), Files(effect, None, files.bind)


def _setting(name: str, paths: Iterable[str]) -> list[str]:
    """Return one assignment for each path; one that is not there is ignored."""
    return [f"{name}=-{_written(path)}" for path in paths]


def _written(path: str) -> str:
    """Return a path as systemd reads it; '' for one in a folder that a unit does not know."""
    start, slash, rest = path.partition("/")
    if start not in ("", *_SPECIFIERS):
        return ""
    text = encoded(slash + rest).decode("utf-8", "backslashreplace").replace("\\", "\\\\").replace("%", "%%")
    text = "".join(character if character.isprintable() else f"\\x{ord(character):02x}" for character in text)
    whole = _SPECIFIERS.get(start, "") + text
    return f'"{whole}"' if " " in whole or '"' in whole else whole
