"""What Landlock will ask for when a call wants something of paths, given the files that these mean now."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from policygen.files.calls import Pair
from policygen.grants import NOTHING, OF_A_FILE, Right
from tracer.named import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from policygen.files.calls import Wanted


class File(NamedTuple):
    """A file that is there."""

    path: bytes
    """Whole, without links."""
    mode: int
    """st_mode."""
    owner: int = 0
    group: int = 0

    @property
    def is_folder(self) -> bool:
        return stat.S_ISDIR(self.mode)

    @property
    def is_executed(self) -> bool:
        """Whether the kernel executes such a file, if its mode permits it."""
        return stat.S_ISREG(self.mode)

    @property
    def rights(self) -> Right:
        """The rights that it can have."""
        return ~NOTHING if self.is_folder else OF_A_FILE


class Need(NamedTuple):
    """Rights to one file or folder."""

    file: File
    rights: Right
    name: bytes = b""
    """The whole path that will be made in the folder, removed from it, or mean another file; b"": `file` itself is used."""
    makes: bool = False
    """Whether the name is made, or means another file after the call."""


if TYPE_CHECKING:
    Look = Callable[[int, bytes, bool], File | None]
    """The file that a path, relative to a descriptor, means; the last argument: whether a link as its last name is followed."""


def needs(one: Wanted | Pair, paths: Sequence[bytes], look: Look) -> Iterator[Need]:
    """Yield what is needed; nothing where the call will fail for another reason.  A pair has two paths."""
    if isinstance(one, Pair):
        yield from _of_pair(one, paths, look)
    else:
        yield from _of_one(one, paths[0], look)


def _of_one(one: Wanted, path: bytes, look: Look) -> Iterator[Need]:
    if not path and not one.may_be_empty:
        return
    file = look(one.descriptor, path, one.follows)
    if file is None:
        if one.makes and (folder := _folder(one.descriptor, path, look)):
            name = path.rstrip(b"/").rpartition(b"/")[2]
            if name:
                yield Need(folder, one.makes, os.path.join(folder.path, name), makes=True)
        return
    if one.right and (file.is_executed or Right.EXECUTE not in one.right):
        yield Need(file, one.right)
    if one.removes and (folder := look(-1, os.path.dirname(file.path), True)):
        yield Need(folder, one.removes, file.path, makes=one.replaces)


def _of_pair(pair: Pair, paths: Sequence[bytes], look: Look) -> Iterator[Need]:
    """In different folders, both need `move`, and what moves may gain no right by it (landlock(7))."""
    if not paths[1] or not (paths[0] or pair.old.may_be_empty):
        return
    source = look(pair.old.descriptor, paths[0], pair.old.follows)
    if source is None:
        if not pair.old.removes and (not paths[0] or paths[0].startswith(b"/proc/")):  # a file of O_TMPFILE gets its name
            yield from _of_one(pair.new, paths[1], look)
        return
    yield from _of_one(pair.old, paths[0], look)
    yield from _of_one(pair.new, paths[1], look)
    there = _folder(pair.new.descriptor, paths[1], look)
    here = look(-1, os.path.dirname(source.path), True)
    if there is not None and here is not None and there.path != here.path:
        yield Need(here, Right.MOVE)
        yield Need(there, Right.MOVE)


def _folder(descriptor: int, path: bytes, look: Look) -> File | None:
    """The folder that holds what a path names."""
    head = path.rstrip(b"/").rpartition(b"/")[0] or (b"/" if path.startswith(b"/") else b".")
    found = look(descriptor, head, True)
    return found if found and found.is_folder else None
