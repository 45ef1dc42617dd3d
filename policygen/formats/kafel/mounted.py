"""nsjail's configuration of mounts (its config.proto, as protobuf text) for what a policy grants of files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from policygen.formats.mounts import LINKS, effect, has_proc, mounts
from policygen.paths import encoded

if TYPE_CHECKING:
    from collections.abc import Mapping

    from policygen.grants import Files, Right

_NAMED = {"$HOME": "HOME", "$TMPDIR": "TMPDIR"}
"""Folders that nsjail finds in its environment."""


def mounted(paths: Mapping[str, Right], name: str) -> tuple[str, Files]:
    """Return the text that makes only these paths visible, and what it confines."""
    made, proc = mounts(paths, ("", *_NAMED)), has_proc(paths)
    lines = [f"# Files of {name}, made by `callfence export --to kafel` for nsjail 3.6.", f"mount_proc: {_word(proc)}"]
    for one in made:
        start, _, rest = one.path.partition("/")
        path = _text(f"/{rest}" if rest or not start else "")
        named = f'prefix_src_env: "{_NAMED[start]}" prefix_dst_env: "{_NAMED[start]}" ' if start else ""
        fields = f"{named}src: {path} dst: {path} is_bind: true mandatory: false rw: {_word(one.changes or one.is_device)}"
        lines.append(f"mount {{ {fields} noexec: {_word(not one.executes)} }}")
    lines += [f'mount {{ src: "usr/{link}" dst: "/{link}" is_symlink: true mandatory: false }}' for link in LINKS]
    return "".join(f"{line}\n" for line in lines), effect(made, proc=proc, noexec=True)


def _word(flag: bool) -> str:
    return "true" if flag else "false"


def _text(path: str) -> str:
    """Return a path as protobuf text has it: odd bytes in octal."""
    plain = (chr(byte) if 32 <= byte < 127 and byte not in b'"\\' else f"\\{byte:03o}" for byte in encoded(path))
    return f'"{"".join(plain)}"'
