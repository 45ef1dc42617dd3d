"""The task that makes a call: what the recorder may ask about it while it is stopped there, and where the call came from."""

from __future__ import annotations

import os
import stat
import struct
from typing import TYPE_CHECKING

from tracer import kernel, linux
from tracer.abi import Arch
from tracer.proc import proc
from tracer.unwind.walk import Maps, Registers, outside

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

    from tracer.abi import Event
    from tracer.task import Task
    from tracer.unwind.frames import Read

_NOTE_SEGMENT = 4  # PT_NOTE, elf.h
_BUILD_ID = 3  # NT_GNU_BUILD_ID, elf.h
_LONGEST = 4096
"""Most bytes of a note segment, and most segments, that are read: real ones have a few dozen."""
_MANY_BUILDS = 1024
"""Build ids that are remembered before all are forgotten: a program may map any number of files."""
_builds: dict[tuple[str, str, str], str] = {}
"""Build ids by device, inode and path, since each new observation needs its site."""


class Caller:
    """A task that is stopped in a call."""

    __slots__ = ("_event", "_sp", "ids")

    def __init__(self, task: Task, event: Event, sp: int) -> None:
        self._event = event
        self._sp = sp
        self.ids = (task.tid, task.tgid)

    def site(self) -> str:
        """Where the call came from: `call_site`."""
        tid = self.ids[0]
        if self._event.arch != Arch.X86_64.audit:
            return call_site(tid, Registers(self._event.ip, self._sp, 0))
        return call_site(tid, Registers(self._event.ip, self._sp, kernel.peek_user(tid, linux.RBP)), self.read)

    def read(self, address: int, length: int) -> bytes:
        """Bytes within one page of its memory; fewer, or none, where they cannot be read."""
        return kernel.read_memory(self.ids[0], address, length) if address >> 63 == 0 else b""

    def link(self, name: str) -> str:
        """Where a link in its folder of /proc leads (`cwd`, `fd/3`); "" if that cannot be read."""
        try:
            return os.readlink(f"{proc()}/{self.ids[0]}/{name}")
        except OSError:
            return ""


def call_site(tid: int, at: Registers, read: Read | None = None) -> str:
    """`/path/library+0xoffset (build id)` of where a call came from, the offset being that in the file.

    That is the first caller outside of libc and the dynamic loader, if `read`, which gives the task's memory, leads there;
    else the call's own instruction.  Without the parentheses if the file has no build id; `[anonymous]+0x...` outside any
    file.  '?' if the maps cannot be read: that is no error, since the call itself was seen.
    """
    try:
        with open(f"{proc()}/{tid}/maps", encoding="utf-8", errors="surrogateescape") as file:
            maps = Maps(file.read())
        return _named(tid, maps, (outside(maps, at, read) if read else 0) or at.ip)
    except (OSError, ValueError):
        return "?"


def _named(tid: int, maps: Maps, address: int) -> str:
    mapped = maps.at(address - 1)  # the instruction before, which made the call
    if mapped is None:
        return "?"
    file, name = mapped.file, mapped.file[2]
    if name[0] == "/" and file not in _builds:
        if len(_builds) >= _MANY_BUILDS:
            _builds.clear()
        _builds[file] = _build_id(f"{proc()}/{tid}/root{name}")
    site = f"{name}+{address - mapped.shift:#x}"
    return f"{site} ({_builds[file]})" if _builds.get(file) else site


def _build_id(path: str) -> str:
    """The GNU build id of a file, in hexadecimal; '' if it has none."""
    try:
        with open(path, "rb", opener=_regular) as file:
            return next((note.hex() for note in _build_notes(file)), "")
    except (OSError, ValueError, struct.error):
        return ""


def _regular(path: str, flags: int) -> int:
    """Open a regular file; opening a device can have effects."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError(f"{path}: no regular file")
    return os.open(path, flags | os.O_NONBLOCK)


def _build_notes(file: BinaryIO) -> Iterator[bytes]:
    """The contents of an ELF file's build id notes (elf(5)), of either class, little-endian."""
    head = file.read(64)
    if head[:4] != b"\x7fELF":
        return
    wide = head[4] == 2
    table, size, count = struct.unpack_from("<32xQ14xHH" if wide else "<28xI10xHH", head)
    for index in range(min(count, _LONGEST)):
        file.seek(table + index * size)
        segment = file.read(size)
        kind, offset, length = struct.unpack_from("<I4xQ16xQ" if wide else "<II8xI", segment)
        if kind == _NOTE_SEGMENT:
            file.seek(offset)
            yield from _notes(file.read(min(length, _LONGEST)))


def _notes(data: bytes) -> Iterator[bytes]:
    """The contents of the build id notes in a segment; names and contents are padded to 4 bytes."""
    at = 0
    while at + 12 <= len(data):
        named, length, kind = struct.unpack_from("<III", data, at)
        start = at + 12 + (named + 3) // 4 * 4
        if (data[at + 12 : at + 12 + named], kind) == (b"GNU\0", _BUILD_ID):
            yield data[start : start + length]
        at = start + (length + 3) // 4 * 4
