"""Make Landlock rules of paths and ports, and confine this process by them just before its execve (landlock(7)).

The helper is cloned before and has no such rules, so it may look into the program (ptrace(2) denies that across domains).
Loaded only for policies that confine files or ports.

Instructions before the program's filter close the ways past Landlock.  It judges what a file is opened for
(security/landlock/fs.c), and the third access mode of open(2) is for neither reading nor writing: ioctl(2) and fchmod(2) then
work on files that no rule grants.  It judges connect(2) and bind(2) of plain TCP sockets (security/landlock/net.c).
sendto(2), sendmsg(2) and sendmmsg(2) with MSG_FASTOPEN connect as well; MPTCP and SMC sockets fall back to TCP, RDS has the
kernel connect, and TCP_ULP makes an SMC socket of a TCP one (Linux 5.17 to 6.19).  So these fail as on a kernel that has them
switched off, and programs then do what they do there.  openat2(2) and io_uring take all of that in memory, where no filter
sees it: where the filter might let them run, they fail as on an older kernel.
"""

from __future__ import annotations

import errno
import os
import stat

from callfence.enforcer import kernel
from callfence.enforcer.bpf import AND, ARGUMENTS, EQUAL, HAS, JUMP, LOAD
from callfence.enforcer.confinement import grant_moving
from callfence.enforcer.errors import EnforceError, refused
from callfence.enforcer.guard import FAST_OPEN, Check, guard
from callfence.policygen.files import landlock
from callfence.policygen.files.landlock import OWN_FOLDERS, PlaceError, located, of_process
from callfence.tracer import TYPE_CHECKING, linux
from callfence.tracer.machine import MACHINE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_PROC, _SYSFS = 0x9FA0, 0x62656572  # PROC_SUPER_MAGIC, SYSFS_MAGIC (linux/magic.h)
_NOT_THERE = (errno.ENOENT, errno.ENOTDIR)
_CHANGES = ~(landlock.READ_FILE | landlock.READ_DIR | landlock.EXECUTE | landlock.IOCTL_DEV)


class GrantError(EnforceError):
    """A policy has a line about a file that no Landlock rule can express."""

    def __init__(self, path: bytes, text: str) -> None:
        """`path`: the path as the policy writes it."""
        super().__init__(text)
        self.path = path


class Confinement:
    """The Landlock rulesets of one or more policies, ready to confine this process."""

    __slots__ = (
        "_files", "_ports", "_process", "_rulesets", "confines_listen", "confining", "held", "is_whole", "name", "remarks",
        "scope",
    )  # fmt: skip

    def __init__(
        self,
        encoded: Sequence[bytes],
        environment: Sequence[bytes],
        *,
        best_effort: bool,
        scope: int = 0,
        makes_calls: bool = False,
        process: int = 0,
    ) -> None:
        """Create a ruleset for each policy in `encoded` (`landlock.encode`).  `scope`: LANDLOCK_SCOPE_* of the first ruleset.
        `makes_calls`: the helper makes the program's connections.  `process`: the id of the process that
        becomes the program, if not this one.

        Raises EnforceError for what this kernel cannot enforce, unless `best_effort`; GrantError for a line that no rule can
        express; and KernelError."""
        self.remarks: list[str] = []
        """Warnings for the user, one line each."""
        self.is_whole = True
        """Whether this kernel enforces all rules."""
        self._process = process
        self._rulesets: list[int] = []
        self.held: list[int] = []
        """Descriptors of granted files of procfs, to be open as long as the program runs: the kernel drops what nobody has open
        when it needs memory, and makes another inode at the next look-up, for which there is no rule (fs/proc/generic.c)."""
        self.confining: list[int] = []
        """The index in `encoded` of each ruleset."""
        self.name: Callable[[int], bytes] | None = None
        """Returns the name of this thread while it enters a ruleset, by which audit records are found
        (`enforcer.reporting.audit`); None if they are not read."""
        self.confines_listen = False
        """Whether listen(2) on a socket without a port has to be denied, because port 0 is not granted."""
        self.scope = scope
        """The LANDLOCK_SCOPE_* bits that no ruleset has yet."""
        self._ports = 0
        """The confined uses of TCP ports: CONNECT_TCP, BIND_TCP."""
        version = kernel.landlock_abi()
        try:
            each = [landlock.downgrade(landlock.decode(content), version, makes_calls=makes_calls) for content in encoded]
            self._files = any(effective.handled_files for effective in each)
            for index, effective in enumerate(each):
                if effective.lacking:
                    self._lacking(effective.lacking, version, best_effort=best_effort)
                self._ports |= effective.handled_ports
                if effective.handled_ports & landlock.BIND_TCP:
                    self.confines_listen |= all(first > 0 for first, _ in effective.rules.bind or ())
                if effective.handled_files or effective.handled_ports:
                    self._rulesets.append(self._create_ruleset(effective, environment))
                    self.confining.append(index)
        except OSError as error:
            raise refused(error) from error

    def guarded(self, filter_: bytes, *, reports: bool) -> bytes:
        """Return the program's filter after instructions that deny the ways past Landlock to files and TCP ports.

        With `reports`, the helper answers the filter's notifications."""
        connect, bind = (bool(self._ports & bit) for bit in (landlock.CONNECT_TCP, landlock.BIND_TCP))
        if not (self._files or connect or bind):
            return filter_
        return guarded(filter_, files=self._files, connect=connect, bind=bind, reports=reports)

    def rulesets(self) -> list[tuple[int, int, bytes]]:
        """Return the descriptor of each ruleset, the LANDLOCK_RESTRICT_SELF_* with which it is entered, and the name that the
        thread has meanwhile, b"" for its own; with a name, `kernel.shares_files` with the kernel's thread follows, as a first
        denial: no domain lets look at processes outside."""
        if self.name is None:
            return [(ruleset, 0, b"") for ruleset in self._rulesets]
        flags = linux.LANDLOCK_RESTRICT_SELF_LOG_NEW_EXEC_ON
        return [(ruleset, flags, self.name(index)) for index, ruleset in enumerate(self._rulesets)]

    def enter(self) -> None:
        """Confine this process and what it starts for good.  This needs no_new_privs.  Raises KernelError."""
        try:
            for ruleset, flags, name in self.rulesets():
                if name:
                    kernel.set_name(name)
                kernel.landlock_enter(ruleset, flags)
                if name:
                    kernel.shares_files(os.getpid(), linux.KTHREADD)
        except OSError as error:
            raise refused(error) from error

    def _lacking(self, lacking: Sequence[str], version: int, *, best_effort: bool) -> None:
        text = f"this kernel has version {version} of Landlock, which cannot {', nor '.join(lacking)}"
        if not version:
            text = "this kernel has no Landlock, or it is switched off, so the policy's files and ports cannot be enforced"
        if not best_effort:
            raise EnforceError(f"{text}; --best-effort runs the program without that")
        self.remarks.append(f"{text}; the program runs without that (--best-effort)")
        self.is_whole = False

    def _create_ruleset(self, effective: landlock.Effective, environment: Sequence[bytes]) -> int:
        grants_moving = self._files and not effective.handled_files  # files are another ruleset's
        handled = landlock.REFER if grants_moving else effective.handled_files
        ruleset = kernel.landlock_ruleset(handled, effective.handled_ports, self.scope)
        self.scope = 0
        if grants_moving:
            grant_moving(ruleset)
        places: list[tuple[bytes, bytes, int]] = []
        for path, access in effective.rules.paths or ():
            try:
                places.append((path, of_process(located(path, environment), self._process), access))
            except PlaceError as error:
                raise GrantError(path, str(error)) from error
        with_links = [place for _, place, access in places if access & landlock.MAKE_SYM]
        makes_folders = [place for _, place, access in places if access & landlock.MAKE_DIR]
        for path, place, access in places:
            meant = next(filter(None, (_without_links(place, folder) for folder in with_links)), b"")
            makes = path in OWN_FOLDERS and access & _CHANGES and any(_is_in(place, folder) for folder in makes_folders)
            self._grant(ruleset, path, place, access, meant, makes=bool(makes))
        for path, device, access in landlock.UNLISTED:
            if effective.handled_files and (descriptor := unlisted(path, device)) is not None:
                kernel.landlock_allow_path(ruleset, access & effective.handled_files, descriptor)
                self._close(descriptor)
        for bit, ports in ((landlock.CONNECT_TCP, effective.rules.connect), (landlock.BIND_TCP, effective.rules.bind)):
            for first, last in ports or ():
                kernel.landlock_allow_ports(ruleset, bit, first, last)
        return ruleset

    def _grant(self, ruleset: int, line: bytes, path: bytes, access: int, meant: bytes, *, makes: bool) -> None:
        """Add the rule for one path to a ruleset.  A missing file gets none, with a remark if the line would let the program
        change it; with `makes`, a missing folder is created.  Nor does a path that leads elsewhere than to `meant`, if that is
        given.  Raises GrantError, OSError."""
        try:
            if makes:
                os.makedirs(path, 0o700, exist_ok=True)
            descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError as error:
            if error.errno not in _NOT_THERE or access & _CHANGES:
                self.remarks.append(f"path {os.fsdecode(line)} grants nothing: {os.fsdecode(path)}: {error.strerror}")
            return
        try:
            if meant and _real(descriptor, path) != meant:
                text = "it is reached by a symbolic link, and the program may make such links there"
                self.remarks.append(f"path {os.fsdecode(line)} grants nothing: {text}")
                return
            if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
                listing = landlock.READ_DIR if access & landlock.READ_FILE else 0  # `read` says it of a file, too
                if excess := access & ~(landlock.OF_A_FILE | listing):
                    words = [word for word, bits in landlock.ACCESS.items() if bits & -bits & excess]
                    rights = ", ".join(words)
                    raise GrantError(line, f"path {os.fsdecode(line)} is no folder, and only a folder can be granted {rights}")
                access &= landlock.OF_A_FILE
            kernel.landlock_allow_path(ruleset, access, descriptor)
            if b"/" in line and not line.startswith(b"/"):
                self._look_for_links(line, path, descriptor)
        except OSError as error:
            if error.errno != errno.EBADFD:
                raise
            text = f"path {os.fsdecode(line)} is a pipe or a socket in no folder, which Landlock cannot grant: remove the line"
            raise GrantError(line, text) from error
        finally:
            self._close(descriptor)

    def _close(self, descriptor: int) -> None:
        """Close a granted file, unless it is to be held and there is room: starting the program takes descriptors, too."""
        if kernel.file_system(descriptor) == _PROC and descriptor < os.sysconf("SC_OPEN_MAX") // 2:
            self.held.append(descriptor)
        else:
            os.close(descriptor)

    def _look_for_links(self, line: bytes, path: bytes, descriptor: int) -> None:
        """Add a remark if the path, which is below a named folder, leads outside of it by a symbolic link.

        Links below the path need no look: Landlock judges the file that they lead to."""
        try:
            real = os.readlink(b"/proc/self/fd/%d" % descriptor)
        except OSError:  # /proc is not mounted
            return
        start, _, rest = line.partition(b"/")
        folder = landlock.here() if start == b"." else path[: -len(rest) - 1]
        if real == folder + b"/" + rest:
            return
        folder = os.path.realpath(folder).rstrip(b"/") + b"/"
        if not real.startswith(folder):
            name, place = os.fsdecode(line), os.fsdecode(real)
            self.remarks.append(f"path {name} leads to {place} by a symbolic link, and grants that")


def _is_in(path: bytes, folder: bytes) -> bool:
    """Return whether a path is that of a folder, or below it."""
    return path == folder or path.startswith(folder.rstrip(b"/") + b"/")


def _without_links(path: bytes, folder: bytes) -> bytes:
    """Return where a path leads if no symbolic link below a folder is on the way; b"" if it is not below the folder.

    An earlier run may have made such a link, if the policy lets the program make some in the folder."""
    path, real = os.path.abspath(path), os.path.realpath(folder)
    for above in (os.path.abspath(folder).rstrip(b"/") + b"/", real.rstrip(b"/") + b"/"):
        if path.startswith(above) and path != above:
            return real.rstrip(b"/") + b"/" + path[len(above) :]
    return b""


def unlisted(path: bytes, device: tuple[int, int] | None) -> int | None:
    """Return a descriptor of the character device with that path and number, or of the file of sysfs or procfs if `device` is
    None; None if something else is there."""
    try:
        descriptor = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    status = os.fstat(descriptor)
    if device is None:
        is_it = stat.S_ISREG(status.st_mode) and kernel.file_system(descriptor) in {_PROC, _SYSFS}
    else:
        is_it = stat.S_ISCHR(status.st_mode) and status.st_rdev == os.makedev(*device)
    if is_it:
        return descriptor
    os.close(descriptor)
    return None


def _real(descriptor: int, path: bytes) -> bytes:
    """Return the path of an open file, with symbolic links resolved."""
    try:
        return os.readlink(b"/proc/self/fd/%d" % descriptor)
    except OSError:  # /proc is not mounted
        return os.path.realpath(path)


_TCP_ULP = 31  # linux/tcp.h

# The calls that are looked at.  What a program of i386 hands to socketcall is in memory, and its C libraries have no other way
# to sockets.
_SOCKETS = {
    "socket": Check(
        MACHINE.numbers_by_arch("socket"),
        [
            (LOAD, ARGUMENTS),
            *((EQUAL, family, "family", "") for family in linux.TCP_FAMILIES),
            (LOAD, ARGUMENTS + 8 * 2),
            *((EQUAL, protocol, "protocol", "") for protocol in linux.TCP_PROTOCOLS),
            (JUMP, "end"),
        ],
    ),
    "setsockopt": Check(
        MACHINE.numbers_by_arch("setsockopt"),
        [
            (LOAD, ARGUMENTS + 8 * 1),
            (EQUAL, linux.IPPROTO_TCP, "", "end"),
            (LOAD, ARGUMENTS + 8 * 2),
            (EQUAL, _TCP_ULP, "no option", "end"),
        ],
    ),
}
_OPENS = {
    "open": Check(MACHINE.numbers_by_arch("open"), [(LOAD, ARGUMENTS + 8 * 1), (JUMP, "flags")]),
    "openat": Check(
        MACHINE.numbers_by_arch("openat", "open_by_handle_at"),
        [
            (LOAD, ARGUMENTS + 8 * 2),
            "flags",
            (HAS, os.O_PATH, "end", ""),  # which ignores the access mode
            (AND, os.O_ACCMODE),
            (EQUAL, os.O_ACCMODE, "mode", "end"),
        ],
    ),
}


def guarded(filter_: bytes, *, files: bool, connect: bool, bind: bool, reports: bool) -> bytes:
    """Return the filter after instructions that fail calls which get past Landlock.

    `files`, `connect` and `bind` are what Landlock confines.  With `reports`, calls that the filter answers by
    SECCOMP_RET_USER_NOTIF do not run."""
    checks = {**(_OPENS if files else {}), **(_SOCKETS if connect or bind else {}), **(FAST_OPEN if connect else {})}
    opaque = ["openat2"] * files + ["io_uring_setup"] * (files or connect or bind)
    return guard(filter_, checks, opaque, reports=reports)
