"""Look up the folders that a policy writes as `$HOME` and the like, and `.`, the working folder; and files that need no line.

Every start of `enforce` with a policy that confines files imports this module, so it imports nothing that takes a millisecond.
"""

from __future__ import annotations

import os
from stat import S_IFDIR, S_IFREG

from callfence.policygen.files.landlock import (
    IOCTL_DEV,
    MAKE_DIR,
    MAKE_SYM,
    READ_DIR,
    READ_FILE,
    REFER,
    REMOVE_DIR,
    TRUNCATE,
    WRITE_FILE,
)
from callfence.tracer.errors import UserError
from callfence.tracer.linux import MAXSYMLINKS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

_NAMED = (b"TMPDIR", b"HOME", b"XDG_RUNTIME_DIR")
"""The variables that name folders; where two are the same folder, a path is written with the first."""

_OF_SERVICES = (b"/etc/", b"/opt/", b"/run/", b"/srv/", b"/usr/", b"/var/")
_OF_PEOPLE = (b"/home/", b"/run/user/", b"/var/tmp/")
"""Where homes are that are a service's folder (hier(7)), unless their path has one of the others in it: a service's home holds
its data, which its configuration names, and not what else a user has.  But for hidden files, which are found by HOME, a path
below it is written as it is."""

OWN_FOLDERS = tuple(b"$HOME/" + name for name in (b".cache", b".config", b".local", b".local/share", b".local/state"))
"""Folders that programs make if they are missing, with this user alone in them (XDG Base Directory Specification).  `enforce`
makes a folder if a line grants `create` in it: otherwise the program would need `create` in the whole home."""

MADE_BELOW = (b"$HOME/.", b"$TMPDIR/", b"$XDG_RUNTIME_DIR/")
"""Where programs make folders for themselves: hidden ones in the home, and in the folders for temporary files and sockets.

`enforce` makes those that are missing if their own line grants `create`, which it keeps though one above grants that as well
(`algebra.reduced`), or `remove`: they were there when the program was learned, or made by it, and may not be for another user,
or after the machine has started again."""

UNLISTED = (
    (b"/dev/null", (1, 3), READ_FILE | WRITE_FILE | TRUNCATE | IOCTL_DEV),
    (b"/dev/full", (1, 7), READ_FILE | WRITE_FILE | TRUNCATE | IOCTL_DEV),
    (b"/dev/urandom", (1, 9), READ_FILE | IOCTL_DEV),
    (b"/dev/random", (1, 8), READ_FILE | IOCTL_DEV),
    (b"/sys/devices/system/cpu/online", None, READ_FILE),
    (b"/sys/devices/system/cpu/possible", None, READ_FILE),
    (b"/proc/sys/vm/overcommit_memory", None, READ_FILE),
    (b"/etc/locale.alias", S_IFREG, READ_FILE),
    (b"/usr/lib/locale", S_IFDIR, READ_FILE | READ_DIR),
    (b"/usr/share/locale", S_IFDIR, READ_FILE | READ_DIR),
    (b"/etc/localtime", S_IFREG, READ_FILE),
    (b"/usr/share/zoneinfo", S_IFDIR, READ_FILE | READ_DIR),
    (b"/etc/gai.conf", S_IFREG, READ_FILE),
    (b"/etc/terminfo", S_IFDIR, READ_FILE | READ_DIR),
    (b"/usr/lib/terminfo", S_IFDIR, READ_FILE | READ_DIR),
    (b"/usr/share/terminfo", S_IFDIR, READ_FILE | READ_DIR),
)
"""Files and folders that need no line, since they grant nothing: path, major and minor number of a device (mem(4), full(4)),
None for a file of sysfs or procfs, or the kind of a file that root alone may change; Landlock's rights.

Programs open a log for reading as well, and /dev/full has zeros.  Random numbers are had by getrandom(2), too.  C libraries
and allocators count processors by the files of sysfs, some only when threads contend (get_nprocs(3)); sched_getaffinity(2)
tells as much.  glibc reads the file of procfs when it frees much memory of a thread (sysdeps/unix/sysv/linux/malloc-sysdep.h):
a digit, the same for all.  setlocale(3) and gettext(3) read other files of the locales for each LANG, and none for C, in which
a program may have been learned: texts of packages, which all users may read.  So are the time zones, which tzset(3) reads when
a program first writes a local time, in an error's message perhaps; /etc/localtime is a copy of one of them, or a link to it.
getaddrinfo(3) reads gai.conf(5), by which addresses are sorted, once a name has more than one.  Who finds a terminal as its
standard output reads how that one is controlled (terminfo(5)): Mono's console, even of a program that prints plain text."""


def needs_no_line(path: bytes, access: int) -> bool:
    """Return whether UNLISTED has a path that a use needs, or a folder above it, with Landlock's rights `access`."""
    rights = access & ~READ_DIR  # which `read` has for files, too
    return any(
        not rights & ~permitted and (path == place or (device == S_IFDIR and path.startswith(place + b"/")))
        for place, device, permitted in UNLISTED
    )


class PlaceError(UserError):
    """The named folder of a policy's path is unknown; `str()` says why."""


def located(path: bytes, environment: Sequence[bytes]) -> bytes:
    """Return a policy's path with its named folder replaced, for the kernel; `.` stays.  Raises PlaceError."""
    start, slash, rest = path.partition(b"/")
    if path == b"." and _is_root(path):
        raise PlaceError("the working folder is /, and the policy has path .: that would be every file")
    if not start.startswith(b"$"):
        return path
    name = start[1:]
    folder = _value(name, environment)
    if name == b"HOME" and not any(entry.startswith(b"HOME=") for entry in environment):
        folder = os.fsencode(home_of_passwd())
    shown, line = name.decode(), f"the policy has path {path.decode(errors='replace')}"
    if not folder:
        raise PlaceError(f"{shown} is not set, and {line}")
    if not folder.startswith(b"/"):
        raise PlaceError(f"{shown} is {folder.decode(errors='replace')}, which is not an absolute path, and {line}")
    if not rest and _is_root(folder):
        raise PlaceError(f"{shown} is /, and {line}: that would be every file")
    return folder + slash + rest


class Linking:
    """The folders in which a program may have put symbolic links: real paths with a slash at the end."""

    __slots__ = ("made", "moved")

    def __init__(self, places: Iterable[tuple[bytes, int]] = ()) -> None:
        """`places`: the folders and files to which it has these rights of Landlock."""
        each = list(places)
        moving = REFER if any(access & MAKE_SYM for _, access in each) else 0
        self.made = tuple({_top(place) for place, access in each if access & (MAKE_SYM | moving)})
        """Where it makes some, and, if there are any, where it moves files and folders."""
        held: dict[bytes, int] = {}
        for place, access in each:
            if access & _RENAMES:
                held[_top(place)] = held.get(_top(place), 0) | access & _RENAMES
        renaming = [top for top in held if _united(held, top) == _RENAMES]
        self.moved = tuple(sorted(renaming, key=len))
        """Where it renames folders, with the links in them that others have made.  Those above come first."""

    def __or__(self, other: Linking) -> Linking:
        both = Linking()
        both.made = self.made + other.made
        both.moved = tuple(sorted(self.moved + other.moved, key=len))
        return both


_RENAMES = MAKE_DIR | REMOVE_DIR


def _top(place: bytes) -> bytes:
    return real_path(place).rstrip(b"/") + b"/"


def _united(held: Mapping[bytes, int], top: bytes) -> int:
    """Return the rights that hold in a folder: its own and those of the folders above."""
    access = held[top]
    while top != b"/":
        top = top[: top.rindex(b"/", 0, -1) + 1]
        access |= held.get(top, 0)
    return access


def without_links(path: bytes, folders: Linking) -> set[bytes]:
    """Return where a path leads if no symbolic link is followed that an earlier run may have put there: in or below a folder
    where it makes some; or below a folder in one where it renames them, if the path leads out of that.  The set is empty if
    the path leads through none of these."""
    if not (folders.made or folders.moved):
        return set()

    def is_kept(place: bytes) -> bool:
        return not _folder_of(place).startswith(folders.made)

    *way, (at, _) = _steps(os.path.join(here(), path), is_kept)
    link = top = b""
    for place, is_followed in way:
        folder = _folder_of(place)
        if is_followed and (top := next((top for top in folders.moved if folder.startswith(top) and folder != top), b"")):
            link = place
            break
    if link and not os.path.join(at, b"").startswith(top):
        return {link}
    return {at} if any(not is_kept(place) for place, _ in way) else set()


def real_path(path: bytes) -> bytes:
    """Return the absolute path to which a path leads, without symbolic links as far as they can be read.

    Before Python 3.13, os.path.realpath raises OSError for a link that the user may not read, as in another's /proc/PID."""
    return deciding(path if path.startswith(b"/") else os.path.join(here(), path))[-1]


def deciding(path: bytes) -> list[bytes]:
    """Return what decides to which file an absolute path leads: the places of the symbolic links on the way, and at last the
    file's own; there are no links in these."""
    *way, (at, _) = _steps(path)
    return [*(place for place, is_followed in way if is_followed), at]


def _steps(path: bytes, follows: Callable[[bytes], bool] = lambda place: True) -> Iterator[tuple[bytes, bool]]:
    """Yield the places on the way along an absolute path, and last the one where it ends, each without symbolic links above it;
    with whether it is such a link, and the way goes on where that leads.  A link is followed if `follows` says so of its
    place, and if they are not too many for the kernel."""
    at, links, names = b"/", 0, path.split(b"/")[::-1]
    while names:
        name = names.pop()
        if name == b"..":
            at = os.path.dirname(at)
        elif name not in (b"", b"."):
            there = os.path.join(at, name)
            target = _target(there) if links < MAXSYMLINKS and follows(there) else b""
            yield there, bool(target)
            if target:
                links += 1
                names += target.split(b"/")[::-1]
                at = b"/" if target.startswith(b"/") else at
            else:
                at = there
    yield at, False


def _folder_of(place: bytes) -> bytes:
    """Return the folder that holds a place, with a slash at the end."""
    return os.path.join(os.path.dirname(place), b"")


LED = "it is reached by a symbolic link, and the program may make or move such links there"
"""What is said of a path that `is_led`."""


def is_led(path: bytes, real: bytes, folders: Linking) -> bool:
    """Return whether a path leads to `real` by a symbolic link that an earlier run may have put there."""
    return bool(without_links(path, folders) - {real})


def _target(path: bytes) -> bytes:
    """Return the text of a symbolic link; b"" for anything else."""
    try:
        return os.readlink(path)
    except OSError:
        return b""


def home_of_passwd() -> str:
    """Return the home of this user in passwd(5), where programs without HOME (system services) look; "" without one."""
    import pwd

    try:
        return pwd.getpwuid(os.geteuid()).pw_dir
    except KeyError:
        return ""


def _is_root(folder: bytes) -> bool:
    """Return whether a folder is the root, by whatever name: `//`, `/root/..`, a link."""
    try:
        return os.path.samefile(folder, b"/")
    except OSError:
        return False


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
    at = path
    for _ in range(MAXSYMLINKS if process else 0):
        for link, place in _OWN.items():
            if at == link or at.startswith(link + b"/"):
                return place.replace(b"%d", b"%d" % process) + at[len(link) :]
        if not (target := _target(at)):
            break
        at = os.path.join(os.path.dirname(at), target)
    real, own = real_path(path) if process else path, b"/proc/%d/" % os.getpid()
    return b"/proc/%d/" % process + real[len(own) :] if process and real.startswith(own) else path


def named(path: bytes, environment: Sequence[bytes], here: bytes) -> bytes:
    """Return an absolute path as a policy writes it: relative to the deepest named folder that holds it, else unchanged.
    `here` is the working folder.  A named folder that is the root is ignored, and so is a service's home (`_OF_SERVICES`)."""
    folders = [(here, b"."), *((_value(name, environment), b"$" + name) for name in _NAMED)]
    home = _value(b"HOME", environment)  # not where it leads: /home may be a link to /srv/home
    is_of_service = home.startswith(_OF_SERVICES) and not any(above in home for above in _OF_PEOPLE)
    folders += [(_real(folder), sign) for folder, sign in folders]
    deepest, name = b"", b""
    for folder, sign in ((folder.rstrip(b"/"), sign) for folder, sign in folders):
        if is_of_service and sign == b"$HOME" and not path.startswith(folder + b"/."):
            continue
        if folder.startswith(b"/") and (path + b"/").startswith(folder + b"/") and len(folder) > len(deepest):
            deepest, name = folder, sign
    return name + path[len(deepest) :]


def _value(name: bytes, environment: Sequence[bytes]) -> bytes:
    """Return the value of an environment variable, or what programs take without it: /tmp for TMPDIR (tmpfile(3), mktemp(1)),
    also if that is no folder, or one in which this user may make no file; the folder that pam_systemd(8) makes for sockets."""
    prefix = name + b"="
    value = next((entry[len(prefix) :] for entry in environment if entry.startswith(prefix)), b"")
    if name == b"TMPDIR" and value.startswith(b"/") and not (os.path.isdir(value) and _is_writable(value)):
        value = b""
    if value or name == b"HOME":
        return value
    return b"/tmp" if name == b"TMPDIR" else b"/run/user/%d" % os.geteuid()


_REAL: dict[bytes, bytes] = {}


def _real(folder: bytes) -> bytes:
    """Return where a folder was when first looked at, without links: homes may be below one (/home, which is /var/home)."""
    if folder not in _REAL:
        _REAL[folder] = real_path(folder) if folder.startswith(b"/") else folder
    return _REAL[folder]


_WRITABLE: dict[bytes, bool] = {}


def _is_writable(folder: bytes) -> bool:
    """Return whether this user may make files in a folder, as it was when first looked at: the helper, which can make few calls
    and has lost its capabilities, goes by what was found before (`look`)."""
    if folder not in _WRITABLE:
        _WRITABLE[folder] = os.access(folder, os.W_OK | os.X_OK)
    return _WRITABLE[folder]


def look(environment: Sequence[bytes]) -> None:
    """Find out what the named folders are, for the helper."""
    for name in _NAMED:
        _real(_value(name, environment))
