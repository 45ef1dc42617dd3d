"""Translate a policy's files and ports into Landlock's terms, and say what each version of Landlock can enforce (landlock(7)).

Every start of `enforce` with a policy that confines files or ports imports this module, so it imports nothing that takes a
millisecond.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

# linux/landlock.h, LANDLOCK_ACCESS_FS_*
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR, REMOVE_DIR, REMOVE_FILE, MAKE_CHAR = (1 << bit for bit in range(7))
MAKE_DIR, MAKE_REG, MAKE_SOCK, MAKE_FIFO, MAKE_BLOCK, MAKE_SYM, REFER, TRUNCATE = (1 << bit for bit in range(7, 15))
IOCTL_DEV = 1 << 15
OF_A_FILE = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV
"""The rights that a rule for a file that is no folder can have (security/landlock/fs.c, ACCESS_FILE)."""
RESOLVE_UNIX = 1 << 16
BIND_TCP, CONNECT_TCP, CONNECT_SEND_UDP = 1 << 0, 1 << 1, 1 << 3  # LANDLOCK_ACCESS_NET_*
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
(`downgrade`)."""
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
that its filter allows on every device that it can read or write, so a version without IOCTL_DEV lacks nothing."""


MADE = ((9, RESOLVE_UNIX, 0), (10, 0, CONNECT_SEND_UDP))
"""Version of the ABI, and the right on files and on ports that it adds (Linux 7.1 and 7.2), which a program does not need if
another process makes each of its calls that reaches a unix socket by a path, or a host by UDP."""


UNSEEN_REQUESTS = (
    0x50009401, 0x5000940E, 0x5000940F, 0x50009417, 0x50009418, 0x5000943F, 0xD0009411, 0xC0709411, 0x40489426, 0x40449426,
    0x5000940A, 0xCA289435, 0xC038586B, 0xC01C586B, 0x4020BC10, 0x4020BC11, 0x40186F04,
)  # fmt: skip
"""The requests of ioctl(2) that Landlock does not judge: BTRFS_IOC_SNAP_CREATE, SUBVOL_CREATE, SNAP_DESTROY, SNAP_CREATE_V2,
SUBVOL_CREATE_V2, SNAP_DESTROY_V2, which make or remove a folder and all that is in it; TREE_SEARCH, TREE_SEARCH_V2, SEND and
that of i386, by which root reads the file system; ADD_DEV and DEV_REPLACE, by which root overwrites a device that it names
(linux/btrfs.h); XFS_IOC_OPEN_BY_HANDLE and that of i386, by which root opens files with any access mode (fs/xfs/xfs_fs.h);
BCH_IOCTL_SUBVOLUME_CREATE and DESTROY (fs/bcachefs/bcachefs_ioctl.h, Linux 6.17) and OCFS2_IOC_REFLINK
(fs/ocfs2/ocfs2_ioctl.h), which make and remove names."""

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


def is_confined(ports: Sequence[tuple[int, int]] | None) -> bool:
    """Return whether ranges of ports leave out a port; False for None."""
    return ports is not None and list(ports) != [(0, MAX_PORT)]


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


def made(version: int) -> tuple[int, int]:
    """Return the rights on files and on ports of `MADE` that a version of the ABI knows."""
    known = [(files, ports) for since, files, ports in MADE if version >= since]
    return sum(files for files, _ in known), sum(ports for _, ports in known)


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
        if allowed is None or not is_confined(allowed):
            continue
        is_made = makes_calls and bit == CONNECT_TCP
        if ports:
            confined[bit] = () if is_made else allowed
        elif not is_made:
            lacking.append(f"restrict the TCP ports that the program can {use} (Linux 6.7 can)")
    paths = None
    if supported and rules.paths is not None:
        each = ((path, (access | IOCTL_DEV if access & _OPENS else access) & supported) for path, access in rules.paths)
        paths = [(path, access) for path, access in each if access]  # the kernel takes no rule without a right
    effective = Ruleset(paths, confined.get(CONNECT_TCP), confined.get(BIND_TCP), truncates=rules.truncates)
    return Effective(effective, supported if paths is not None else 0, sum(confined), tuple(lacking))
