"""Compiled filters kept between runs: proving one takes longer than most programs do.

A filter counts only if all that it was made from is byte for byte what it is now: the policy, each file it includes, and
the code that compiles.  There are two places.  What root has put into /var/cache/callfence (`callfence compile`) is as
trustworthy as root.  A user's own cache is signed with a secret that the kernel keeps (`callfence.enforcing.keyring`), so a
confined program that can write there cannot make a filter that counts, unless its policy allows keyctl(2); where the kernel
has no keyrings, there is a checksum only, and `callfence doctor` says so.  A cache that cannot be used is no error; if it is
because of the secret, `enforce` says so.

On the way to every start of `enforce`, so nothing is imported that takes a millisecond.
"""

from __future__ import annotations

import os
import stat
import sys
from zlib import crc32

from callfence.enforcing.sealed import Compiled, is_sealed, seal, unseal
from enforcer.errors import EnforceError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SYSTEM = "/var/cache/callfence"
_ROOT = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))
_COMPILES = (f"{_ROOT}/policygen", f"{_ROOT}/tracer/abi")
_MAX_SIZE = 1 << 24  # bytes: a filter has 32 KiB, the rest is the policy's text


class _Place:
    """A folder of filters, open; who must own it and its files, and the modes of what is made there."""

    __slots__ = ("descriptor", "file_mode", "owner", "path", "signed")

    def __init__(self, path: str, descriptor: int, owner: int, file_mode: int, *, signed: bool) -> None:
        self.path = path
        self.descriptor = descriptor
        self.owner = owner
        self.file_mode = file_mode
        self.signed = signed

    def secret(self) -> bytes:
        """Raises `callfence.enforcing.keyring.SecretError`."""
        if not self.signed:
            return b""
        from callfence.enforcing import keyring

        return keyring.secret()

    def content(self, name: str) -> bytes:
        """OSError, or ValueError for a file that another user could have written."""
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        descriptor = os.open(name, flags, dir_fd=self.descriptor)
        with open(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or not _is_private(status, self.owner) or status.st_size > _MAX_SIZE:
                raise ValueError("another user can write it")
            return file.read()

    def write(self, name: str, content: bytes) -> None:
        temporary = f"{name}.{os.getpid()}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(temporary, flags, self.file_mode, dir_fd=self.descriptor)
        try:
            with open(descriptor, "wb") as file:
                file.write(content)
            os.replace(temporary, name, src_dir_fd=self.descriptor, dst_dir_fd=self.descriptor)
        except OSError:
            os.unlink(temporary, dir_fd=self.descriptor)
            raise


def load(path: str, variant: str, read: Callable[[str], bytes], problems: dict[str, None] | None = None) -> Compiled | None:
    """The filter kept for a variant of a policy, if everything it was made from is unchanged.

    `read` gives a file's content, and raises OSError.  What is wrong with the secret is added to `problems`: then the user's
    cache is not used.
    """
    for opened in (_system, _own):
        place = opened()
        if place is None:
            continue
        try:
            secret = place.secret()
            made_by, found = unseal(place.content(_name(path, variant)), secret)
            is_it = found.variant == variant and _absolute(found.sources[0][0]) == _absolute(path)
            if is_it and made_by == compiler() and all(read(name) == text for name, text in found.sources):
                return found
        except (OSError, ValueError):
            continue
        except EnforceError as error:
            _add(problems, error)
        finally:
            os.close(place.descriptor)
    return None


def store(compiled: Compiled, problems: dict[str, None] | None = None) -> None:
    """Keep a filter in the user's cache.  Nothing happens where that is not possible, but as with `load`."""
    try:
        _store(compiled, _own(create=True))
    except OSError:
        return
    except EnforceError as error:
        _add(problems, error)


def store_for_all(compiled: Compiled) -> str:
    """Keep a filter for all users, as root; the file.  Raises OSError."""
    os.makedirs(SYSTEM, 0o755, exist_ok=True)
    return _store(compiled, _system())


def kept() -> Iterator[tuple[str, Compiled | ValueError]]:
    """Each file in both caches, with the filter in it or what is wrong with it.  Filters of another compiler, which are not
    used, are left out."""
    current = compiler()
    for opened in (_system, _own):
        place = opened()
        if place is None:
            continue
        try:
            secret = place.secret()
        except EnforceError as error:
            yield place.path, ValueError(str(error))
            os.close(place.descriptor)
            continue
        for name in sorted(os.listdir(place.descriptor)):
            if not name.endswith(".filter"):
                continue
            shown = f"{place.path}/{name}"
            try:
                content = place.content(name)
                if not is_sealed(content):
                    continue  # of another version
                made_by, found = unseal(content, secret)
            except OSError:
                continue  # it has gone
            except ValueError as error:
                yield shown, error
            else:
                if made_by == current:
                    yield shown, found
        os.close(place.descriptor)


def is_signed() -> bool:
    """Whether the kernel keeps a secret for the user's cache.  Raises `callfence.enforcing.keyring.SecretError`."""
    from callfence.enforcing import keyring

    return bool(keyring.secret())


def compiler() -> bytes:
    """What identifies the code that compiles: the versions of it and of Python, and when it was installed; in a checkout,
    every file's size and time of change."""
    from callfence.version import __file__, __version__

    paths = [__file__]
    if os.path.exists(f"{_ROOT}/pyproject.toml"):
        folders = [*_COMPILES]
        for folder in folders:
            for entry in os.scandir(folder):
                if entry.is_dir():
                    folders.append(entry.path)
                elif entry.name.endswith((".py", ".tsv")):
                    paths.append(entry.path)
    known = [(path, int(status.st_mtime), status.st_size) for path in sorted(paths) for status in (os.stat(path),)]
    return f"{__version__} {sys.version} {known}".encode()


def _store(compiled: Compiled, place: _Place | None) -> str:
    if place is None:
        raise OSError(f"{SYSTEM} does not belong to root alone")
    name = _name(compiled.sources[0][0], compiled.variant)
    try:
        place.write(name, seal(compiled, compiler(), place.secret()))
    finally:
        os.close(place.descriptor)
    return f"{place.path}/{name}"


def _add(problems: dict[str, None] | None, error: EnforceError) -> None:
    if problems is not None:
        problems[str(error)] = None


def _absolute(path: str) -> str:
    """Not normalised: a folder on the way may be a link."""
    return path if path.startswith("/") else f"{os.getcwd()}/{path}"


def _name(path: str, variant: str) -> str:
    """One file for each policy and variant, so that the cache does not grow with changes.

    A collision costs a compilation.
    """
    whole = os.fsencode(f"{variant}\0{_absolute(path)}")
    return f"{crc32(whole):08x}.filter"


def _system() -> _Place | None:
    return _opened(SYSTEM, 0, 0o644, signed=False)


def folder() -> str:
    """The user's cache; "" if there is none."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.environ.get("HOME", ""), ".cache")
    return f"{base}/callfence" if base.startswith("/") else ""


def _own(*, create: bool = False) -> _Place | None:
    """The user's cache; None unless this user owns the folder and no other user can write to it."""
    path = folder()
    if not path or os.getuid() != os.geteuid():
        return None
    if create and (os.environ.get("XDG_CACHE_HOME") or os.path.isdir(os.environ["HOME"])):  # a home may be meant to be missing
        os.makedirs(path, 0o700, exist_ok=True)
    return _opened(path, os.geteuid(), 0o600, signed=True)


def _opened(path: str, owner: int, file_mode: int, *, signed: bool) -> _Place | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    if _is_private(os.fstat(descriptor), owner):
        return _Place(path, descriptor, owner, file_mode, signed=signed)
    os.close(descriptor)
    return None


def _is_private(status: os.stat_result, owner: int) -> bool:
    return status.st_uid == owner and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
