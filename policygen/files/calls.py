"""Which arguments of a call are paths, and which Landlock rights the call needs to the files that they name.

Calls that Landlock does not check (stat, chmod, readlink ...) are missing here; docs/files.md lists them.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from callfence.policygen.grants import DNS as DNS, NOTHING, OF_A_FILE, Right
from callfence.tracer.abi import COMPAT, NATIVE, table
from callfence.tracer.linux import MAXSYMLINKS, O_EMPTYPATH, int_in
from callfence.tracer.named import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

AT_FDCWD = -100  # linux/fcntl.h
_AT_SYMLINK_FOLLOW, _AT_EMPTY_PATH = 0x400, 0x1000
_O_TMPFILE = 0o20000000  # asm-generic/fcntl.h __O_TMPFILE, without O_DIRECTORY
_RENAME_EXCHANGE = 2  # linux/fs.h
_ACCESS = {os.O_RDONLY: Right.READ, os.O_WRONLY: Right.WRITE, os.O_RDWR: Right.READ | Right.WRITE}
QUEUES = b"/dev/mqueue"
"""Where POSIX message queues are files, if their file system is mounted (mq_overview(7)): a rule for that folder is one for all
of them, whoever opens them by mq_open(2)."""
_MADE = {stat.S_IFIFO: Right.FIFO, stat.S_IFSOCK: Right.SOCKET, stat.S_IFCHR: Right.DEVICE, stat.S_IFBLK: Right.DEVICE}


class Wanted(NamedTuple):
    """The rights that a call needs for one path."""

    descriptor: int
    """Descriptor of the folder that a relative path starts from."""
    address: int
    """Address of the path in the caller's memory."""
    right: Right = NOTHING
    """Rights to the named file, if it exists."""
    makes: Right = NOTHING
    """Rights to the folder that holds the name, if the file does not exist and the call creates it."""
    removes: Right = NOTHING
    """Rights to the folder that holds the name, if the file exists."""
    replaces: bool = False
    """Whether the name refers to another file after the call."""
    follows: bool = True
    """Whether a symbolic link as the last name is followed."""
    may_be_empty: bool = False
    """Whether an empty path means the descriptor itself; otherwise the call fails."""
    unnamed: bool = False
    """Whether the call opens a file of the named folder that its path does not name (O_TMPFILE, a queue); no other opens a
    folder to write it."""
    path: bytes = b""
    """The path, if it is not in the caller's memory."""


class Pair(NamedTuple):
    """Two names; the call needs `move` as well if they are in different folders."""

    old: Wanted
    new: Wanted


def _open(descriptor: int, address: int, flags: int) -> list[Wanted]:
    if flags & os.O_PATH:
        return []
    right = _ACCESS.get(flags & os.O_ACCMODE, Right.READ | Right.WRITE)
    if flags & _O_TMPFILE:
        return [Wanted(descriptor, address, right, unnamed=True)]  # it gets a name by linkat, if at all
    if flags & os.O_TRUNC:
        right |= Right.WRITE
    follows = not flags & os.O_NOFOLLOW
    if not flags & os.O_CREAT:
        return [Wanted(descriptor, address, right, follows=follows, may_be_empty=bool(flags & O_EMPTYPATH))]
    if flags & os.O_EXCL:
        return [Wanted(descriptor, address, makes=right | Right.CREATE, follows=False)]
    return [Wanted(descriptor, address, right, right | Right.CREATE, follows=follows)]


def _openat2(arguments: Sequence[int], read: Callable[[int, int], bytes]) -> list[Wanted]:
    flags = read(arguments[2], 8)  # struct open_how begins with the flags (linux/openat2.h)
    return _open(int_in(arguments[0]), arguments[1], int.from_bytes(flags, "little")) if len(flags) == 8 else []


def _make(descriptor: int, address: int, makes: Right) -> list[Wanted]:
    return [Wanted(descriptor, address, makes=makes, follows=False)]


def _mknod(descriptor: int, address: int, mode: int) -> list[Wanted]:
    return _make(descriptor, address, _MADE.get(stat.S_IFMT(mode & 0xFFFF), Right.CREATE))


def _remove(descriptor: int, address: int) -> list[Wanted]:
    return [Wanted(descriptor, address, removes=Right.REMOVE, follows=False)]


def _rename(old: tuple[int, int], new: tuple[int, int], flags: int = 0) -> list[Pair]:
    both = Right.REMOVE | Right.CREATE if flags & _RENAME_EXCHANGE else Right.REMOVE
    return [
        Pair(
            Wanted(*old, removes=both, replaces=bool(flags & _RENAME_EXCHANGE), follows=False),
            Wanted(*new, makes=Right.CREATE, removes=Right.CREATE | Right.REMOVE, replaces=True, follows=False),
        )
    ]


def _link(old: tuple[int, int], new: tuple[int, int], flags: int = 0) -> list[Pair]:
    follows = bool(flags & _AT_SYMLINK_FOLLOW)
    source = Wanted(*old, follows=follows, may_be_empty=bool(flags & _AT_EMPTY_PATH))
    return [Pair(source, Wanted(*new, makes=Right.CREATE, follows=False))]


def _execute(descriptor: int, address: int, flags: int = 0) -> list[Wanted]:
    return [Wanted(descriptor, address, Right.READ | Right.EXECUTE, may_be_empty=bool(flags & _AT_EMPTY_PATH))]


def _queue(flags: int) -> list[Wanted]:
    right = _ACCESS.get(flags & os.O_ACCMODE, NOTHING)
    return [Wanted(AT_FDCWD, 0, right, unnamed=True, path=QUEUES)]


_CALLS: dict[str, Callable[[Sequence[int], Callable[[int, int], bytes]], Sequence[Wanted | Pair]]] = {
    "open": lambda a, _: _open(AT_FDCWD, a[0], a[1]),
    "openat": lambda a, _: _open(int_in(a[0]), a[1], a[2]),
    "openat2": _openat2,
    "creat": lambda a, _: _open(AT_FDCWD, a[0], os.O_CREAT | os.O_WRONLY | os.O_TRUNC),
    "execve": lambda a, _: _execute(AT_FDCWD, a[0]),
    "execveat": lambda a, _: _execute(int_in(a[0]), a[1], a[4]),
    "mkdir": lambda a, _: _make(AT_FDCWD, a[0], Right.CREATE),
    "mkdirat": lambda a, _: _make(int_in(a[0]), a[1], Right.CREATE),
    "mknod": lambda a, _: _mknod(AT_FDCWD, a[0], a[1]),
    "mknodat": lambda a, _: _mknod(int_in(a[0]), a[1], a[2]),
    "symlink": lambda a, _: _make(AT_FDCWD, a[1], Right.SYMLINK),
    "symlinkat": lambda a, _: _make(int_in(a[1]), a[2], Right.SYMLINK),
    "unlink": lambda a, _: _remove(AT_FDCWD, a[0]),
    "rmdir": lambda a, _: _remove(AT_FDCWD, a[0]),
    "unlinkat": lambda a, _: _remove(int_in(a[0]), a[1]),
    "rename": lambda a, _: _rename((AT_FDCWD, a[0]), (AT_FDCWD, a[1])),
    "renameat": lambda a, _: _rename((int_in(a[0]), a[1]), (int_in(a[2]), a[3])),
    "renameat2": lambda a, _: _rename((int_in(a[0]), a[1]), (int_in(a[2]), a[3]), a[4]),
    "link": lambda a, _: _link((AT_FDCWD, a[0]), (AT_FDCWD, a[1])),
    "linkat": lambda a, _: _link((int_in(a[0]), a[1]), (int_in(a[2]), a[3]), a[4]),
    "truncate": lambda a, _: [Wanted(AT_FDCWD, a[0], Right.WRITE)],
    "acct": lambda a, _: [Wanted(AT_FDCWD, a[0], Right.WRITE)],
    **dict.fromkeys(("swapon", "swapoff"), lambda a, _: [Wanted(AT_FDCWD, a[0], Right.READ | Right.WRITE)]),
    "truncate64": lambda a, _: [Wanted(AT_FDCWD, a[0], Right.WRITE)],
    "mq_open": lambda a, _: _queue(a[1]),
}
SOCKETS = {"connect": "connect", "bind": "bind"}
"""Calls that take a socket's address -> the use's name in a `tcp` line."""
UDP_CONNECT = "udp connect"
"""The name of a use that no line grants: a program that asks DNS servers by UDP."""
INTERNET = 2, 10
"""AF_INET, AF_INET6 (linux/socket.h)."""
NEW_ROOTS = ("chroot", "fchroot", "pivot_root", "setns")
"""Calls after which the same path refers to another file."""
MOUNTING = ("mount", "umount", "umount2", "move_mount", "pivot_root")
"""Calls that Landlock denies to whoever has any rule about files (security/landlock/fs.c)."""


SENDING = {"sendto": 3, "sendmsg": 2, "sendmmsg": 3}
"""Calls that connect if their flags have MSG_FASTOPEN -> the index of the argument with these flags."""


def numbers(names: Sequence[str]) -> dict[tuple[int, int], str]:
    """Return (AUDIT_ARCH_*, number) -> name for these calls, on the architectures that run on this machine."""
    return {
        (arch.audit, table(arch).by_name[name].number): name
        for arch in (NATIVE, COMPAT)
        for name in names
        if name in table(arch).by_name
    }


PATH_CALLS = tuple(_CALLS)
BY_HANDLE = "open_by_handle_at"
"""The call that opens a file without a path."""


def wanted(name: str, arguments: Sequence[int], read: Callable[[int, int], bytes]) -> Sequence[Wanted | Pair]:
    """Return what a call of this name needs; `read(address, length)` returns bytes of the caller's memory."""
    return _CALLS[name](arguments, read)


def opens_for_neither(name: str, arguments: Sequence[int]) -> bool:
    """Return whether a call opens a file with the third access mode: Landlock asks for neither reading nor writing, though the
    file's mode has to permit both (open(2))."""
    index = {"open": 1, "openat": 2}.get(name)
    flags = 0 if index is None else arguments[index]
    return flags & os.O_ACCMODE == os.O_ACCMODE and not flags & os.O_PATH


def opens_a_folder(name: str, arguments: Sequence[int]) -> bool:
    """Return whether a call opens nothing but a folder."""
    index = {"open": 1, "openat": 2}.get(name)
    return index is not None and bool(arguments[index] & os.O_DIRECTORY)


ASKING = {"access": None, "faccessat": 0, "faccessat2": 0}
"""Calls that ask whether a file can be opened -> the index of the folder's descriptor; the path and the mode come after it."""


def asked(name: str, arguments: Sequence[int]) -> Wanted | None:
    """Return what a program that asks whether a file is there, or may be read, would need to open it; None for other rights."""
    descriptor, path, mode = (AT_FDCWD, *arguments[:2]) if ASKING[name] is None else (int_in(arguments[0]), *arguments[1:3])
    return Wanted(descriptor, path, Right.READ) if mode & 0xFFFFFFFF in (os.F_OK, os.R_OK) else None


def made_socket() -> Wanted:
    """Return the rights that binding a unix socket to a name needs."""
    return Wanted(AT_FDCWD, 1, makes=Right.SOCKET, follows=False)


def address(data: bytes, *, binds: bool = False) -> int | str | bytes | None:
    """Return what a struct sockaddr holds: a TCP port as int, the path of a unix socket as str, the name of an abstract one as
    bytes (b"" if the kernel chooses it, unix(7)), or None for any other address.  `binds`: it is for bind(2)."""
    family = int.from_bytes(data[:2], "little")
    is_any = binds and family == 0 and data[4:8] == bytes(4)  # AF_UNSPEC, which inet_bind() takes for AF_INET then
    if (family in INTERNET or is_any) and len(data) >= 4:  # the port is in the same place (linux/in.h, in6.h)
        return int.from_bytes(data[2:4], "big")
    if family == 1 and data[2:3] not in (b"", b"\0"):  # AF_UNIX
        return os.fsdecode(data[2:].partition(b"\0")[0])
    if family == 1 and len(data) >= 2:
        return data[3:]
    return None


class File(NamedTuple):
    """An existing file or folder."""

    path: bytes
    """The absolute path, with links resolved."""
    mode: int
    """st_mode."""
    owner: int = 0
    group: int = 0
    identity: tuple[int, int] = (0, 0)
    """st_dev and st_ino."""
    leads: bytes = b""
    """Where a symbolic link leads, as it says; b"" for another file, and for a link of /proc, which leads to no path."""
    is_removed: bool = False
    """Whether the file has no name any more, or none yet (O_TMPFILE); `path` is then the one that it had."""

    @property
    def is_folder(self) -> bool:
        return stat.S_ISDIR(self.mode)

    @property
    def is_executed(self) -> bool:
        """Whether the kernel can execute a file of this type whose mode permits it."""
        return stat.S_ISREG(self.mode)

    @property
    def rights(self) -> Right:
        """The rights that a grant for this file can have."""
        return ~NOTHING if self.is_folder else OF_A_FILE & ~Right.LIST


class Need(NamedTuple):
    """Rights that a call needs to one file or folder."""

    file: File
    rights: Right
    name: bytes = b""
    """The absolute path that is created in the folder, removed from it, or replaced; b"" if `file` itself is used."""
    makes: bool = False
    """Whether the name is created, or refers to another file after the call."""


if TYPE_CHECKING:
    Look = Callable[[int, bytes, bool], File | None]
    """The file that a path, relative to a descriptor, means; the last argument: whether a link as its last name is followed."""


def needs(request: Wanted | Pair, paths: Sequence[bytes], look: Look) -> Iterator[Need]:
    """Yield the rights that a request needs, if the call does not fail anyway.  `paths` has one path, or two for a pair."""
    if isinstance(request, Pair):
        yield from _of_pair(request, paths, look)
    else:
        yield from _of_name(request, paths[0], look)


def _of_name(request: Wanted, path: bytes, look: Look) -> Iterator[Need]:
    if not path and not request.may_be_empty:
        return
    file = look(request.descriptor, path, request.follows)
    if file is None:
        if request.makes:
            yield from _made(request, path, look)
        return
    if rights := _opened(request, file):
        place = look(-1, os.path.dirname(file.path), True) if file.is_removed else file  # where Landlock looks for a grant
        if place is not None:
            yield Need(place, rights)
    if request.removes and (folder := look(-1, os.path.dirname(file.path), True)):
        yield Need(folder, request.removes, file.path, makes=request.replaces)


def _opened(request: Wanted, file: File) -> Right:
    """Return the rights to an existing file that a call needs; none if it fails anyway."""
    if stat.S_ISLNK(file.mode):  # O_NOFOLLOW: ELOOP
        return NOTHING
    if Right.EXECUTE in request.right and (file.is_removed or not file.is_executed):
        return NOTHING
    if file.is_folder and not request.unnamed:
        # Landlock asks READ_DIR for a folder that is opened to read it (security/landlock/fs.c), listed or not; EISDIR to write
        return Right.LIST if request.right == Right.READ else NOTHING
    return request.right


def _made(request: Wanted, path: bytes, look: Look) -> Iterator[Need]:
    """Yield the rights that a call needs to make a file, if it can: where a symbolic link leads, if that leads to no file."""
    descriptor = request.descriptor
    for _ in range(MAXSYMLINKS):
        link = look(descriptor, path, False) if request.follows else None
        if link is None:
            name = path.rstrip(b"/").rpartition(b"/")[2]
            folder = _folder(descriptor, path, look)
            if name and folder and not folder.path.startswith(b"/proc/"):
                yield Need(folder, request.makes, os.path.join(folder.path, name), makes=True)
        if link is None or not link.leads:
            return
        descriptor, path = -1, os.path.join(os.path.dirname(link.path), link.leads)


def _of_pair(pair: Pair, paths: Sequence[bytes], look: Look) -> Iterator[Need]:
    """Yield the needs of both names.  If their folders differ, both need `move`, and the new folder may give the file no right
    that the old one does not (landlock(7))."""
    if not paths[1] or not (paths[0] or pair.old.may_be_empty):
        return
    source = look(pair.old.descriptor, paths[0], pair.old.follows)
    if source is None:
        if not pair.old.removes and (not paths[0] or paths[0].startswith(b"/proc/")):  # a file of O_TMPFILE gets its name
            yield from _of_name(pair.new, paths[1], look)
        return
    yield from _of_name(pair.old, paths[0], look)
    yield from _of_name(pair.new, paths[1], look)
    there = _folder(pair.new.descriptor, paths[1], look)
    here = look(-1, os.path.dirname(source.path), True)
    if there is not None and here is not None and there.path != here.path:
        yield Need(here, Right.MOVE)
        yield Need(there, Right.MOVE)


def _folder(descriptor: int, path: bytes, look: Look) -> File | None:
    """Return the folder that holds the file that a path names; None if there is none."""
    head = path.rstrip(b"/").rpartition(b"/")[0] or (b"/" if path.startswith(b"/") else b".")
    folder = look(descriptor, head, True)
    return folder if folder and folder.is_folder else None
