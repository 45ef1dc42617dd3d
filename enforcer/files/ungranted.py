"""Find the files and ports that a call needs and policies do not grant.  Imported at the first such call.

The helper judges paths at the moment of the call, as Landlock does: by the rights of the file and of each folder up to the
root.  The program may change a path in between, so this decides nothing: Landlock denies calls, and this explains why.
"""

from __future__ import annotations

import os
import re
import stat
from typing import TYPE_CHECKING

from callfence.enforcer.alarms import close_at_once
from callfence.enforcer.files.lookup import base_of, grantable, interpreter, is_tcp, look_up, looking, path_from_here, root_of
from callfence.enforcer.waiting import WaitingTask
from callfence.policygen.files.calls import (
    AT_FDCWD,
    BY_HANDLE,
    PATH_CALLS,
    SOCKETS,
    Need,
    Pair,
    Wanted,
    address,
    made_socket,
    needs,
    numbers,
    wanted,
)
from callfence.policygen.files.landlock import ACCESS
from callfence.policygen.files.places import named
from callfence.policygen.grants import NOTHING, OF_A_FILE, WORDS, Right, format_rights, path_line, rights_of, written
from callfence.tracer.named import NamedTuple
from callfence.tracer.proc import fields_of, owner

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from callfence.enforcer.files.granted import Granted, Reach
    from callfence.policygen.files.calls import File, Look
    from callfence.tracer.abi import Event

_SOCKADDR = 128  # struct sockaddr_storage, linux/socket.h
_MAX_REMEMBERED = 4096
"""The most folders whose rights are remembered."""
_CAP_DAC_OVERRIDE = 1 << 1  # linux/capability.h
_THREAD = "path /proc/self/task/"
_PROC = re.compile(rb"/proc/(\d+)(?=/|$)")
_BITS = {Right.READ: 4, Right.WRITE: 2, Right.EXECUTE: 1}
"""The bit of each right in an octal digit of a file's mode."""


class Ungranted(NamedTuple):
    """Rights to a file or folder, or a port, that a call needs and one policy does not grant."""

    file: str
    """The path of the policy."""
    subject: str
    """The beginning of a line that would grant it: `path PATH`, `tcp USE`, either with a host, `unix connect SOCKET`; "" if no
    line would."""
    wanted: str
    """The rights, or the port."""
    error: str
    """The name of the errno with which the call fails; "" if the policies' action answers it."""
    why: str = ""
    """An explanation to print besides; "" for none."""

    @property
    def line(self) -> str:
        """The line that would grant it; "" if none would."""
        return written(self.subject, self.wanted)


class Judge:
    """Judges the calls of a program's processes by the files and ports that they name."""

    def __init__(self, reach: Reach, process: int) -> None:
        """`process`: the id of the program's first process, which `/proc/self` means in a policy."""
        self._reach = reach
        self._process = process
        self._sockets = numbers(tuple(SOCKETS))
        judged = {*reach.calls()}
        self._names = {call: name for call, name in numbers(PATH_CALLS).items() if call in judged}
        self._handles = {*numbers((BY_HANDLE,))} & judged
        self._granted = [_ByFolder(policy) for policy in reach.policies]
        self.unjudged = 0
        """How many calls were not judged: of tasks into which this process may not look, or that may have other files, or that
        name a file by its handle."""

    def ungranted(self, event: Event) -> list[Ungranted]:
        """Return what a call needs, would get natively, and the policies do not grant; [] if that cannot be found out."""
        call = event.arch, event.number
        if call in self._handles:
            self.unjudged += 1
        if call not in self._names and call not in self._sockets:
            return []
        caller = WaitingTask(event.task, event.task)
        root: bytes | None = b"/"
        if (link := caller.link("root")) not in ("/", ""):
            root = root_of(event.task)
        name, top = self._names.get(call), root or b"/"
        if name is None:
            ungranted = _joined(self._of_address(event, caller, SOCKETS[self._sockets[call]], top))
        else:
            ungranted = _joined(self._of_paths(event, name, caller, top))
        if ungranted and root is not None and _has_our_mounts(caller):
            return ungranted
        is_unjudged = ungranted or root is None or not link
        self.unjudged += bool(is_unjudged) and bool(fields_of(event.task))
        return []

    # -- ports

    def _of_address(self, event: Event, caller: WaitingTask, use: str, root: bytes) -> Iterator[Ungranted]:
        process = owner(event.task)
        length = min(event.arguments[2] & 0xFFFFFFFF, _SOCKADDR)
        place = address(caller.read_on(event.arguments[1], length), binds=use == "bind")
        if isinstance(place, int):
            if not is_tcp(event.task, process, event.arguments[0] & 0xFFFFFFFF, close_at_once):
                return
            for policy in self._reach.policies:
                ports = getattr(policy, use)
                if ports is not None and not any(first <= place <= last for first, last in ports):
                    yield Ungranted(policy.file, f"tcp {use}", str(place), "EACCES")
        elif isinstance(place, str) and use == "bind":
            paths = [path_from_here(event.task, root, os.fsencode(place))]
            for need in needs(made_socket(), paths, looking(process, event.task, root)):
                yield from self._lacking(need, _Fields(event.task))

    # -- files

    def _of_paths(self, event: Event, name: str, caller: WaitingTask, root: bytes) -> Iterator[Ungranted]:
        for use in wanted(name, event.arguments, caller.read_on):
            paths = [part.path or caller.path(part.address) for part in (use if isinstance(use, Pair) else (use,))]
            fields = _Fields(event.task, is_relative=not all(path.startswith(b"/") for path in paths))
            is_own = any(path.startswith((b"/proc/", b"/dev/")) for path in paths)
            paths = [path_from_here(event.task, root, path) for path in paths]
            look = looking(owner(event.task) if is_own else event.task, event.task, root)
            all_needs = [*needs(use, paths, look)]
            for need in all_needs:
                yield from self._lacking(need, fields)
                if Right.EXECUTE in need.rights:
                    yield from self._interpreters(need.file.path, event.task, fields, root)
            self.unjudged += fields.is_unclear
            if not all_needs and isinstance(use, Wanted) and Right.EXECUTE in use.right:  # in memory, or removed
                place = base_of(owner(event.task) if is_own else event.task, event.task, use.descriptor, paths[0])
                yield from self._interpreters(place, event.task, fields, root)
            if isinstance(use, Pair) and any(Right.MOVE in need.rights for need in all_needs):
                yield from self._gained(use, paths, look)

    def _interpreters(self, place: bytes, task: int, fields: _Fields, root: bytes) -> Iterator[Ungranted]:
        """Yield what policies do not grant of the interpreters and dynamic loaders that the kernel executes to run a file."""
        for _ in range(5):  # fs/exec.c
            name = path_from_here(task, root, interpreter(place))
            inner = look_up(base_of(owner(task), task, AT_FDCWD, name)) if name else None
            if inner is None:
                return
            if inner.is_executed:
                yield from self._lacking(Need(inner, Right.READ | Right.EXECUTE), fields)
            place = inner.path

    def _gained(self, pair: Pair, paths: Sequence[bytes], look: Look) -> Iterator[Ungranted]:
        """Yield the rights that a file would gain where it is moved or linked to: Landlock denies such a move."""
        source = look(pair.old.descriptor, paths[0], pair.old.follows)
        head = paths[1].rstrip(b"/").rpartition(b"/")[0] or (b"/" if paths[1].startswith(b"/") else b".")
        there = look(pair.new.descriptor, head, True)
        if source is None or there is None:
            return
        for policy in self._reach.policies:
            if policy.paths:
                gained = _held(policy, there.path) & ~_held(policy, source.path) & source.rights
                if gained:
                    place, why = os.path.dirname(source.path), "a move must not give a file rights that it did not have"
                    yield Ungranted(policy.file, self._subject(place), format_rights(gained), "EXDEV", why)

    def _lacking(self, need: Need, fields: _Fields) -> Iterator[Ungranted]:
        file, rights = need.file, need.rights
        if all(grants.holds(file.path, rights) for grants in self._granted):
            return
        is_possible = Right.MOVE in rights or permits(file, Right.WRITE if need.name else rights, fields.read())
        if not is_possible or _is_kept(file, rights):
            return  # it fails as it would natively
        if not _may_reach(file, fields.read()):
            fields.is_unclear = fields.is_relative  # its working folder or descriptor may be below what it cannot enter now
            return
        for policy in self._reach.policies:
            lacking = rights & ~_held(policy, file.path) if policy.paths else NOTHING
            if need.makes and need.name in policy.own:
                continue
            if lacking:
                error = "EXDEV" if lacking == Right.MOVE else "EACCES"
                place, why = file.path, ""
                if not lacking & ~_by_name(policy, place) and not file.is_folder:
                    place, why = os.path.dirname(place), "the file that the line named has been replaced by another"
                subject, wanted = self._subject(place), format_rights(lacking)
                if Right.WRITE in lacking and subject.startswith(_THREAD):
                    why = "a thread's number is another one in each run, so no line grants writing its files"
                    subject = wanted = ""
                yield Ungranted(policy.file, subject, wanted, error, why)

    def _subject(self, place: bytes) -> str:
        return subject_of(place, self._process, self._reach.environment, self._reach.here)


def subject_of(place: bytes, process: int, environment: Sequence[bytes], here: bytes) -> str:
    """Return the beginning of a line about a file or folder, `path PATH`, as `learn` would write it.  `process`, `environment`,
    `here`: the id of the program's first process, its environment and its first working folder."""
    if match := _PROC.match(place):
        place = grantable(place[match.end() :]) if int(match[1]) == process else b"/proc"
    return path_line(named(place, environment, here).decode("utf-8", "surrogateescape"))


class _Fields:
    """The `fields` of a task, read when they are needed: that takes as long as all else."""

    __slots__ = ("_fields", "_task", "is_relative", "is_unclear")

    def __init__(self, task: int, *, is_relative: bool = False) -> None:
        self._task = task
        self.is_relative = is_relative
        """Whether its call has a path that begins at its working folder or at a descriptor."""
        self.is_unclear = False
        """Whether it is not known if the task may reach a file."""
        self._fields: dict[str, str] | None = None

    def read(self) -> dict[str, str]:
        if self._fields is None:
            self._fields = fields_of(self._task)
        return self._fields


class _ByFolder:
    """The rights that a policy grants below folders, looked up once a folder.  A folder that is moved or replaced later keeps
    what it had here, so that a denial may go without a report."""

    __slots__ = ("_folders", "_policy")

    def __init__(self, policy: Granted) -> None:
        self._policy = policy
        self._folders: dict[bytes, Right] = {}

    def holds(self, path: bytes, rights: Right) -> bool:
        """Return whether the policy grants the rights to the file at a path, or does not confine files."""
        if not self._policy.paths:
            return True
        folder = path[: path.rfind(b"/")] or b"/"
        held = self._folders.get(folder)
        if held is None:
            if len(self._folders) >= _MAX_REMEMBERED:
                self._folders.clear()
            held = self._folders[folder] = _held(self._policy, folder)
        return not rights & ~held or not rights & ~(held | _own(self._policy, path))


def _joined(each: Iterable[Ungranted]) -> list[Ungranted]:
    """Join those of the same policy and subject into one, with the rights of all."""
    joined: dict[tuple[str, str], Ungranted] = {}
    for new in each:
        former = joined.setdefault((new.file, new.subject), new)
        rights = rights_of(former.wanted) | rights_of(new.wanted)
        if rights:
            error, why = min(former.error, new.error), former.why or new.why
            joined[new.file, new.subject] = Ungranted(new.file, new.subject, format_rights(rights), error, why)
    return [one for one in joined.values() if not any(_covers(other, one) for other in joined.values())]


def _covers(upper: Ungranted, lower: Ungranted) -> bool:
    """Return whether the line that would grant one grants another, too: of a folder below, which is new in each run perhaps."""
    is_below = upper.file == lower.file and lower.subject.startswith((upper.subject or "-") + "/")
    return is_below and not rights_of(lower.wanted) & ~rights_of(upper.wanted)


def _held(policy: Granted, path: bytes) -> Right:
    """Return the rights that a policy grants to the file at a path now; lines grant the files that they named at the start."""
    rights, place = _own(policy, path), path
    while place != b"/":
        place = os.path.dirname(place)
        rights |= _own(policy, place)
    return rights


def _own(policy: Granted, path: bytes) -> Right:
    """Return the rights that a policy's line about the file that is at a path now grants, without those of folders above."""
    try:
        status = os.stat(path)
    except OSError:  # it has been removed meanwhile
        return NOTHING
    return _rights(policy.by_file.get((status.st_dev, status.st_ino), 0))


def _by_name(policy: Granted, path: bytes) -> Right:
    """Return the rights that the lines of a policy give to a path, whatever file is there now."""
    access, place = 0, path
    while True:
        access |= policy.by_name.get(place, 0)
        if place == b"/":
            return _rights(access)
        place = os.path.dirname(place)


def _rights(access: int) -> Right:
    rights = NOTHING
    for word, bits in ACCESS.items():
        rights |= WORDS[word] if access & bits & -bits else NOTHING  # the lowest bit tells `read` (READ_FILE) from `list`
    return rights


def permits(file: File, rights: Right, fields: Mapping[str, str]) -> bool:
    """Return whether a file's mode permits the rights to a task whose status (proc(5)) has these fields.  ACLs are ignored."""
    bits = 0
    for right, bit in _BITS.items():
        bits |= bit if rights & OF_A_FILE & right else 0
    if int(fields.get("CapEff", "0"), 16) & _CAP_DAC_OVERRIDE:
        return not bits & 1 or file.is_folder or bool(file.mode & 0o111)
    user, group = (fields.get(name, "-1 -1").split()[1] for name in ("Uid", "Gid"))
    groups = {group, *fields.get("Groups", "").split()}
    mode = stat.S_IMODE(file.mode)
    digit = mode >> 6 if user == str(file.owner) else mode >> 3 if str(file.group) in groups else mode
    return digit & bits == bits


def _is_kept(file: File, rights: Right) -> bool:
    """Return whether a file is on a read-only file system, and the rights would change it: the kernel looks for that first."""
    if not rights & ~(Right.READ | Right.EXECUTE) or not (file.is_folder or stat.S_ISREG(file.mode)):
        return False
    try:
        return bool(os.statvfs(file.path).f_flag & os.ST_RDONLY)
    except OSError:  # it has been removed meanwhile
        return False


def _may_reach(file: File, fields: Mapping[str, str]) -> bool:
    """Return whether a task with these fields may search all folders above a file."""
    place = file.path
    while place != b"/":
        place = os.path.dirname(place)
        folder = look_up(place)
        if folder and not permits(folder, Right.EXECUTE, fields):
            return False
    return True


def _has_our_mounts(caller: WaitingTask) -> bool:
    """Return whether a task is in the mount namespace of this process, so that paths mean the same files."""
    try:
        return caller.link("ns/mnt") == os.readlink("/proc/self/ns/mnt")
    except OSError:
        return False
