"""The cache of compiled filters: proving a filter takes longer than most programs run.

A cached filter is used only if its sources are byte for byte the same as when it was compiled: the policy, each file that it
includes, and the code that compiles.  There are two caches.  Only root can write /var/cache/callfence (`callfence compile`).
A user's own cache is signed with a secret in the user's keyring, which a confined program cannot read unless its policy allows
keyctl(2).  With add_key(2) alone the program can neither overwrite the key, which lacks the write permission, nor add one that
is accepted: only keyctl(2) can set the permissions that are checked.  Where the kernel has no keyrings, filters have only a
checksum, and `callfence doctor` reports that.  A cache that cannot be used is not an error; if the secret is the reason,
`enforce` prints it.

Every start of `enforce` imports this module, so it imports nothing that takes a millisecond.
"""

from __future__ import annotations

import errno
import os
import stat
import sys

from callfence import start
from callfence.enforcer import kernel
from callfence.enforcer.errors import EnforceError
from callfence.enforcing.sealed import Compiled, digest, is_sealed, seal, unseal
from callfence.tracer import TYPE_CHECKING, linux

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

SYSTEM = "/var/cache/callfence"
_ROOT = os.path.dirname(os.path.dirname(__file__))
_ENFORCER = f"{_ROOT}/enforcer"
_COMPILES = (
    f"{_ROOT}/policygen", f"{_ROOT}/tracer/abi", f"{_ENFORCER}/reporting", f"{_ENFORCER}/files", f"{_ENFORCER}/hosts"
)  # fmt: skip
"""The folders of what compiles policies, and of what the helper imports later, whose files a filter notes."""
_DECIDES = f"{_ENFORCER}/importer.py", f"{_ENFORCER}/guard.py"
"""What decides which files a filter notes, and what is put before it."""
NOT_COMPILING = ("__pycache__", "formats", "review")
"""Folders of policygen from which neither compiling a policy nor the helper imports: examining a file takes 3 us of a start."""
_MAX_SIZE = 1 << 24  # bytes: a filter has 32 KiB, the rest is the policy's text
_MAX_FILTERS = 1000
"""Filters that a user's cache keeps."""


class _Place:
    """An open folder of filters, the owner that it and its files must have, new files' mode, and whether they are signed."""

    __slots__ = ("descriptor", "file_mode", "owner", "path", "signed")

    def __init__(self, path: str, descriptor: int, owner: int, file_mode: int, *, signed: bool) -> None:
        self.path = path
        self.descriptor = descriptor
        self.owner = owner
        self.file_mode = file_mode
        self.signed = signed

    def secret(self) -> bytes:
        """Return the secret that signs the filters of this folder; b"" if they are not signed.  Raises `SecretError`."""
        if not self.signed:
            return b""
        return secret()

    def content(self, name: str) -> bytes:
        """Return the content of a file.  Raises OSError, or ValueError if another user could have written it."""
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        descriptor = os.open(name, flags, dir_fd=self.descriptor)
        with open(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or not _is_private(status, self.owner) or status.st_size > _MAX_SIZE:
                raise ValueError("it is not a file that only its owner can write, or it is too large")
            return file.read()

    def write(self, name: str, content: bytes) -> None:
        """Replace a file of the folder.  Raises OSError, which names the file."""
        temporary = f"{name}.{os.urandom(8).hex()}"  # not the pid: in a container each start may have that of a killed one
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(temporary, flags, self.file_mode, dir_fd=self.descriptor)
        try:
            with open(descriptor, "wb") as file:
                file.write(content)
            os.replace(temporary, name, src_dir_fd=self.descriptor, dst_dir_fd=self.descriptor)
        except OSError as error:
            os.unlink(temporary, dir_fd=self.descriptor)
            raise OSError(error.errno, error.strerror, f"{self.path}/{name}") from None

    def prune(self) -> None:
        """Remove the filters that were compiled first, if there are more than _MAX_FILTERS.  Raises OSError."""
        with os.scandir(self.descriptor) as entries:
            by_age = sorted((entry.stat().st_mtime, entry.name) for entry in entries if entry.name.endswith(".filter"))
        for _, name in by_age[:-_MAX_FILTERS]:
            os.unlink(name, dir_fd=self.descriptor)


def load(path: str, variant: str, read: Callable[[str], bytes], problems: dict[str, None] | None = None) -> Compiled | None:
    """Return the cached filter for a variant of a policy; None if there is none, or if one of its sources has changed.

    `read` returns a file's content, and raises OSError.  If the secret cannot be used, the user's cache is not used, and the
    reason is added to `problems`."""
    for place in _places():
        try:
            secret = place.secret()
            made_by, filter_ = unseal(place.content(_name(path, variant)), secret)
            is_it = filter_.variant == variant and _absolute(filter_.sources[0][0]) == _absolute(path)
            if is_it and made_by == compiler() and all(read(name) == text for name, text in filter_.sources):
                return filter_
        except (OSError, ValueError):
            continue
        except EnforceError as error:
            _add(problems, error)
    return None


def store(compiled: Compiled, problems: dict[str, None] | None = None) -> None:
    """Sign a filter with the user's secret (`secret`) and write it into the user's cache; do nothing if it cannot be written.
    If the secret cannot be used, the reason becomes a key of `problems`, which is used as an ordered set."""
    try:
        _store(compiled, _own(create=True))
    except OSError:
        return
    except EnforceError as error:
        _add(problems, error)


def store_for_all(compiled: Compiled) -> str:
    """Write a filter into the cache for all users, which only root can do, and return the path of its file.  Raises OSError."""
    os.makedirs(SYSTEM, 0o755, exist_ok=True)
    return _store(compiled, _system())


def all_filters() -> Iterator[tuple[str, Compiled | ValueError]]:
    """Yield the path of each file in both caches with its filter, or with the reason why it cannot be used.  Filters of another
    version of callfence or Python are left out."""
    current = compiler()
    for place in _places():
        try:
            secret = place.secret()
        except EnforceError as error:
            yield place.path, ValueError(str(error))
            continue
        for name in sorted(name for name in os.listdir(place.descriptor) if name.endswith(".filter")):
            file = f"{place.path}/{name}"
            try:
                content = place.content(name)
                if not is_sealed(content):
                    continue  # of another version
                made_by, filter_ = unseal(content, secret)
            except OSError:
                continue  # it has gone
            except ValueError as error:
                yield file, error
            else:
                if made_by == current:
                    yield file, filter_


def is_signed() -> bool:
    """Return whether the kernel holds a secret that signs the user's cache.  Raises `SecretError`."""
    return bool(secret())


_compiler: list[bytes] = []


def compiler() -> bytes:
    """Return what `installed` returned at the first call."""
    if not _compiler:
        _compiler.append(installed())
    return _compiler[0]


def installed() -> bytes:
    """Return bytes that identify the code that compiles: the versions of callfence and Python, and the time of installation; in
    a checkout, also the size and modification time of each file."""
    files = [("", status.st_mtime_ns, status.st_size) for status in map(os.stat, (start.__file__, *_DECIDES))]
    if os.path.exists(f"{os.path.dirname(_ROOT)}/pyproject.toml"):
        folders = [*_COMPILES]
        for folder in folders:
            for entry in os.scandir(folder):
                name = entry.name
                if name.endswith((".py", ".tsv")):
                    status = entry.stat()
                    files.append((entry.path, status.st_mtime_ns, status.st_size))
                elif "." not in name and name not in NOT_COMPILING:
                    folders.append(entry.path)
    return f"{start.__version__} {sys.version} {sorted(files)}".encode()


def _store(compiled: Compiled, place: _Place | None) -> str:
    if place is None:
        raise OSError(errno.EPERM, "other users than root can write there", SYSTEM)
    name = _name(compiled.sources[0][0], compiled.variant)
    try:
        place.write(name, seal(compiled, compiler(), place.secret()))
        if place.signed:  # the user's; root removes what is in the system's
            place.prune()
    finally:
        os.close(place.descriptor)
    return f"{place.path}/{name}"


def _add(problems: dict[str, None] | None, error: EnforceError) -> None:
    if problems is not None:
        problems[str(error)] = None


def _absolute(path: str) -> str:
    """Return the absolute path, not normalised: a folder in it may be a symbolic link."""
    return path if path.startswith("/") else f"{os.getcwd()}/{path}"


def _name(path: str, variant: str) -> str:
    """Return the name of the one file for a policy and a variant: later versions of the policy replace it.  If two policies
    have the same name, each replaces the other's filter, which costs a compilation."""
    whole = os.fsencode(f"{variant}\0{_absolute(path)}")
    return f"{digest(whole, size=4).hex()}.filter"


def _places() -> Iterator[_Place]:
    """Yield the open folders of filters, the system's first; each is closed before the next is opened."""
    for opened in (_system, _own):
        if place := opened():
            try:
                yield place
            finally:
                os.close(place.descriptor)


def _system() -> _Place | None:
    return _opened(SYSTEM, 0, 0o644, signed=False)


def folder() -> str:
    """Return the path of the user's cache; "" if neither XDG_CACHE_HOME nor the home folder gives an absolute path."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(_home(), ".cache")
    return f"{base}/callfence" if base.startswith("/") else ""


def _home() -> str:
    """Return the user's home folder; "" if there is none."""
    if "HOME" in os.environ:
        return os.environ["HOME"]
    from callfence.policygen.files.places import home_of_passwd

    return home_of_passwd()


def _own(*, create: bool = False) -> _Place | None:
    """Open the user's cache; return None unless this user owns the folder and no other user can write to it.  With `create`,
    the folder is created, unless the home folder is missing."""
    path = folder()
    if not path or os.getuid() != os.geteuid():
        return None
    if create and (os.environ.get("XDG_CACHE_HOME") or os.path.isdir(_home())):  # a home may be meant to be missing
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


_SETPERM, _DESCRIBE, _LINK, _UNLINK, _SEARCH, _READ = 5, 6, 8, 9, 10, 11  # KEYCTL_*, linux/keyctl.h
_USER_KEYRING = -4  # KEY_SPEC_USER_KEYRING: there is one for each user of a user namespace, and sessions do not matter
_THREAD_KEYRING = -1  # KEY_SPEC_THREAD_KEYRING: no other process has it
# View, read and search for the possessor and for the user, since not every session possesses the keyring.
_MAY_USE = 0x0B0B0000
_MAY_LINK = 0x3B0B0000
"""Permissions of a key that is being created: the possessor may also link it and set its permissions."""
_MAY_WRITE = 0x3F0B0000
"""Permissions of keys of earlier versions of callfence: the possessor may do everything."""
_TYPE, _NAME, _SIZE = b"user", b"callfence:cache", 32
_NO_KEYRINGS = (errno.ENOSYS, errno.EPERM)  # the kernel lacks them, or a container's filter denies them


class SecretError(EnforceError):
    """The key cannot be used, or other programs may know or have written it, so filters signed with it are not trusted."""


def secret() -> bytes:
    """Return the user's secret, creating it if there is none; b"" where the kernel has no keyrings or a filter denies them.
    Raises SecretError, whose message includes the remedy."""
    try:
        key = _key() or _new_key()
        problem, permissions = _key_problem(key)
        if permissions == _MAY_WRITE and not problem:  # another program may have written it
            key = _new_key()
            problem, permissions = _key_problem(key)
        if not problem and permissions not in (_MAY_USE, _MAY_LINK):
            problem = f"has the permissions {permissions:08x} instead of {_MAY_USE:08x}, so another program may have made it"
        content = (linux.c_char * _SIZE)()
        if not problem and (length := _keyctl(_READ, key, content, _SIZE)) != _SIZE:
            problem = f"has {length} bytes instead of {_SIZE}"
    except OSError as error:
        if error.errno in _NO_KEYRINGS:
            return b""
        raise SecretError(f"the key {_NAME.decode()} of the user's keyring cannot be used: {error.strerror}") from error
    if problem:
        remedy = f"`keyctl unlink {key} @u` removes it"
        raise SecretError(f"the key {_NAME.decode()} ({key}) in the user's keyring {problem}; {remedy}")
    # A kernel with algif_hash makes keyed BLAKE2b digests with a key of the keyring (ALG_SET_KEY_BY_KEY_SERIAL), so the key
    # itself signs nothing.
    return digest(content.raw)


def _key() -> int:
    """Return the id of the user's key; 0 if there is none.  Raises OSError."""
    try:
        return _keyctl(_SEARCH, _USER_KEYRING, _TYPE, _NAME, 0)
    except OSError as error:
        if error.errno != errno.ENOKEY:
            raise
        return 0


def _new_key() -> int:
    """Create a key with a new secret, replacing the existing one, and return the id of the key in the keyring.  Raises OSError.

    It is created in the thread's keyring, since adding a key of the same name to the user's keyring would overwrite it until
    its permissions are set.  If another `enforce` creates a key at the same time, the last one is used."""
    key = kernel.syscall("add_key", _TYPE, _NAME, os.urandom(_SIZE), _SIZE, _THREAD_KEYRING)
    _keyctl(_SETPERM, key, _MAY_LINK)
    _keyctl(_LINK, key, _USER_KEYRING)
    _keyctl(_SETPERM, key, _MAY_USE)
    _keyctl(_UNLINK, key, _THREAD_KEYRING)
    return _keyctl(_SEARCH, _USER_KEYRING, _TYPE, _NAME, 0)


def _key_problem(key: int) -> tuple[str, int]:
    """Return the key's owner as a problem if it is another user, else "", and the key's permissions (keyctl_describe(3)).
    Raises OSError."""
    text = (linux.c_char * 256)()
    _keyctl(_DESCRIBE, key, text, 256)
    _, owner, _, permissions, _ = text.value.split(b";", 4)
    return "" if int(owner) == os.geteuid() else f"belongs to user {int(owner)}", int(permissions, 16)


def _keyctl(operation: int, *arguments: Any) -> int:
    return kernel.syscall("keyctl", operation, *arguments)
