"""Compiled filters kept between runs: proving one takes longer than most programs do.

A file holds everything its filter was made from, and counts only if all of that is byte for byte what it is now: the
policy, each file it includes, and the code that compiles.  A cache that cannot be used is no error.  It is as
trustworthy as the rest of the user's home: whoever may write there, a confined program included, is not stopped by it.

On the way to every start of `enforce`, so nothing is imported that takes a millisecond.
"""

from __future__ import annotations

import os
import stat
from binascii import crc32

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_MAGIC = b"callfence filter 3\n"
_ROOT = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))
"""The folder that the packages are installed in."""
_YES = b"y"
_MAX_SIZE = 1 << 24  # bytes: a filter has 32 KiB, the rest is the policy's text
_PRIVATE_FILE, _PRIVATE_FOLDER = 0o600, 0o700


class Compiled:
    """A filter, when to arm it, and what it was compiled from."""

    __slots__ = ("arm", "expects_listener", "filter", "is_settled", "sources")

    def __init__(
        self, filter_: bytes, arm: str, sources: Sequence[tuple[str, bytes]], *, expects_listener: bool, is_settled: bool
    ) -> None:
        self.filter = filter_
        self.arm = arm
        self.expects_listener = expects_listener
        """The policy lets the program have a listener of its own (`policygen.filter.listener`)."""
        self.is_settled = is_settled
        """Learning a run that does nothing new leaves the policy as it is (`policygen.learning.generate`)."""
        self.sources = tuple(sources)
        """Name and content of each file: the policy's first, then those it includes, as they were read."""


def load(path: str, variant: str, read: Callable[[str], bytes]) -> Compiled | None:
    """The filter kept for a variant of a policy, if everything it was made from is unchanged.

    `read` gives a file's content, and raises OSError.
    """
    folder = _folder(create=False)
    if folder is None:
        return None
    try:
        fields = _fields(_content(folder, _name(path, variant)))
        if len(fields) < 7 or fields[0] != _made_by(variant):
            return None
        sources = [(os.fsdecode(name), text) for name, text in zip(fields[5::2], fields[6::2], strict=True)]
        if sources[0][0] != path or any(read(name) != text for name, text in sources):
            return None
        expects_listener, is_settled = (field == _YES for field in fields[2:4])
        return Compiled(
            fields[4], fields[1].decode(), sources, expects_listener=expects_listener, is_settled=is_settled
        )
    except (OSError, ValueError):
        return None
    finally:
        os.close(folder)


def store(compiled: Compiled, variant: str) -> None:
    """Keep a filter.  Nothing happens where that is not possible."""
    folder = _folder(create=True)
    if folder is None:
        return
    facts = [_YES if fact else b"" for fact in (compiled.expects_listener, compiled.is_settled)]
    fields = [_made_by(variant), compiled.arm.encode(), *facts, compiled.filter]
    for name, text in compiled.sources:
        fields += [os.fsencode(name), text]
    body = b"".join(len(one).to_bytes(4, "little") + one for one in fields)
    name = _name(compiled.sources[0][0], variant)
    temporary = f"{name}.{os.getpid()}"
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(temporary, flags, _PRIVATE_FILE, dir_fd=folder)
        try:
            with open(descriptor, "wb") as file:
                file.write(_MAGIC + crc32(body).to_bytes(4, "little") + body)
            os.replace(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
        except OSError:
            os.unlink(temporary, dir_fd=folder)
    except OSError:
        return
    finally:
        os.close(folder)


def _made_by(variant: str) -> bytes:
    """What identifies the code and tables that compiled a variant: every file's name, size and time of change."""
    from callfence.version import __version__

    parts = [__version__, variant]
    folders = [f"{_ROOT}/policygen", f"{_ROOT}/tracer/abi"]  # importing them to ask for their place takes longer
    for folder in folders:
        with os.scandir(folder) as found:
            for entry in sorted(found, key=lambda entry: entry.name):
                if entry.is_dir():
                    if entry.name != "__pycache__":
                        folders.append(entry.path)
                    continue
                status = entry.stat()
                parts.append(f"{entry.path} {status.st_size} {status.st_mtime_ns}")
    return "\n".join(parts).encode()


def _name(path: str, variant: str) -> str:
    """One file for each policy and variant, so that the cache does not grow with changes.

    A collision costs a compilation.
    """
    whole = os.fsencode(f"{variant}\0{path if path.startswith('/') else os.getcwd() + '/' + path}")
    return f"{crc32(whole):08x}.filter"


def _folder(*, create: bool) -> int | None:
    """The cache, opened; None unless this user owns the folder and no other user can write to it."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.environ.get("HOME", ""), ".cache")
    if not base.startswith("/") or os.getuid() != os.geteuid():
        return None
    path = base + "/callfence"
    try:
        if create:
            os.makedirs(path, _PRIVATE_FOLDER, exist_ok=True)
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    if _is_ours(os.fstat(descriptor)):
        return descriptor
    os.close(descriptor)
    return None


def _content(folder: int, name: str) -> bytes:
    descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    with open(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or not _is_ours(status) or status.st_size > _MAX_SIZE:
            raise ValueError("not a file of ours")
        return file.read()


def _is_ours(status: os.stat_result) -> bool:
    return status.st_uid == os.geteuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _fields(content: bytes) -> list[bytes]:
    """The length-prefixed fields of a cache file; ValueError if it is damaged."""
    start = len(_MAGIC) + 4
    body = content[start:]
    if content[:start] != _MAGIC + crc32(body).to_bytes(4, "little"):
        raise ValueError("damaged")
    fields, place = [], 0
    while place < len(body):
        length = int.from_bytes(body[place : place + 4], "little")
        fields.append(body[place + 4 : place + 4 + length])
        place += 4 + length
    return fields
