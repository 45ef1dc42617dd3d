"""Files that a run would have opened, removed or renamed, had they been there.

Configuration is there for another user, or some day; what the run made itself afterwards is there at the next start: a file of
its state, or the socket of a server, which removes an old one first.
"""

from __future__ import annotations

import os
from functools import cache, cached_property
from typing import TYPE_CHECKING

from callfence.policygen.files.calls import AT_FDCWD
from callfence.policygen.files.configuration import few, may_be_sought
from callfence.policygen.files.generalise_hosts import fixed_start
from callfence.policygen.files.made import TEMPORARY
from callfence.policygen.files.places import real_path
from callfence.policygen.grants import Right

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from callfence.policygen.files.calls import Wanted
    from callfence.tracer.task import Task

_MAX_FILES = 10_000
"""Number of files that are noted; a program may look for its modules in many folders."""
_NOTED = Right.READ | Right.WRITE | Right.REMOVE


class Absent:
    """The files of one run that were not there, and the rights that it would have used, by executable."""

    def __init__(self) -> None:
        self._noted: set[tuple[bytes, bool, str, Right]] = set()
        """As programs named them: path, whether a link there is followed, executable, rights."""

    def note(self, task: Task, request: Wanted, path: bytes, right: Right) -> None:
        """Note a file that a call would open, list, remove or rename, unless it is there."""
        is_elsewhere = request.descriptor != AT_FDCWD and not path.startswith(b"/")
        if not right or right & ~_NOTED or request.makes or is_elsewhere or not path or len(self._noted) == _MAX_FILES:
            return
        if not path.startswith(b"/"):
            try:
                path = os.path.join(os.readlink(b"/proc/%d/cwd" % task.tid), path)
            except OSError:  # it has been killed
                return
        path = path.rstrip(b"/")
        if not (os.path.exists if request.follows else os.path.lexists)(path):
            self._noted.add((path, request.follows, task.executable, right))

    @cached_property
    def _files(self) -> list[tuple[bytes, str, Right]]:
        """The files at the end of the run: (path without links, executable, rights)."""
        real = cache(real_path)
        files = []
        for path, follows, executable, right in self._noted:
            folder, name = os.path.split(path)
            is_whole = follows and (name in (b".", b"..") or os.path.islink(path))
            files.append((real(path) if is_whole else os.path.join(real(folder), name), executable, right))
        return files

    def sought(self, named: Callable[[bytes], str], place: Callable[[bytes], bytes]) -> list[str]:
        """Return the names of the configuration (`SOUGHT`) that the run looked for and did not make, nor its folder.  `named`
        returns a path as in a policy; `place`: `FileWatcher._place`."""
        read = {path for path, _, right in self._files if right == Right.READ and place(path) == path}
        return few(filter(may_be_sought, map(named, read)))

    def made(
        self, made: Collection[bytes], top: Callable[[bytes], bytes], named: Callable[[bytes], str]
    ) -> Iterator[tuple[bytes, Right, str]]:
        """Yield (path, rights, executable) for each file that the run made: the rights that the next run needs, to the
        outermost folder that the run made (`top`), or else to the file, and `remove` to the folder that holds the file.  What
        the run has removed again is there after a run that was killed, if its folder was there before.
        What was made in a folder for temporary files, but for a file that is left under a name which does not look random, is
        left out: the next one has another name."""
        for path, executable, right in self._files:
            if path not in made:
                continue
            outermost, is_left = top(path), os.path.lexists(path)
            if not is_left and outermost != path:
                continue
            folder, name = os.path.split(named(outermost))
            if folder in TEMPORARY and (outermost != path or not is_left or fixed_start(name) is not None):
                continue
            if opened := right & (Right.LIST if os.path.isdir(path) else Right.READ | Right.WRITE):
                yield outermost, opened, executable
            if Right.REMOVE in right:
                yield os.path.dirname(path) if outermost == path else outermost, Right.REMOVE, executable
