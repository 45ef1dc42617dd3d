"""What a policy grants of files and TCP ports: the rights to paths, sets of ports, and the value that holds both.

docs/files.md has the words of the rights with those of Landlock.
"""

from __future__ import annotations

from enum import Flag, auto
from types import MappingProxyType
from typing import TYPE_CHECKING

from policygen.paths import order, shown
from policygen.values import frozen

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


class Right(Flag):
    """What may be done with a file, or with a folder and everything below it.

    Each is a word that a person can judge, and one or two of Landlock's rights (`landlock.ACCESS`).  Which ioctl may be made on
    a device is no right: the filter sees the command, and Landlock only whether there is one.
    """

    READ = auto()
    """Open a file to read it, list a folder."""
    WRITE = auto()
    """Open a file to write it, truncate it."""
    CREATE = auto()
    """Make a file or a folder, or a link to a file."""
    REMOVE = auto()
    """Remove a file or a folder, or replace it by another."""
    EXECUTE = auto()
    """Execute a file, which takes `read` as well."""
    MOVE = auto()
    """Rename from one folder into another, or link; both folders need it."""
    SYMLINK = auto()
    """Make a symbolic link."""
    SOCKET = auto()
    """Make a unix socket."""
    FIFO = auto()
    """Make a named pipe."""
    DEVICE = auto()
    """Make a device."""

    @property
    def word(self) -> str:
        """The word of a single right."""
        return str(self.name).lower()


NOTHING = Right(0)
ALL = ~NOTHING
OF_A_FILE = Right.READ | Right.WRITE | Right.EXECUTE
"""What can be done with a file that is no folder."""
NONE = "none"
"""The word for no right, and for no port."""
WORDS = {right.word: right for right in Right}


def format_rights(rights: Right) -> str:
    """Return the words, as a `path` line has them."""
    return ", ".join(right.word for right in rights) or NONE


def rights_of(words: str) -> Right:
    """Return the rights whose words these are; what is no word is none."""
    rights = NOTHING
    for word in words.split(", "):
        rights |= WORDS.get(word, NOTHING)
    return rights


Ports = tuple[tuple[int, int], ...]
"""Each range's first and last port."""

MAX_PORT = 65535
ANY_PORT: Ports = ((0, MAX_PORT),)
NO_PORT: Ports = ()
ANY = "any"


def single(ports: Ports) -> set[int]:
    return {port for first, last in ports for port in range(first, last + 1)}


def ranges(ports: Iterable[int]) -> Ports:
    """Return the fewest ranges that have exactly these ports."""
    result: list[tuple[int, int]] = []
    for port in sorted(set(ports)):
        if result and result[-1][1] == port - 1:
            result[-1] = (result[-1][0], port)
        else:
            result.append((port, port))
    return tuple(result)


def format_ports(ports: Ports) -> str:
    """Return the ports as a `tcp` line has them."""
    if ports == ANY_PORT:
        return ANY
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in ports) or NONE


TCP = ("connect", "bind")
"""What may be done with a TCP port."""


@frozen
class Files:
    """The files, and the TCP ports, that the program can reach; None where it can reach all that its calls permit."""

    paths: Mapping[str, Right] | None = None
    """By canonical path (`paths.canonical`): each holds for the file, or for the folder and everything below it."""
    connect: Ports | None = None
    bind: Ports | None = None

    def __post_init__(self) -> None:
        if self.paths is not None:  # without a line, no files are confined
            sorted_ = {path: self.paths[path] for path in sorted(self.paths, key=order)} or {"/": NOTHING}
            object.__setattr__(self, "paths", MappingProxyType(sorted_))

    @property
    def grants(self) -> Mapping[str, Right]:
        """What is granted; everything where files are not confined."""
        return {"/": ALL} if self.paths is None else self.paths

    def ports(self, use: str) -> Ports:
        """Return the ports of one of TCP; all where they are not confined."""
        ports: Ports | None = getattr(self, use)
        return ANY_PORT if ports is None else ports

    def lines(self) -> dict[str, str]:
        """Return what is confined as the policy's lines, in canonical order: `path PATH` or `tcp USE` -> what it grants."""
        lines = {path_line(path): format_rights(rights) for path, rights in (self.paths or {}).items()}
        return lines | {f"tcp {use}": format_ports(self.ports(use)) for use in TCP if getattr(self, use) is not None}


NOT_CONFINED = Files()


def path_line(path: str) -> str:
    """Return what comes before the colon."""
    return f"path {shown(path)}"
