"""What a program makes or replaces in one run: where a policy can grant it, and which folders are the program's own."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from callfence.policygen.files.generalise_hosts import fixed_start
from callfence.policygen.files.places import OWN_FOLDERS, PlaceError, located, real_path
from callfence.policygen.grants import Files, Right

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from callfence.policygen.files.calls import Need

_DIGIT = re.compile(rb"\d")
_OF_NAME = re.compile(rb"(?<=[A-Za-z])\d{1,2}(?=[A-Za-z])|(?<![\d.])\d{1,2}\.\d{1,2}$")
"""Digits that belong to a name: between letters (`.w3m`), or those of a version at its end (`gtk-3.0`)."""


class OwnFiles:
    """The files that the program has made or replaced, others have replaced meanwhile, or `enforce` will make for it."""

    def __init__(self, environment: Sequence[bytes], named: Callable[[bytes], str]) -> None:
        """`named` returns how a policy writes a path."""
        self._named = named
        self.made: set[bytes] = set()
        """Paths of the files that the program has made or replaced."""
        self.replaced: set[bytes] = set()
        """Paths of those that others have replaced while the program ran: at a reload, or a rotation of its logs."""
        folders = {name: _located(name, environment) for name in (b"$HOME", *OWN_FOLDERS)}
        folders = {name: at for name, at in folders.items() if at and named(at + b"/.").startswith("$")}
        self._home = folders.pop(b"$HOME", b"")
        """The home; b"" where it is the working folder, or the root, whose files have other names in a policy: `enforce` makes
        none."""
        self._given = {*folders.values()}
        """Folders that `enforce` creates before it starts any program."""
        self._own: set[bytes] = set()
        """What may be other hidden folders that the program made in the home, or folders in those: `enforce` makes them where
        they are missing."""
        self._makers: dict[bytes, str] = {}
        """By folder that `enforce` creates: the executable that made it."""
        self._made_again: set[bytes] = set()
        """Those that it has removed, and made once more, and what it has renamed."""

    @property
    def moves(self) -> int:
        """What has grown if files may be at another place (`place`) than before."""
        return len(self.made) + len(self.replaced)

    def make(self, need: Need, executable: str) -> bool:
        """Note that the program makes a file; return whether that is a folder for which `created` returns the rights."""
        is_new = need.name not in self.made
        if is_new and self._is_own(need):
            self._own.add(need.name)
        elif need.name in self._own:
            self._made_again.add(need.name)
        self.made.add(need.name)
        if is_new and need.name in self._given | self._own:
            self._makers.setdefault(need.name, executable)
            return True
        return False

    def rename(self, paths: Iterable[bytes]) -> None:
        """Note that the program renames something to these paths."""
        self._made_again.update(paths)

    def place(self, path: bytes) -> bytes:
        """Return the file itself, or the folder that was there before if the file was made or replaced."""
        place = above = path
        own = self._given | self._own
        while above != b"/" and above not in own:
            folder = os.path.dirname(above)
            if above in self.made or above in self.replaced:
                place = folder
            above = folder
        return place

    def top(self, path: bytes) -> bytes:
        """Return the outermost folder above a path that the program has made, or the path itself."""
        top = above = path
        own = self._given | self._own
        while above != b"/" and above not in own:
            above = os.path.dirname(above)
            if above in self.made:
                top = above
        return top

    def tops(self) -> list[str]:
        """Return the paths made in folders that were there before; those of folders in which more was made end with a slash."""
        tops: dict[bytes, bool] = {}
        for path in self.made - self._given - self._own:
            top = self.top(path)
            tops[top] = tops.get(top, False) or top != path
        return [self._named(top) + "/" * is_folder for top, is_folder in tops.items()]

    def settle(self) -> set[bytes]:
        """Return what is no folder of the program's own after all, now that the run is over: `place` is another for it."""
        gone = {path for path in self._own if os.path.islink(path) or not os.path.isdir(path)} | self._made_again
        self._own -= gone
        return gone

    def created(self) -> Iterator[tuple[bytes, Right, str]]:
        """Return (path, rights, executable) of the folders that `enforce` creates."""
        for path, executable in self._makers.items():
            if not any(own.startswith(path + b"/") for own in self._own):  # else `enforce` creates it on the way
                yield path, Right.CREATE, executable
            if path in self._own and not is_risky(self._named(path)):  # the next run finds what this one left
                yield path, Right.READ, executable

    def _is_own(self, need: Need) -> bool:
        """Return whether a call makes, for the first time, what may be a hidden folder in the home, or a folder in those that
        `enforce` creates.  A name with a number, or one that looks random, may be another in the next run."""
        folder, name = os.path.split(need.name)
        is_below = folder in self._given or (folder == self._home and name.startswith(b"."))
        if not is_below or need.name in self._given or need.rights != Right.CREATE:
            return False
        return not _DIGIT.search(_OF_NAME.sub(b"", name)) and fixed_start(os.fsdecode(name)) is None


def is_risky(path: str) -> bool:
    """Return whether lint names a risk of reading a file, which is granted if it was read, not if it was looked for."""
    from callfence.policygen.lint.files import risks_of  # its tables are read for few programs

    return bool(risks_of(Files({path: Right.READ}, None, None)))


def _located(path: bytes, environment: Sequence[bytes]) -> bytes:
    """Return the absolute path, without links, of a path in a policy; b"" if a variable in it has no value."""
    try:
        return real_path(located(path, environment))
    except PlaceError:
        return b""
