"""Look up the file that a stopped task means by a path.

The lookup is made at the stop, before the kernel's own: another task may change a name or a path in between.  That is harmless,
since the result decides nothing and is only recorded or reported.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable

from callfence.enforcer import kernel
from callfence.policygen.files.calls import File
from callfence.tracer import linux

_OPEN = os.O_PATH | os.O_CLOEXEC
_DEVICES = {b"/dev/stdin": b"fd/0", b"/dev/stdout": b"fd/1", b"/dev/stderr": b"fd/2"}
_OF_PROCESS = (
    (b"/dev/fd", b"fd"), (b"/proc/self", b""), (b"/proc/net", b"net"), (b"/proc/mounts", b"mounts")
)  # fmt: skip
"""Links that lead elsewhere for each process, and what they lead to in its folder of /proc."""
_NETWORK = b"/net"
_GONE = b" (deleted)"
_HEAD = 4096
"""How many bytes at the beginning of an executable are searched for its interpreter."""


def base_of(process: int, task: int, descriptor: int, path: bytes) -> bytes:
    """Return a path by which this process finds the file that a task means by `path`.  A relative path starts at the task's
    `descriptor`, or at its working folder if that is negative.  An empty path means the descriptor itself."""
    if path.startswith(b"/"):
        if path in _DEVICES:
            return b"/proc/%d/%s" % (process, _DEVICES[path])
        for start, folder in (*_OF_PROCESS, (b"/proc/thread-self", b"task/%d" % task)):
            if path == start or path.startswith(start + b"/"):
                return b"/proc/%d/%s%s" % (process, folder, path[len(start) :])
        return path
    where = b"cwd" if descriptor < 0 else b"fd/%d" % descriptor
    return b"/proc/%d/%s/%s" % (task, where, path) if path else b"/proc/%d/%s" % (task, where)


def is_same_for_all(path: bytes) -> bool:
    """Return whether a path means the same file for all processes with one root folder: none of their own folder of /proc, and
    not relative."""
    return path.startswith(b"/") and not base_of(0, 0, 0, path).startswith(b"/proc/")


def grantable(rest: bytes) -> bytes:
    """Return the path of which a line grants a file of the program's own folder of /proc, `rest` being its path there.

    Files of /proc/self/net are others each time that they are opened (fs/proc/generic.c, proc_net_dentry_ops), so no line can
    grant one of them."""
    return b"/proc/self" + (_NETWORK if rest.startswith(_NETWORK + b"/") else rest)


def looking(process: int, task: int, root: bytes = b"/") -> Callable[[int, bytes, bool], File | None]:
    """Return a function that looks up the file which a task means by a path (`policygen.files.calls.Look`).

    `root`: the task's root folder (`root_of`).  If it is another one, the paths are those of `path_from_here`, and files are
    left out that have another path here, or to which an absolute link leads outside: this process follows it from its own
    root."""

    me = b"%d" % os.getpid()

    def found(descriptor: int, path: bytes, follows: bool) -> File | None:
        """Return the file: of the task, too, if a symbolic link leads to what is another one for each process."""
        name = base_of(process, task, descriptor, path)
        file = look_up(name, follows=follows or not path)
        if follows and not (file and file.path.endswith(os.path.basename(path))):
            own = _of_link(name, path)
            if own:
                return look_up(base_of(process, task, descriptor, path_from_here(task, root, own)))
        if file and _is_in(file.path, b"/proc/" + me) and me not in name.split(b"/"):  # by /proc/self
            return look_up(b"/proc/%d%s" % (process, file.path[len(b"/proc/" + me) :]))
        return file

    def look(descriptor: int, path: bytes, follows: bool) -> File | None:
        file = found(descriptor, path, follows)
        if file is None or root == b"/":
            return file
        if file.leads.startswith(b"/"):
            file = file._replace(leads=below(root, file.leads))
        return file if _is_meant(file, descriptor, path) else None

    def _is_meant(file: File, descriptor: int, path: bytes) -> bool:
        base = b"cwd" if descriptor < 0 else b"fd/%d" % descriptor
        if path.startswith(b"/"):
            base = b"root" if path.startswith(b"/proc/%d/root/" % task) else b""
        try:
            status = os.stat(file.path, follow_symlinks=False)
            begins_inside = base and _is_in(os.readlink(b"/proc/%d/%s" % (task, base)), root)
        except OSError:
            return False
        return (status.st_dev, status.st_ino) == file.identity and (not begins_inside or _is_in(file.path, root))

    return look


def _of_link(name: bytes, path: bytes) -> bytes:
    """Return where the symbolic links lead at which `path` ends, if that is another file for each process; else b"".  `name` is
    what `base_of` makes of the path."""
    start = name.removesuffix(path)
    for _ in range(linux.MAXSYMLINKS):
        if not (target := _link(start + path)):
            return b""
        path = os.path.join(os.path.dirname(path), target)
        if target.startswith(b"/"):
            if not is_same_for_all(target):
                return target
            start = b""
    return b""


def root_of(task: int) -> bytes | None:
    """Return the root folder of a task, as this process names it; None if it has no name here: in a mount namespace with
    another root (pivot_root(2))."""
    link = b"/proc/%d/root" % task
    try:
        name = os.readlink(link)
        return name if os.path.samefile(name, link) else None
    except OSError:
        return None


def path_from_here(task: int, root: bytes, path: bytes) -> bytes:
    """Return the path by which this process finds what a task whose root folder is `root` means by `path`."""
    return b"/proc/%d/root%s" % (task, path) if root != b"/" and path.startswith(b"/") else path


def below(root: bytes, path: bytes) -> bytes:
    """Return an absolute path in a root folder as one of this process; b"" stays."""
    return root.rstrip(b"/") + path if path else b""


def _is_in(path: bytes, folder: bytes) -> bool:
    return path == folder or path.startswith(folder + b"/")


def look_up(name: bytes, *, follows: bool = True) -> File | None:
    """Return the file of a path; None if there is none, or it is in no folder: a pipe, a file in memory, a removed folder."""
    try:
        descriptor = os.open(name, _OPEN if follows else _OPEN | os.O_NOFOLLOW)
        try:
            path = os.readlink(b"/proc/self/fd/%d" % descriptor)
            status = os.fstat(descriptor)
        finally:
            os.close(descriptor)
    except OSError:
        return None
    is_removed = path.endswith(_GONE) and not _is_at(path, status)
    path = path.removesuffix(_GONE) if is_removed else path
    if not path.startswith(b"/") or (is_removed and (stat.S_ISDIR(status.st_mode) or path.rindex(b"/") == 0)):
        return None
    leads = _link(path) if stat.S_ISLNK(status.st_mode) and not path.startswith(b"/proc/") else b""
    identity = (status.st_dev, status.st_ino)
    return File(path, status.st_mode, status.st_uid, status.st_gid, identity, leads, is_removed)


def _link(path: bytes) -> bytes:
    try:
        return os.readlink(path)
    except OSError:  # it has been replaced
        return b""


def _is_at(path: bytes, status: os.stat_result) -> bool:
    """Return whether a path is that file: its name may end as that of a removed one."""
    try:
        return os.path.samestat(os.stat(path, follow_symlinks=False), status)
    except OSError:
        return False


def is_tcp(task: int, process: int, descriptor: int, close: Callable[[int], None] = os.close) -> bool:
    """Return whether a descriptor of a stopped task, of that process, is a TCP socket; True if that cannot be found out.
    `close` closes the copy of it."""
    try:
        return local_port(task, process, descriptor, close) is not None
    except OSError:
        return True


def local_port(task: int, process: int, descriptor: int, close: Callable[[int], None] = os.close) -> int | None:
    """Return the port of a TCP socket of a stopped task, of that process, 0 if it has none yet; None for what is no TCP socket.
    `close` closes the copy of it.  Raises OSError if the task does not let this process copy its descriptor."""
    try:
        copy = kernel.descriptor_of(task, process, descriptor)
        try:
            is_one = kernel.socket_option(copy, linux.SO_PROTOCOL) == linux.IPPROTO_TCP
            return port_of(copy) if is_one else None
        finally:
            close(copy)
    except OSError as error:
        if error.errno == errno.ENOTSOCK:
            return None
        raise


def port_of(socket: int) -> int:
    """Return the port of a TCP socket, which this process has as a descriptor; 0 if it has none."""
    address, length = (linux.c_uint8 * 28)(), linux.c_int(28)  # struct sockaddr_in6, whose port is where that of sockaddr_in is
    kernel.syscall("getsockname", socket, linux.byref(address), linux.byref(length))
    return address[2] << 8 | address[3]


def interpreter(path: bytes) -> bytes:
    """Return the path of a script's interpreter, or of an ELF file's dynamic loader; b"" if there is none."""
    try:
        with open(_regular(path), "rb") as file:
            head = file.read(_HEAD) or b""  # None where reading would wait
            if head.startswith(b"#!"):
                line = head[2:].partition(b"\n")[0].partition(b"\0")[0]
                return line.strip().partition(b" ")[0].partition(b"\t")[0]
            if not head.startswith(b"\x7fELF"):
                return b""
            wide = head[4] == 2  # ELFCLASS64 (elf.h); all of ours are little-endian
            at, size, count = (32, 54, 56) if wide else (28, 42, 44)  # e_phoff, e_phentsize, e_phnum
            start = int.from_bytes(head[at : at + (8 if wide else 4)], "little")
            for index in range(_half(head, count)):
                entry = start + index * _half(head, size)
                if int.from_bytes(head[entry : entry + 4], "little") == 3:  # PT_INTERP
                    offset = slice(entry + 8, entry + 16) if wide else slice(entry + 4, entry + 8)  # p_offset
                    file.seek(int.from_bytes(head[offset], "little"))
                    return (file.read(_HEAD) or b"").partition(b"\0")[0]
    except (OSError, ValueError, IndexError):
        pass
    return b""


def _regular(path: bytes) -> int:
    """Open an executable regular file for reading, and return its descriptor; opening other files can have effects or block.
    O_NONBLOCK, because opening a file on which the program has a lease (F_SETLEASE) would wait for 45 s.  Raises OSError."""
    descriptor = os.open(path, _OPEN)
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode) or not mode & 0o111:
            raise OSError(errno.EACCES, "the file is not executable")
        return os.open(b"/proc/self/fd/%d" % descriptor, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    finally:
        os.close(descriptor)


def _half(head: bytes, at: int) -> int:
    return int.from_bytes(head[at : at + 2], "little")
