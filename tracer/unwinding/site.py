"""The call site of a call in words."""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Iterator
from typing import Final

from callfence.tracer import linux
from callfence.tracer.proc import proc
from callfence.tracer.unwinding.callers import Registers, outside
from callfence.tracer.unwinding.maps import Maps
from callfence.tracer.unwinding.tables import UNREADABLE, Read

_BUILD_ID: Final = 3  # NT_GNU_BUILD_ID, elf.h
_MAX_NOTES: Final = 4096
"""The most bytes of a note segment that are read; real segments have a few dozen."""
_MAX_BUILDS: Final = 1024
"""The most build ids that are cached; a program may map any number of files."""

_builds: dict[tuple[str, str, str], str] = {}
"""A cache of build ids, by device, inode and path: each new observation needs its call site."""


def call_site(tid: int, at: Registers, read: Read | None = None) -> str:
    """Return the call site of a call as text: `/path/library+0xoffset (build id)`, with the offset in the file.

    The call site is the first caller outside of libc and the dynamic loader.  If `read`, which reads the task's memory, is
    None, or that caller cannot be found, it is the call's own instruction.  A file without a build id has no parentheses; code
    outside any file is `[anonymous]+0x...`.  The result is '?' if the mappings cannot be read, or do not have the address."""
    try:
        maps = Maps.of(tid)
        return _named(tid, maps, (outside(maps, at, read) if read else 0) or at.ip)
    except (OSError, ValueError):
        return "?"


def _named(tid: int, maps: Maps, address: int) -> str:
    mapped = maps.at(address - 1)  # the instruction before, which made the call
    if mapped is None:
        return "?"
    file, name = mapped.file, mapped.file[2]
    if name[0] == "/" and file not in _builds:
        if len(_builds) >= _MAX_BUILDS:
            _builds.clear()
        _builds[file] = build_id(f"{proc()}/{tid}/root{name}")
    site = f"{name}+{address - mapped.shift:#x}"
    return f"{site} ({_builds[file]})" if _builds.get(file) else site


def build_id(path: str) -> str:
    """Return the GNU build id of a file, in hexadecimal; '' if it has none."""
    try:
        with open(path, "rb", opener=_open_regular) as file:

            def read(offset: int, size: int) -> bytes:
                file.seek(offset)
                return file.read(size)

            segments = [segment for segment in linux.elf_segments(read) if segment[0] == linux.PT_NOTE]
            notes = (read(offset, min(size, _MAX_NOTES)) for _, offset, _, size in segments)
            return next((found.hex() for note in notes for found in _build_ids(note)), "")
    except (OSError, *UNREADABLE):
        return ""


def _open_regular(path: str, flags: int) -> int:
    """Open a regular file.  Raises OSError for other files, since opening a device can have effects."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError(f"{path}: no regular file")
    return os.open(path, flags | os.O_NONBLOCK)


def _build_ids(data: bytes) -> Iterator[bytes]:
    """Yield the contents of the build id notes in a segment; names and contents are padded to 4 bytes."""
    at = 0
    while at + 12 <= len(data):
        name_size, size, kind = struct.unpack_from("<III", data, at)
        start = at + 12 + (name_size + 3) // 4 * 4
        if (data[at + 12 : at + 12 + name_size], kind) == (b"GNU\0", _BUILD_ID):
            yield data[start : start + size]
        at = start + (size + 3) // 4 * 4
