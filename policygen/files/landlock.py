"""Translate a policy's files and ports into Landlock's terms, and say what each version of Landlock can enforce (landlock(7));
and look up the folders that a policy writes as `$HOME`, `$TMPDIR` and `.`, the working folder.

Every start of `enforce` with a policy that confines files imports this module, so it imports nothing that takes a millisecond.
"""

from __future__ import annotations

import os

from callfence.tracer.errors import UserError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

# linux/landlock.h, LANDLOCK_ACCESS_FS_*
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR, REMOVE_DIR, REMOVE_FILE, MAKE_CHAR = (1 << bit for bit in range(7))
MAKE_DIR, MAKE_REG, MAKE_SOCK, MAKE_FIFO, MAKE_BLOCK, MAKE_SYM, REFER, TRUNCATE = (1 << bit for bit in range(7, 15))
IOCTL_DEV = 1 << 15
OF_A_FILE = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV
"""The rights that a rule for a file that is no folder can have; the kernel refuses others (security/landlock/fs.c,
ACCESS_FILE)."""
BIND_TCP, CONNECT_TCP = 1, 2  # LANDLOCK_ACCESS_NET_*
MAX_PORT = 65535
_OPENS = READ_FILE | WRITE_FILE
CHANGES = WRITE_FILE | TRUNCATE | REMOVE_DIR | REMOVE_FILE | MAKE_REG | MAKE_SYM | MAKE_SOCK | MAKE_FIFO | MAKE_DIR | REFER
"""The rights by which a file gets another content, or another file its name."""

ACCESS = {
    "read": READ_FILE | READ_DIR,
    "list": READ_DIR,
    "write": WRITE_FILE | TRUNCATE,
    "create": MAKE_REG | MAKE_DIR,
    "remove": REMOVE_FILE | REMOVE_DIR,
    "execute": EXECUTE,
    "move": REFER,
    "symlink": MAKE_SYM,
    "socket": MAKE_SOCK,
    "fifo": MAKE_FIFO,
    "device": MAKE_CHAR | MAKE_BLOCK,
}
"""Landlock's rights for each word of a `path` line.  A rule with READ_FILE or WRITE_FILE gets IOCTL_DEV as well
(`downgrade`).
"""
EVERY_ACCESS = (1 << 15) - 1

VERSIONS = (
    (1, "5.13", EVERY_ACCESS & ~(REFER | TRUNCATE), False),
    (2, "5.19", EVERY_ACCESS & ~TRUNCATE, False),
    (3, "6.2", EVERY_ACCESS, False),
    (4, "6.7", EVERY_ACCESS, True),
    (5, "6.10", EVERY_ACCESS | IOCTL_DEV, True),
)
"""Version of the ABI, the first Linux that has it, which rights on files it knows, and whether it knows TCP ports.

Later versions add nothing that `path` and `tcp` lines need.  IOCTL_DEV does not count either: a program may make the ioctls
that its filter allows on every device that it can read or write, so a version without IOCTL_DEV lacks nothing.
"""


_FILTERED = b"filtered"
"""The first field of an encoded ruleset that leaves truncating to the filter."""


class Ruleset:  # named tuples would need `collections`, which takes a millisecond
    """The lines of a policy about files and ports, before names are looked up."""

    __slots__ = ("bind", "connect", "paths", "truncates")

    def __init__(
        self,
        paths: Sequence[tuple[bytes, int]] | None,
        connect: Sequence[tuple[int, int]] | None,
        bind: Sequence[tuple[int, int]] | None,
        *,
        truncates: bool = True,
    ) -> None:
        self.paths = paths
        """Each path as the policy writes it, and its rights; None if files are not confined."""
        self.connect = connect
        """Ranges of ports that the program can connect to; None if connecting is not confined."""
        self.bind = bind
        self.truncates = truncates
        """Whether the program's filter allows truncating a file that is not open for writing (`policygen.files.ruleset`)."""

    def __bool__(self) -> bool:
        """Whether anything is confined."""
        return (self.paths, self.connect, self.bind) != (None, None, None)


def encode(rules: Ruleset) -> bytes:
    """Return the ruleset as bytes that `decode` reads, for the file of a compiled filter; b"" if nothing is confined."""
    fields: list[bytes] = []
    if rules.paths is not None:
        fields += [_FILTERED] * (not rules.truncates)
        fields += [b"paths", *(b"%d %s" % (access, path) for path, access in rules.paths)]
    for use, ports in ((b"connect", rules.connect), (b"bind", rules.bind)):
        if ports is not None:
            fields += [use, *(b"%d-%d" % port for port in ports)]
    return b"\0".join(fields)


def confines_paths(content: bytes) -> bool:
    """Return whether an encoded ruleset confines files."""
    return content.startswith((_FILTERED, b"paths"))


def decode(content: bytes) -> Ruleset:
    """Return the ruleset that `encode` wrote.  Raises ValueError for other bytes."""
    paths: list[tuple[bytes, int]] | None = None
    ports: dict[bytes, list[tuple[int, int]]] = {}
    part, truncates = b"", True
    for field in content.split(b"\0") if content else ():
        if field == b"paths":
            part, paths = field, []
        elif field == _FILTERED and not part:
            truncates = False
        elif field in (b"connect", b"bind"):
            part, ports[field] = field, []
        elif paths is not None and part == b"paths":
            access, _, path = field.partition(b" ")
            paths.append((path, int(access)))
        else:
            first, _, last = field.partition(b"-")
            ports[part].append((int(first), int(last)))
    return Ruleset(paths, ports.get(b"connect"), ports.get(b"bind"), truncates=truncates)


class Effective:
    """A ruleset as one version of Landlock enforces it."""

    __slots__ = ("handled_files", "handled_ports", "lacking", "rules")

    def __init__(self, rules: Ruleset, handled_files: int, handled_ports: int, lacking: tuple[str, ...]) -> None:
        self.rules = rules
        """The ruleset, with only the rights that this version knows."""
        self.handled_files = handled_files
        """The rights on files that are denied unless a rule grants them."""
        self.handled_ports = handled_ports
        self.lacking = lacking
        """What this version cannot enforce, each as the end of a sentence `it cannot ...`."""


def downgrade(rules: Ruleset, version: int, *, makes_calls: bool = False) -> Effective:
    """Return the ruleset as a version of the ABI enforces it (0: no Landlock), and what that version cannot enforce.
    `makes_calls`: another process judges the ports and makes the program's connections, so that the program itself makes
    none."""
    supported, ports = 0, False
    for since, _, rights, has_ports in VERSIONS:
        if version >= since:
            supported, ports = rights, has_ports
    lacking: list[str] = []
    if rules.paths is not None:
        if not supported:
            lacking.append("restrict access to files")
        elif rules.truncates and not supported & TRUNCATE:
            lacking.append("stop the program from truncating files that it may not write (Linux 6.2 can)")
        if supported and not supported & REFER and any(access & REFER for _, access in rules.paths):
            lacking.append("let the program move files between folders (Linux 5.19 can)")
    if not rules.truncates:
        supported &= ~TRUNCATE
    confined = {}
    for use, bit, allowed in (("connect to", CONNECT_TCP, rules.connect), ("bind", BIND_TCP, rules.bind)):
        if allowed is None or list(allowed) == [(0, MAX_PORT)]:
            continue
        is_made = makes_calls and bit == CONNECT_TCP
        if ports:
            confined[bit] = () if is_made else allowed
        elif not is_made:
            lacking.append(f"restrict the TCP ports that the program can {use} (Linux 6.7 can)")
    paths = None
    if supported and rules.paths is not None:
        paths = [(path, (access | IOCTL_DEV if access & _OPENS else access) & supported) for path, access in rules.paths]
    effective = Ruleset(paths, confined.get(CONNECT_TCP), confined.get(BIND_TCP), truncates=rules.truncates)
    return Effective(effective, supported if paths is not None else 0, sum(confined), tuple(lacking))


# Named folders

_DEFAULTS = {b"HOME": b"", b"TMPDIR": b"/tmp"}  # /tmp: where programs that look at TMPDIR go without it (tmpfile(3), mktemp(1))

OWN_FOLDERS = tuple(b"$HOME/" + name for name in (b".cache", b".config", b".local", b".local/share", b".local/state"))
"""Folders that programs make if they are missing, with this user alone in them (XDG Base Directory Specification).

`enforce` makes a folder if a line grants `create` in it: otherwise the program would need `create` in the whole home."""


UNLISTED = (
    (b"/dev/null", (1, 3), READ_FILE | WRITE_FILE | TRUNCATE | IOCTL_DEV),
    (b"/dev/full", (1, 7), WRITE_FILE | TRUNCATE | IOCTL_DEV),
    (b"/sys/devices/system/cpu/online", None, READ_FILE),
    (b"/sys/devices/system/cpu/possible", None, READ_FILE),
    (b"/proc/sys/vm/overcommit_memory", None, READ_FILE),
)
"""Files that need no line, since they grant nothing: path, major and minor number of a device (mem(4), full(4)) or None for a
file of sysfs or procfs, Landlock's rights.

Reading /dev/full never ends.  C libraries and allocators count processors by the files of sysfs, some only when threads contend
(get_nprocs(3)); sched_getaffinity(2) tells as much.  glibc reads the last one when it frees much memory of a thread
(sysdeps/unix/sysv/linux/malloc-sysdep.h): a digit, the same for all."""


class PlaceError(UserError):
    """The named folder of a policy's path is unknown; `str()` says why."""


def located(path: bytes, environment: Sequence[bytes]) -> bytes:
    """Return a policy's path with its named folder replaced, for the kernel; `.` stays.  Raises PlaceError."""
    start, slash, rest = path.partition(b"/")
    if not start.startswith(b"$"):
        return path
    name = start[1:]
    folder = _value(name, environment)
    shown, line = name.decode(), f"the policy has path {path.decode(errors='replace')}"
    if not folder:
        raise PlaceError(f"{shown} is not set, and {line}")
    if not folder.startswith(b"/"):
        raise PlaceError(f"{shown} is {folder.decode(errors='replace')}, which is not an absolute path, and {line}")
    if not folder.strip(b"/") and not rest:
        raise PlaceError(f"{shown} is /, and {line}: that would be every file")
    return folder + slash + rest


def here() -> bytes:
    """Return the working folder; one that has been removed has a path that no file has (proc(5))."""
    try:
        return os.getcwdb()
    except FileNotFoundError:
        return os.readlink(b"/proc/self/cwd")


_OWN = {
    b"/proc/self": b"/proc/%d", b"/proc/thread-self": b"/proc/%d/task/%d", b"/dev/fd": b"/proc/%d/fd",
    b"/dev/stdin": b"/proc/%d/fd/0", b"/dev/stdout": b"/proc/%d/fd/1", b"/dev/stderr": b"/proc/%d/fd/2",
}  # fmt: skip
"""Links that lead elsewhere for each process, and where."""


def of_process(path: bytes, process: int) -> bytes:
    """Return a located path as the process with that id means it, for another process; 0 is this process."""
    for link, place in _OWN.items() if process else ():
        if path == link or path.startswith(link + b"/"):
            return place.replace(b"%d", b"%d" % process) + path[len(link) :]
    return path


def named(path: bytes, environment: Sequence[bytes], here: bytes) -> bytes:
    """Return an absolute path as a policy writes it: relative to the deepest named folder that holds it, else unchanged.

    `here` is the working folder.  A named folder that is the root is ignored.
    """
    folders = [(here, b"."), *((_value(name, environment), b"$" + name) for name in (b"TMPDIR", b"HOME"))]
    deepest, name = b"", b""
    for folder, sign in ((folder.rstrip(b"/"), sign) for folder, sign in folders):
        if folder.startswith(b"/") and (path + b"/").startswith(folder + b"/") and len(folder) > len(deepest):
            deepest, name = folder, sign
    return name + path[len(deepest) :]


def _value(name: bytes, environment: Sequence[bytes]) -> bytes:
    """Return the value of an environment variable, or its default: also for a TMPDIR that is no folder, where programs take
    /tmp."""
    prefix = name + b"="
    value = next((entry[len(prefix) :] for entry in environment if entry.startswith(prefix)), b"")
    is_missing = name == b"TMPDIR" and value.startswith(b"/") and not os.path.isdir(value)
    return _DEFAULTS[name] if is_missing or not value else value
