"""What a program does with files and ports, watched while it is recorded: rights by file or folder, executable by executable.

A right is noted at the file, or, where the program itself has made or replaced it, at the folder that was there before: only
what is there when a program starts can be granted to it.
"""

from __future__ import annotations

import os
import re
import socket
import stat
from typing import TYPE_CHECKING

from callfence.shared.files import working_folder
from enforcer.kernel import pidfd_getfd
from policygen.files.calls import NEW_ROOTS, PATH_CALLS, SOCKETS, Pair, Wanted, address, numbers, wanted
from policygen.files.places import OWN_FOLDERS, PlaceError, located, named
from policygen.files.rights import NOTHING, Right, format_rights
from tracer import kernel
from tracer.lookup import File, base_of, interpreter, look_up

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tracer.abi import Event
    from tracer.calls import Calls
    from tracer.task import Task

Use = tuple[str, str, str]
"""A path as a policy has it, with its rights; or `tcp connect` or `tcp bind`, with a port; and the executable."""

_SOCKADDR = 128  # struct sockaddr_storage, linux/socket.h
_PROC = re.compile(rb"/proc/(\d+)(?:/|$)")


class Watching:
    """Takes what the calls of one run do with files and ports."""

    def __init__(self, environment: Sequence[bytes], gap: Callable[[str], None]) -> None:
        self._environment = environment
        self._here = os.fsencode(working_folder())
        self._gap = gap
        self._rights: dict[tuple[bytes, str], Right] = {}
        self._ports: set[tuple[str, int, str]] = set()
        self._made: set[bytes] = set()
        """Names that the program has made, or has had stand for another file."""
        self._own = {folder for one in OWN_FOLDERS if (folder := _located(one, environment))}
        """Folders that `enforce` makes, so that the program need not."""
        self._process = 0
        """The first one, which `/proc/self` of a policy is about."""
        self._known: dict[tuple[object, ...], None] = {}
        """What has been noted: the call, the executable, and the paths as given."""
        self._paths = numbers(PATH_CALLS)
        self._sockets = numbers(tuple(SOCKETS))
        self._permits = self._may if os.geteuid() else _always

    def attach(self, calls: Calls) -> None:
        """Have the tracer stop for the calls that are watched."""
        for arch, number in self._paths:
            calls.also(arch, number, self._path_call)
        for arch, number in self._sockets:
            calls.also(arch, number, self._socket_call)
        for arch, number in numbers(NEW_ROOTS):
            calls.also(arch, number, self._new_root)

    def executed(self, path: str) -> None:
        """Note an executable that was started before its calls were seen, and what the kernel executes to run it."""
        self._execute(os.fsencode(path), path)

    def uses(self) -> tuple[Use, ...]:
        """Return what was noted, ascending."""
        found: dict[tuple[str, str], Right] = {}
        for (path, executable), rights in self._rights.items():
            key = (named(path, self._environment, self._here).decode("utf-8", "surrogateescape"), executable)
            found[key] = found.get(key, NOTHING) | rights
        uses = [(path, format_rights(rights), executable) for (path, executable), rights in found.items()]
        return tuple(sorted([*uses, *((f"tcp {use}", str(port), executable) for use, port, executable in self._ports)]))

    # -- calls

    def _path_call(self, task: Task, event: Event) -> None:
        name = self._paths[event.arch, event.number]
        self._process = self._process or task.tgid
        for one in wanted(name, event.arguments, lambda at, length: kernel.read_memory(task.tid, at, length)):
            names = [(part, _string(task.tid, part.address)) for part in (one if isinstance(one, Pair) else (one,))]
            whole = all(path.startswith(b"/") and not path.startswith(b"/proc/") for _, path in names)
            key = (name, task.executable, *(path for _, path in names), *(part.right | part.makes for part, _ in names))
            if whole and key in self._known:
                continue
            noted = self._pair(task, one, names) if isinstance(one, Pair) else self._one(task, *names[0])
            if whole and noted:
                self._known[key] = None

    def _socket_call(self, task: Task, event: Event) -> None:
        use = SOCKETS[self._sockets[event.arch, event.number]]
        length = min(event.arguments[2] & 0xFFFFFFFF, _SOCKADDR)
        found = address(kernel.read_memory(task.tid, event.arguments[1], length))
        if isinstance(found, int):
            if _is_tcp(task.tgid, event.arguments[0] & 0xFFFFFFFF):
                self._ports.add((use, found, task.executable))
        elif found is not None and use == "bind":
            self._make(task, -1, os.fsencode(found), Right.SOCKET)

    def _new_root(self, task: Task, event: Event) -> None:
        self._gap(f"{task.executable} changes its root folder: the files that it uses after that are not known")

    # -- names

    def _one(self, task: Task, one: Wanted, path: bytes) -> bool:
        """Note what a call wants of one path.  False if it will fail, or may be about another file the next time."""
        if not path and one.address:
            return False
        file = look_up(base_of(task.tgid, task.tid, one.descriptor, path), follows=one.follows)
        if file is None:
            if one.makes:
                self._make(task, one.descriptor, path, one.makes)
            return False
        if one.right and self._permits(file, one.right):
            if Right.EXECUTE in one.right:
                self._execute(file.path, task.executable)
            else:
                self._note(file.path, one.right, task.executable)
        if one.removes:
            self._note(os.path.dirname(file.path), one.removes, task.executable)
            if one.replaces:
                self._made.add(file.path)
        return not one.removes

    def _make(self, task: Task, descriptor: int, path: bytes, rights: Right) -> None:
        """Note a name that will be made, if the folder is there."""
        head, _, tail = path.rstrip(b"/").rpartition(b"/")
        folder = look_up(base_of(task.tgid, task.tid, descriptor, head or (b"/" if path.startswith(b"/") else b".")))
        if folder is not None and folder.is_folder and tail and self._permits(folder, Right.WRITE):
            made = os.path.join(folder.path, tail)
            self._made.add(made)
            self._note(made if made in self._own else folder.path, rights, task.executable)

    def _pair(self, task: Task, pair: Pair, names: Sequence[tuple[Wanted, bytes]]) -> bool:
        """Note a rename or a link.  In different folders, both need `move`, and the same rights to what moves."""
        (old, first), (new, second) = names
        source = look_up(base_of(task.tgid, task.tid, old.descriptor, first), follows=old.follows)
        if source is None:
            return False
        self._one(task, old, first)
        self._one(task, new, second)
        head = second.rstrip(b"/").rpartition(b"/")[0] or (b"/" if second.startswith(b"/") else b".")
        there = look_up(base_of(task.tgid, task.tid, new.descriptor, head))
        folder = os.path.dirname(source.path)
        if there is not None and there.path != folder:
            for path in (folder, there.path):
                self._note(path, Right.MOVE, task.executable)
        return False

    def _execute(self, path: bytes, executable: str) -> None:
        """Note an executable, and the interpreters of it."""
        for _ in range(5):  # fs/exec.c: an interpreter may be a script, whose may be one ...
            self._note(path, Right.READ | Right.EXECUTE, executable)
            inner = look_up(interpreter(path))
            if inner is None:
                return
            path = inner.path

    def _note(self, path: bytes, rights: Right, executable: str) -> None:
        place = above = path
        while above != b"/" and above not in self._own:
            folder = os.path.dirname(above)
            if above in self._made:
                place = folder
            above = folder
        if found := _PROC.match(place):
            own = int(found[1]) == self._process
            place = b"/proc/self" + place[found.end(1) :] if own else b"/proc"
        key = (place, executable)
        self._rights[key] = self._rights.get(key, NOTHING) | rights

    def _may(self, file: File, rights: Right) -> bool:
        """Whether this user, whose the program most likely is, has the rights by the file's mode."""
        mode = 0
        for right, bit in ((Right.READ, os.R_OK), (Right.WRITE, os.W_OK), (Right.EXECUTE, os.X_OK)):
            mode |= bit if right in rights else 0
        return os.access(file.path, mode, effective_ids=True)


def _located(path: bytes, environment: Sequence[bytes]) -> bytes:
    """The name of a policy's path without links; b"" if its folder is not known."""
    try:
        return os.path.realpath(located(path, environment))
    except PlaceError:
        return b""


def _always(file: File, rights: Right) -> bool:
    """Root may all, but execute what nobody may."""
    return Right.EXECUTE not in rights or bool(file.mode & 0o111) or stat.S_ISDIR(file.mode)


def _string(tid: int, address: int) -> bytes:
    """The path at an address of a task; b"" if there is none."""
    if not address:
        return b""
    room = kernel.PAGE - address % kernel.PAGE
    text = kernel.read_memory(tid, address, room)
    if b"\0" not in text:
        text += kernel.read_memory(tid, address + room, kernel.PAGE)
    return text.partition(b"\0")[0]


def _is_tcp(process: int, descriptor: int) -> bool:
    """Whether a descriptor of a stopped process is a TCP socket; True if that cannot be found out."""
    try:
        pidfd = os.pidfd_open(process)
        try:
            with socket.socket(fileno=pidfd_getfd(pidfd, descriptor)) as copy:
                return copy.type == socket.SOCK_STREAM and copy.family in (socket.AF_INET, socket.AF_INET6)
        finally:
            os.close(pidfd)
    except OSError:
        return True
