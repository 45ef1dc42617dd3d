"""Records which rights to files and folders a program uses, for each executable, and whose abstract sockets.

A right is recorded for the file.  If the program itself has made or replaced the file, or another process has replaced it
meanwhile, the right is recorded for the folder that existed before, since a policy can grant only what exists when the program
starts.
"""

from __future__ import annotations

import os
import re
import stat
from typing import TYPE_CHECKING

from callfence.enforcer.files.lookup import (
    below,
    grantable,
    interpreter,
    is_same_for_all,
    look_up,
    looking,
    path_from_here,
    root_of,
)
from callfence.enforcer.files.paths import streams
from callfence.learning.absent import Absent
from callfence.learning.own_files import OwnFiles, is_risky
from callfence.learning.ports import by_socketcall, named_by, report_hidden, sent_to
from callfence.policygen.files.calls import (
    ASKING,
    MOUNTING,
    NEW_ROOTS,
    PATH_CALLS,
    QUEUES,
    SENDING,
    SOCKETS,
    Pair,
    asked,
    made_socket,
    needs,
    numbers,
    opens_a_folder,
    opens_for_neither,
    wanted,
)
from callfence.policygen.files.configuration import PUBLIC, SOUGHT, configures
from callfence.policygen.files.landlock import READ_DIR
from callfence.policygen.files.made import KEPT_APART, LEFT, MADE, fewest
from callfence.policygen.files.places import named
from callfence.policygen.files.ruleset import access
from callfence.policygen.grants import NOTHING, Right, format_rights
from callfence.policygen.learning.scope import FAMILY, OTHERS
from callfence.policygen.model import ABSTRACT
from callfence.policygen.paths import folders
from callfence.shared.files import working_folder
from callfence.tracer import kernel
from callfence.tracer.named import NamedTuple
from callfence.tracer.proc import fields_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from callfence.policygen.files.calls import File, Need
    from callfence.policygen.files.generalise import Use
    from callfence.tracer.abi import Event
    from callfence.tracer.calls import Calls
    from callfence.tracer.task import Task

_CHOSEN = re.compile(rb"[0-9a-f]{5}")  # net/unix/af_unix.c, unix_autobind()
_PROC = re.compile(rb"/proc/(\d+)(?:/|$)")
_NAME = re.compile(rb"/proc/(\d+)(/task/\d+)?/comm")
"""The name of a process or thread (proc_pid_comm(5))."""
_TERMINALS, _OTHER_ENDS = b"/dev/ptmx", b"/dev/pts"
"""Who opens the first has a new terminal, whose other end is mostly opened by TIOCGPTPEER, which names no file (pts(4))."""
_STREAMS = re.compile(rb"/dev/std(in|out|err)|/(dev|proc/self|proc/thread-self)/fd/[0-2]")
"""The names by which a program opens its standard streams anew (proc_pid_fd(5))."""
_MAX_FILES = 1000
"""Number of files in a folder of configuration that are looked at."""
_LOGS = b"/var/log/"
_EMPTIED = (b"/run/", _LOGS)
"""Where files are gone some day: when the machine has been started, or the logs have been rotated."""
_NUMBERED = (b"/proc/", b"/sys/", b"/dev/")
"""Where the kernel gives a file another inode at any time."""


class _Noted(NamedTuple):
    """A call that has been recorded."""

    paths: list[bytes]
    identities: list[tuple[int, int] | None]
    """Of the files at these paths."""
    places: dict[bytes, bytes]
    """By file that the call needs: the file or folder for which its rights were recorded."""
    moves: int
    """`OwnFiles.moves` then."""


class FileWatcher:
    """Records the rights to files, and the abstract sockets, that the calls of one run use."""

    def __init__(self, environment: Sequence[bytes], gap: Callable[[str], None], renamed: Callable[[str], str] = str) -> None:
        """`renamed` returns the path under which a file is recorded."""
        self._environment = environment
        self._here = os.fsencode(working_folder())
        self._gap = gap
        self._renamed = renamed
        self._rights: dict[tuple[bytes, str], Right] = {}
        self._bound: set[bytes] = set()
        """Names of the abstract sockets that the program has bound; b"" stands for names that the kernel chose."""
        self._aims: set[tuple[str, str]] = set()
        """(FAMILY or OTHERS, executable): who owns the abstract sockets to which an executable connected or sent."""
        if any(entry.startswith(b"NOTIFY_SOCKET=@") for entry in environment):  # sd_notify(3)
            self._aims.add((OTHERS, "?"))
        self._left: set[bytes] = set()
        """Paths of the files that earlier runs have left in a folder which is emptied."""
        self._absent = Absent()
        self._identities: dict[bytes, tuple[int, int]] = {}
        """By path: the file that was there."""
        self._own = OwnFiles(environment, self._named)
        self._process = 0
        """The pid of the program's first process, which `/proc/self` in a policy means; 0 before its first call."""
        self._streams: dict[tuple[int, int], int] = {}
        """By file that was a standard stream at the program's first call: the rights that need no line (`streams`)."""
        self._noted: dict[tuple[object, ...], _Noted] = {}
        """By call that has been recorded: name, executable, the paths as given, and the rights."""
        self._changes_root = False
        """Whether a process has changed its root folder, or what is mounted, so that paths may mean other files to each."""
        self._paths = numbers(PATH_CALLS)
        self._asking = numbers(tuple(ASKING))
        self._sockets = numbers(tuple(SOCKETS))
        self._permits = self._may if os.geteuid() else _always

    def attach(self, calls: Calls) -> None:
        """Have the tracer stop for the calls that are watched."""
        for arch, number in self._paths:
            calls.also(arch, number, self._path_call)
        for arch, number in self._asking:
            calls.also(arch, number, self._asks)
        for arch, number in self._sockets:
            calls.also(arch, number, self._socket_call)
        sending = {name: self._sends(name) for name in SENDING}
        for name, handler in sending.items():
            calls.also_named(name, handler, always=False)
        calls.also_named("socketcall", by_socketcall({**dict.fromkeys(SOCKETS, self._socket_call), **sending}))
        for arch, number in numbers(NEW_ROOTS):
            calls.also(arch, number, self._new_root)
        for name in MOUNTING:
            calls.also_named(name, self._mounts)

    def executed(self, path: str) -> None:
        """Record the right to execute a file that was executed, and its interpreters; do nothing for one in memory, or one that
        has been removed since: `_path_call` has recorded that by its name."""
        if os.path.lexists(path):
            self._execute(os.fsencode(path), path)

    def uses(self) -> tuple[Use, ...]:
        """Return what was recorded, ascending, as (what, rights, executable): a path as in a policy and its rights, ABSTRACT
        and FAMILY or OTHERS, MADE and the path of a file that was made (`fewest`), or PUBLIC, LEFT or SOUGHT and a path."""
        by_name: dict[tuple[str, str], Right] = {}
        gone = self._own.settle()
        for path, rights, executable in self._own.created():
            self._note(path, rights, executable)
        again = self._absent.made(self._own.made, self._own.top, self._named)
        used = [(self._own.place(path) if path in gone else path, rights, who) for (path, who), rights in self._rights.items()]
        used += (use for use in again if Right.READ not in use[1] or not is_risky(self._named(use[0])))
        for path, rights, executable in used:
            key = (self._named(path), self._renamed(executable))
            by_name[key] = by_name.get(key, NOTHING) | rights
        uses = [(name, format_rights(rights), executable) for (name, executable), rights in by_name.items()]
        read = {folder for (name, _), rights in by_name.items() if Right.READ in rights for folder in configures(name)}
        public: set[str] = set()
        for folder in sorted(read):  # those above come first
            if public.isdisjoint(folders(folder)) and _is_public(folder):
                public.add(folder)
        uses += [(PUBLIC, folder, "") for folder in public]
        uses += [(MADE, path, "") for path in fewest(self._own.tops())]
        uses += [(LEFT, self._named(path), "") for path in self._left]
        absent = {*self._absent.sought(self._named, self._own.place)} - {name for name, _ in by_name}
        uses += [(SOUGHT, path, "") for path in absent if not is_risky(path)]
        return tuple(sorted([*uses, *((ABSTRACT, aim, self._renamed(executable)) for aim, executable in self._aims)]))

    def _named(self, path: bytes) -> str:
        name = os.fsencode(self._renamed(os.fsdecode(path)))
        return named(name, self._environment, self._here).decode("utf-8", "surrogateescape")

    # -- calls

    def _path_call(self, task: Task, event: Event) -> None:
        name = self._paths[event.arch, event.number]
        if not self._process:
            self._process = task.tgid
            self._find_streams()
        if opens_for_neither(name, event.arguments):
            self._gap(f"{task.executable} opens files with access mode 3, which fails under a policy that confines files")
        if name == "mq_open" and not os.path.ismount(QUEUES):
            why = f"{os.fsdecode(QUEUES)} is not mounted"
            self._gap(f"{task.executable} opens message queues, which fails under a policy that confines files: {why}")
        for request in wanted(name, event.arguments, lambda at, length: kernel.read_memory(task.tid, at, length)):
            parts = request if isinstance(request, Pair) else (request,)
            paths = [part.path or kernel.read_path(task.tid, part.address) for part in parts]
            report_hidden(task, self._gap, is_read=all(paths))
            if (root := self._root(task)) is None:
                return
            paths = [path_from_here(task.tid, root, path) for path in paths]
            is_fixed = all(map(is_same_for_all, paths))
            key = (name, task.executable, *paths, *(part.right | part.makes for part in parts))
            if is_fixed and self._is_noted(key):
                continue
            needed = [*needs(request, paths, looking(task.tgid, task.tid, root))]
            if not needed and root == b"/":
                right = Right.LIST if opens_a_folder(name, event.arguments) else parts[0].right | parts[0].removes
                self._absent.note(task, parts[0], paths[0], right)
            if all(map(_STREAMS.fullmatch, paths)):
                needed = [need for need in needed if access(need.rights) & ~self._streams.get(need.file.identity, 0)]
            if self._changes_root and root == b"/":
                needed = [need for need in needed if self._is_same_file(task, need.file)]
            for need in needed:
                self._find(task, need, makes=any(part.makes & Right.CREATE for part in parts))
                is_fixed &= self._needed(task, need, root)
            if isinstance(request, Pair):
                self._own.rename(need.name for need in needed if need.makes)
            makes = any(part.makes for part in parts)  # whether it does depends on whether the file is there
            if is_fixed and needed and not makes and not any(need.name or Right.MOVE in need.rights for need in needed):
                places = {need.file.path: self._own.place(need.file.path) for need in needed}
                identities = [*map(_identity, paths)]
                if identities == [need.file.identity for need in needed]:  # not a link to what each process has for itself
                    self._noted[key] = _Noted(paths, identities, places, self._own.moves)

    def _find_streams(self) -> None:
        for descriptor, rights in streams(self._process):
            status = os.fstat(descriptor)
            os.close(descriptor)
            identity = status.st_dev, status.st_ino
            self._streams[identity] = self._streams.get(identity, 0) | rights | READ_DIR  # which `read` has for files, too

    def _asks(self, task: Task, event: Event) -> None:
        request = asked(self._asking[event.arch, event.number], event.arguments)
        if request and self._root(task) == b"/":
            self._absent.note(task, request, kernel.read_path(task.tid, request.address), request.right)

    def _is_noted(self, key: tuple[object, ...]) -> bool:
        """Return whether a call has been recorded, and would be recorded for the same files and folders again."""
        noted = self._noted.get(key)
        if noted is None or noted.identities != [*map(_identity, noted.paths)]:
            return False
        if noted.moves != self._own.moves:
            if any(self._own.place(file) != place for file, place in noted.places.items()):
                return False
            self._noted[key] = noted._replace(moves=self._own.moves)
        return True

    def _socket_call(self, task: Task, event: Event) -> None:
        binds = SOCKETS[self._sockets[event.arch, event.number]] == "bind"
        target = named_by(task, event, self._gap, binds=binds)
        if isinstance(target, bytes):
            self._abstract(target, task, binds=binds)
        elif isinstance(target, str) and binds and (root := self._root(task)) is not None:
            paths = [path_from_here(task.tid, root, os.fsencode(target))]
            for need in needs(made_socket(), paths, looking(task.tgid, task.tid, root)):
                self._needed(task, need, root)

    def _abstract(self, name: bytes, task: Task, *, binds: bool) -> None:
        """Record that a task binds an abstract socket with this name, or else whose abstract socket it connects or sends to."""
        if binds:
            self._bound.add(name)
            return
        is_own = name in self._bound or (b"" in self._bound and _CHOSEN.fullmatch(name) is not None)
        self._aims.add((FAMILY if is_own else OTHERS, task.executable))

    def _sends(self, call: str) -> Callable[[Task, Event], None]:
        def handle(task: Task, event: Event) -> None:
            if isinstance(name := sent_to(task, event, call), bytes):
                self._abstract(name, task, binds=False)

        return handle

    def _new_root(self, task: Task, event: Event) -> None:
        self._changes_root = True

    def _mounts(self, task: Task, event: Event) -> None:
        self._changes_root = True
        self._gap(f"{task.executable} changes what is mounted, which fails under a policy that confines files")

    def _root(self, task: Task) -> bytes | None:
        """Return the root folder of a task (`root_of`); None, and a gap, if it has no name here."""
        root = root_of(task.tid) if self._changes_root else b"/"
        if root is None:
            self._gap(f"{task.executable} changes its root folder; the files that it uses after that are not recorded")
        return root

    def _is_same_file(self, task: Task, file: File) -> bool:
        """Return whether the path of a file means the same file to a task; False, and a gap, in a mount namespace of its own
        where something else is mounted there."""
        there = b"/proc/%d/root%s" % (task.tid, file.path)
        if file.is_removed or _identity(file.path) == _identity(there) == file.identity:
            return True
        self._gap(f"{task.executable} uses files of a mount namespace of its own; those that are others here are not recorded")
        return False

    # -- names

    def _needed(self, task: Task, need: Need, root: bytes) -> bool:
        """Record a right, and return True, unless the file's mode denies it, so that the call fails anyway.  `root`: the task's
        root folder."""
        file, rights = need.file, need.rights
        if Right.WRITE in rights and self._names_itself(task, file.path):
            self._gap(f"{task.executable} names threads by /proc, which fails under a policy that confines files")
            return False
        if Right.MOVE not in rights and not self._permits(file, Right.WRITE if need.name else rights):
            return False
        self._identify(file)
        is_created = need.makes and self._own.make(need, task.executable)  # then `OwnFiles.created` has it
        if Right.EXECUTE in rights:
            self._execute(file.path, task.executable, root, b"/proc/%d/cwd" % task.tid)
        elif not is_created:
            self._note(file.path, rights, task.executable)
        if file.path == _TERMINALS:
            self._note(_OTHER_ENDS, Right.READ | Right.WRITE, task.executable)
        return True

    def _find(self, task: Task, need: Need, *, makes: bool) -> None:
        """Note a file that a call would make (`makes`) if no earlier run had left it there, or a log that it writes, which
        others make anew, in a folder which is emptied (`_EMPTIED`)."""
        file, folder = need.file, os.path.dirname(need.file.path)
        is_left = file.path.startswith(_EMPTIED) and stat.S_ISREG(file.mode) and self._own.place(file.path) == file.path
        is_log = file.path.startswith(_LOGS) and Right.WRITE in need.rights
        if need.name or not (is_left and (makes or is_log)) or not self._permits(file._replace(path=folder), Right.WRITE):
            return
        if not self._is_kept_apart(folder):
            self._note(folder, Right.CREATE | need.rights, task.executable)
        elif makes:
            self._left.add(file.path)

    def _identify(self, file: File) -> None:
        """Note which file is at a path, and whether others have put it there in place of the one before."""
        former = self._identities.get(file.path, file.identity)
        self._identities[file.path] = file.identity
        is_mounted = former[0] != file.identity[0]  # another file system has come between
        is_granted_by_folder = self._own.place(file.path) != file.path
        if former == file.identity or is_mounted or is_granted_by_folder or file.path.startswith(_NUMBERED):
            return
        if self._is_kept_apart(os.path.dirname(file.path)):
            name = self._named(file.path)
            self._gap(f"{name} was replaced while the program ran, and a line is about the file that is there at the start")
        else:
            self._own.replaced.add(file.path)

    def _is_kept_apart(self, folder: bytes) -> bool:
        """Return whether no rule grants a folder (`KEPT_APART`), also where it is the working folder."""
        return not {self._named(folder), os.fsdecode(folder)}.isdisjoint(KEPT_APART)

    def _names_itself(self, task: Task, path: bytes) -> bool:
        """Return whether a path is the name of a thread of this task's process, and no line can grant that alone: one for all
        threads, or for all processes, would permit writing their memory."""
        match = _NAME.fullmatch(path)
        return match is not None and int(match[1]) == task.tgid and (bool(match[2]) or task.tgid != self._process)

    def _execute(self, path: bytes, executable: str, root: bytes = b"/", folder: bytes = b".") -> None:
        """Record the right to read and execute a file and its interpreters.  `folder`: where a relative path starts."""
        for _ in range(5):  # fs/exec.c: an interpreter may be a script, whose may be one ...
            self._note(path, Right.READ | Right.EXECUTE, executable)
            name = interpreter(path)
            inner = look_up(below(root, name) if name.startswith(b"/") else os.path.join(folder, name)) if name else None
            if inner is None:
                return
            path = inner.path

    def _note(self, path: bytes, rights: Right, executable: str) -> None:
        place = self._own.place(path)
        if match := _PROC.match(place):
            is_own = int(match[1]) == self._process
            place = grantable(place[match.end(1) :]) if is_own else b"/proc"
            if Right.WRITE in rights:  # all threads are granted to read alone (`generalise.of_numbers`)
                place = place.replace(b"/proc/self/task/%d/" % self._process, b"/proc/thread-self/")
        key = (place, executable)
        self._rights[key] = self._rights.get(key, NOTHING) | rights

    def _may(self, file: File, rights: Right) -> bool:
        """Return whether the file's mode gives this user the rights; the program most likely runs as this user."""
        mode = 0
        for right, bit in ((Right.READ, os.R_OK), (Right.WRITE, os.W_OK), (Right.EXECUTE, os.X_OK)):
            mode |= bit if rights & right else 0
        if os.access(file.path, mode, effective_ids=True):
            return True
        try:
            os.stat(file.path, follow_symlinks=False)
        except PermissionError:  # it began below what it may not enter: its working folder or a descriptor
            from callfence.enforcer.files.ungranted import permits

            return permits(file, rights, fields_of(os.getpid()))
        except OSError:
            pass
        return False


def _identity(path: bytes) -> tuple[int, int] | None:
    """Return st_dev and st_ino of the file at a path; None if there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _is_public(folder: str) -> bool:
    """Return whether a folder and all that is in it belong to root, and are readable for every user and writable for few."""
    left = _MAX_FILES
    waiting = [folder]
    try:
        if not all(os.stat(above).st_mode & 0o001 for above in folders(folder)):  # few users come to what is in it
            return False
        while waiting:
            path = waiting.pop()
            left -= 1
            status = os.lstat(path)
            if stat.S_ISLNK(status.st_mode):  # what it leads to takes a line of its own
                continue
            mode = 0o005 if (is_folder := stat.S_ISDIR(status.st_mode)) else 0o004
            is_file = is_folder or stat.S_ISREG(status.st_mode)
            if status.st_uid or not is_file or status.st_mode & (mode | 0o002) != mode or left < 0:
                return False
            waiting += [os.path.join(path, name) for name in os.listdir(path)] if is_folder else []
    except OSError:
        return False
    return True


def _always(file: File, rights: Right) -> bool:
    """Return whether root has the rights: it lacks only the right to execute a file that no user may execute."""
    return Right.EXECUTE not in rights or bool(file.mode & 0o111) or stat.S_ISDIR(file.mode)
