"""firejail's lines about files (firejail-profile(5)) for what a policy grants of them, for firejail 0.9.74.

A whitelisted path hides all else in its folder of the root, or in the home; the other folders of the root are taken away as far
as their names are known.  Programs and libraries stay visible.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from policygen.formats import Direction, Loss
from policygen.grants import ALL, Files, Right
from policygen.paths import covers, encoded

if TYPE_CHECKING:
    from collections.abc import Mapping

_SEEN = ("/bin", "/lib", "/lib32", "/lib64", "/proc", "/sbin", "/sys", "/usr")
"""What is left as it is, but for writing: a program and its loader are there."""
_TOPS = ("/boot", "/etc", "/media", "/mnt", "/opt", "/srv", "/tmp", "/var")
"""Other folders of the root (hier(7)), which are taken away if nothing in them is granted."""
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty", "pts", "ptmx", "shm", "fd", "stdin", "stdout", "stderr")
"""What `private-dev` leaves in /dev, of what most programs use."""
_READS = Right.READ | Right.EXECUTE
_REST = Loss(
    Direction.WIDER,
    f"firejail leaves programs and libraries ({', '.join(_SEEN)}), /run, which it needs, and folders of the root with other "
    "names than hier(7) has visible for reading",
)


def whitelisted(paths: Mapping[str, Right]) -> tuple[list[str], Files, tuple[Loss, ...]]:
    """Return the lines, what they confine, and what they lose beyond that."""
    known = {path: rights for path, rights in paths.items() if rights and _can_be_written(path)}
    effect = dict.fromkeys(_SEEN, _READS) | {"/proc": ALL}
    lines = ["read-only /"]
    for path, rights in known.items():
        top = _top(path)
        written = path.replace("$HOME", "${HOME}", 1)
        changes, is_device = bool(rights & ~_READS), covers("/dev", path)
        if path != top and top not in known and top not in _SEEN:
            lines.append(f"whitelist {written}")
        if not is_device:
            lines.append(f"{'read-write' if changes else 'read-only'} {written}")
        noexec = changes and Right.EXECUTE not in rights and not is_device
        lines += [f"noexec {written}"] * noexec
        granted = ALL if changes or is_device else _READS
        effect[path] = effect.get(path, granted) | (granted & ~Right.EXECUTE if noexec else granted)
    lines += [f"blacklist {top}" for top in _TOPS if not any(_top(path) == top for path in known)]
    if not any(_top(path) == "$HOME" for path in known):
        lines.append("private")
    if not any(_top(path) == "/run" for path in known):
        effect["/run"] = _READS
    if not any(_top(path) == "/dev" for path in known):
        lines.append("private-dev")
        effect |= {f"/dev/{name}": ALL for name in _DEVICES}
    return lines, Files(effect), (_REST,)


def _top(path: str) -> str:
    """Return the folder of the root that holds a path, or `$HOME`."""
    start, _, rest = path.partition("/")
    return start or f"/{rest.partition('/')[0]}"


def _can_be_written(path: str) -> bool:
    """Whether a profile can have a path: there are no quotes, some characters are patterns, and other homes are hidden."""
    start = path.partition("/")[0]
    if start not in ("", "$HOME") or path == "/" or _top(path) in ("/home", "/root"):
        return False
    text = path.removeprefix("$HOME")
    return text.isprintable() and encoded(text).isascii() and not any(character in text for character in "*?[]{}$\"\\,")
