"""The rights that a `path` line grants, in few words: docs/files.md has them with Landlock's."""

from __future__ import annotations

from enum import Flag, auto


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
    found = NOTHING
    for word in words.split(", "):
        found |= WORDS.get(word, NOTHING)
    return found
